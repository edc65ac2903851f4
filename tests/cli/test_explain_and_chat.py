"""`phantrol explain` and `phantrol chat`, as their user types them."""

from __future__ import annotations

import contextlib
import io
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image
from rich.console import Console

MODEL, PICTURE = "runs/demo/final", "runs/demo/picture.png"
ON_LINUX = pytest.mark.skipif(sys.platform != "linux", reason="a folder where nobody can make a file")


def test_explain_writes_a_figure_and_says_what_it_shows(here, phantrol):
    done = phantrol("explain", MODEL, PICTURE, "What color is it?", "--out", "maps/why.png", "--max-new-tokens", 3)
    assert done.code == 0, done.error
    for words in ("Looked twice: w is", "The phantom adds", "maps/why.png"):
        assert words in done.out
    with Image.open(here / "maps" / "why.png") as figure:
        assert figure.format == "PNG" and figure.width == 2000


def test_the_figure_is_there_though_nobody_reads_what_is_printed(here, phantrol, monkeypatch):
    def gone(*args, **options):
        raise BrokenPipeError

    monkeypatch.setattr(Console, "print", gone)
    done = phantrol("explain", MODEL, PICTURE, "What color is it?", "--out", "unread.png", "--max-new-tokens", 3)
    assert done.code == 141  # as of a program that SIGPIPE ends
    with Image.open(here / "unread.png") as figure:
        assert figure.format == "PNG"


@pytest.mark.parametrize(
    ("args", "word"),
    [
        ([PICTURE, "What?", "--out", "refused.jpg"], ".png"),
        ([PICTURE, "  ", "--out", "refused.png"], "question without text"),
        (["no.png", "What?", "--out", "refused.png"], "no such file"),
        ([PICTURE, "What?", "--out", f"{PICTURE}/refused.png"], "picture.png is no folder"),
        pytest.param([PICTURE, "What?", "--out", "/proc/refused.png"], "no file can be made in /proc", marks=ON_LINUX),
    ],
)
def test_what_explain_refuses(here, phantrol, monkeypatch, args, word):
    monkeypatch.setattr("phantrol.inference.engine.Engine.open", lambda *_: pytest.fail("the model was loaded"))
    done = phantrol("explain", MODEL, *args)
    assert done.code == 2 and word in done.error
    assert not list(here.glob("refused.*"))


def pipe(phantrol, monkeypatch, lines, *args):
    monkeypatch.setattr(sys, "stdin", io.StringIO("".join(line + "\n" for line in lines)))
    return phantrol("chat", MODEL, *args, "--max-new-tokens", 5)


def test_a_piped_conversation(here, phantrol, monkeypatch):
    """Turns, pictures and /clear reach the engine, and only its answers are printed."""
    from phantrol.inference.engine import Engine

    seen = []

    def stream(self, chat, max_new_tokens):
        seen.append([dict(message) for message in chat])
        yield from (f"answer {len(seen)}", " to ", chat[-1]["content"][-1]["text"])

    monkeypatch.setattr(Engine, "stream", stream)
    lines = [
        "What?",
        "",
        "And?",
        f'/image "{PICTURE}"',
        f"/image {PICTURE}",
        "Now?",
        "/clear",
        "New?",
        "/quit",
        "Never?",
    ]
    done = pipe(phantrol, monkeypatch, lines, PICTURE)
    assert done.code == 0, done.error
    said = ["answer 1 to What?", "answer 2 to And?", "answer 3 to Now?", "answer 4 to New?"]
    assert done.out.splitlines() == said
    assert [len(chat) for chat in seen] == [1, 3, 5, 1]
    assert [message["content"] for message in seen[2][1::2]] == said[:2]
    kinds = [[part["type"] for part in chat[-1]["content"]] for chat in seen]
    assert kinds == [["image", "text"], ["text"], ["image", "image", "text"], ["text"]]


@pytest.mark.parametrize("name", ["a\\ b.png", "'quoted.png'", " spaced.png "])
def test_the_picture_of_the_command_line_may_have_any_name(here, phantrol, monkeypatch, tmp_path, name):
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (4, 4)).save(name, "PNG")
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    done = phantrol("chat", here / MODEL, name)
    assert (done.code, done.out, done.error) == (0, "", "")


@pytest.mark.parametrize("typed", ["/image\t~/a b.png", "/image  ~/a\\ b.png", "/image '~/a b.png'"])
def test_a_picture_of_the_home_folder(here, phantrol, monkeypatch, tmp_path, typed):
    monkeypatch.setenv("HOME", str(tmp_path))
    Image.new("RGB", (4, 4)).save(tmp_path / "a b.png")
    done = pipe(phantrol, monkeypatch, [typed])
    assert (done.code, done.out, done.error) == (0, "", "")


@pytest.mark.skipif(os.name != "posix", reason="a backslash separates folders there")
@pytest.mark.parametrize(
    ("name", "typed"),
    [
        ("a (1)&[é].png", r"a\ \(1\)\&\[é\].png"),
        ("it's.png", r"'it'\''s.png'"),
        ("it's.png", r"it\'s.png"),
        (r"a\(1.png", r"a\(1.png"),
        ("'a'", "'a'"),
    ],
)
def test_a_picture_that_is_dragged_into_a_terminal(here, phantrol, monkeypatch, tmp_path, name, typed):
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (4, 4)).save(name, "PNG")
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"/image {typed}\n"))
    done = phantrol("chat", here / MODEL)
    assert (done.code, done.out, done.error) == (0, "", "")


def test_a_script_may_begin_with_a_byte_order_mark(here, phantrol, monkeypatch):
    done = pipe(phantrol, monkeypatch, ["\ufeff/image no.png"])
    assert done.code == 2 and "no such file" in done.error


def test_a_closed_input_is_an_empty_one(here, phantrol, monkeypatch):
    monkeypatch.setattr(sys, "stdin", None)
    done = phantrol("chat", MODEL, PICTURE)
    assert (done.code, done.out, done.error) == (0, "", "")


def test_a_piped_question_gets_the_engine_s_answer(here, phantrol, monkeypatch):
    from phantrol.inference.engine import Engine

    done = pipe(phantrol, monkeypatch, ["New?"])
    answer = Engine.open(MODEL).answer([{"role": "user", "content": "New?"}], max_new_tokens=5)
    assert (done.code, done.out) == (0, answer.text + "\n")


@pytest.mark.parametrize(
    ("line", "word"),
    [("/frobnicate", "/image FILE"), ("/image", "without a file"), ("/image no.png", "no such file")],
)
def test_a_mistake_in_a_pipe_ends_it(here, phantrol, monkeypatch, line, word):
    done = pipe(phantrol, monkeypatch, [line, "What?"])
    assert (done.code, done.out) == (2, "") and word in done.error


def test_a_wrong_picture_is_said_before_the_model_is_loaded(here, phantrol, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    done = phantrol("chat", "./nowhere", "no.png")
    assert done.code == 2 and "no.png" in done.error


def test_a_refused_question_changes_nothing_and_a_stopped_answer_stays(here, monkeypatch):
    from phantrol.chatting import Conversation
    from phantrol.inference.engine import Engine

    talk = Conversation(Engine.open(MODEL), max_new_tokens=3)
    talk.show(PICTURE)
    with pytest.raises(ValueError, match="reads at most"):
        list(talk.ask("word " * 3000))
    assert talk.turns == [] and len(talk.waiting) == 1
    closed = []

    def words(chat, max_new_tokens):
        try:
            yield from ("a ", "long ", "story")
        finally:
            closed.append(len(chat))

    monkeypatch.setattr(talk.engine, "stream", words)
    answer = talk.ask("What?")
    assert next(answer) + next(answer) == "a long "
    answer.close()
    assert talk.turns[-1] == {"role": "assistant", "content": "a long "} and talk.waiting == [] and closed == [1]
    monkeypatch.undo()
    list(talk.ask("And then?"))
    assert [message["role"] for message in talk.turns] == ["user", "assistant"] * 2


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize(
    ("file", "shown"), [(Terminal, "a\tb\n\ufffd\ufffd]52;c\ufffd\ufffd\ufffdé"), (io.StringIO, None)]
)
@pytest.mark.parametrize("beams", [None, 1, 2])
def test_what_a_model_says_cannot_drive_a_terminal(monkeypatch, file, shown, beams):
    from phantrol import chatting, cli
    from phantrol.inference.engine import Engine

    said, out = "a\tb\n\r\x1b]52;c\x07\x7f\x9bé", file()
    engine = SimpleNamespace(stream=lambda *_, **__: iter(said), answer=lambda *_, **__: SimpleNamespace(text=said))
    monkeypatch.setattr(Engine, "open", lambda *_: engine)
    with contextlib.redirect_stdout(out):
        if beams:
            monkeypatch.setattr(cli.typer, "echo", lambda words="", nl=True: print(words, end="\n" * nl))
            cli.ask("model", ["What?"], max_new_tokens=9, weights=None, beams=beams)
        else:
            talk = SimpleNamespace(ask=lambda _: (each for each in said))
            chatting._answer(talk, "What?", Console(file=out), by_hand=True)
    assert out.getvalue().removesuffix("\n") == (shown or said)


ENDLESS = """
import sys, time, torch
from phantrol.inference import engine

def generate(self, prompts, max_new_tokens, options, streamer, stop):
    streamer.put(torch.tensor([0]))
    for _ in range(30_000):
        streamer.put(torch.tensor([self.processor.tokenizer.convert_tokens_to_ids("z")]))
        time.sleep(0.01)
        if stop.asked.is_set():
            break
    return [engine.Answer("", 1, 1, "stop")]

engine.Engine._generate = generate
sys.argv = ["phantrol", "chat", *sys.argv[1:]]
from phantrol.cli import main
main()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no pseudo-terminals")
def test_in_a_terminal_control_c_stops_the_answer_and_control_d_ends(here):
    import pty

    ours, theirs = pty.openpty()
    source = str(Path(__file__).parents[2] / "src")
    environment = {**os.environ, "PYTHONPATH": source, "TERM": "xterm", "COLUMNS": "100"}
    command = [sys.executable, "-c", ENDLESS, MODEL, PICTURE]

    def listen() -> None:
        """Let Ctrl-C reach the child: the terminal is its own, and whoever runs the tests may ignore the signal."""
        os.close(os.open(os.ttyname(0), os.O_RDWR))
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    child = subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment, start_new_session=True, preexec_fn=listen
    )
    os.close(theirs)
    said = b""  # bytes: in a locale without UTF-8 readline writes the prompt's sign byte by byte

    def until(words, seconds=240.0, pressing=b""):
        """Read on until the words stand there, pressing a key every few seconds where one is named."""
        nonlocal said
        begins, pressed = time.monotonic(), 0
        while words.encode() not in said:
            assert time.monotonic() < begins + seconds, said
            if pressing and time.monotonic() > begins + 3 * pressed:
                os.write(ours, pressing)
                pressed += 1
            if select.select([ours], [], [], 0.2)[0]:
                try:
                    said += os.read(ours, 65536)
                except OSError:  # Linux's way to say that the other side has closed
                    break
        assert words.encode() in said, said
        found, _, said = said.partition(words.encode())
        return found.decode()

    try:
        assert "shown with the next question" in until("› ")
        os.write(ours, b"What is it?\n")  # the terminal echoes it: nothing of the answer may stand in it
        until("zzz")
        os.write(ours, b"\x03")
        until("(stopped)")
        until("› ")
        os.write(ours, b"/frobnicate\n")
        until("unknown command")
        until("› ")
        # Python's readline loses a signal that comes between writing its prompt and listening: press again
        until("Ctrl-D or /quit ends", pressing=b"\x03")
        until("› ")
        os.write(ours, b"\x04")
        assert child.wait(240) == 0
    finally:
        child.kill()
        child.wait()
        os.close(ours)
