"""What a user gets wrong is one line that names it, exit code 2, and nothing half-written."""

import errno
import io
import shutil

import pytest
from PIL import Image

from phantrol.cli_group import refuse_empty_options


def png(size=(64, 64)):
    buffer = io.BytesIO()
    Image.effect_noise(size, 80).convert("RGB").save(buffer, "PNG")
    return buffer.getvalue()


def check(done, *words):
    assert done.code == 2, (done.code, done.out, done.error)
    lines = done.error.strip().splitlines()
    complaint = lines[-1]
    assert complaint.startswith("phantrol: ") and sum(line.startswith("phantrol: ") for line in lines) == 1
    assert "Traceback" not in done.error
    for word in words:
        assert word in complaint, complaint


@pytest.mark.parametrize(
    ("content", "word"),
    [(None, "no such file"), (b"", "empty"), (b"a text", "not a picture"), (png()[:500], "broken")],
)
def test_pictures(here, phantrol, content, word):
    if content is not None:
        (here / "bad.png").write_bytes(content)
    else:
        (here / "bad.png").unlink(missing_ok=True)
    check(phantrol("ask", "runs/demo/final", "bad.png", "What?"), "bad.png", word)


@pytest.mark.parametrize(
    "words", [("ask", "runs/demo/final", "a" * 300, "What?"), ("data", "export", "a" * 300, "--count", 1)]
)
def test_a_name_that_is_too_long(here, phantrol, words):
    check(phantrol(*words), "a" * 300, "too long")


@pytest.mark.parametrize("size", [(1, 1), (10_000, 1)])
def test_extreme_pictures_work(here, phantrol, size):
    Image.new("RGB", size, "red").save(here / "odd.png")
    assert phantrol("ask", "runs/demo/final", "odd.png", "What?", "--max-new-tokens", 1).code == 0


def test_a_question_without_text(here, phantrol):
    for question in ("", "   "):
        check(phantrol("ask", "runs/demo/final", "runs/demo/picture.png", question), "question without text")


def test_a_question_that_was_forgotten(here, phantrol):
    picture = "runs/demo/picture.png"
    remedy = f'phantrol ask runs/demo/final {picture} "QUESTION"'
    check(phantrol("ask", "runs/demo/final", picture), f"{picture} is a file and no question follows: {remedy}")
    assert phantrol("ask", "runs/demo/final", "What? " * 50, "--max-new-tokens", 1).code == 0  # no name is so long


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"x = 1\ndef recipe(:\n", ", line 2: invalid syntax"),
        (b'x = "\xe9"\n', "'utf-8' codec can't decode"),
        (b"x = 1\0\n", "null bytes"),
        (b"import os\nimport no_such_module\n", ", line 2: No module named 'no_such_module'; install it"),
    ],
)
def test_a_recipe_that_python_cannot_read(phantrol, tmp_path, text, said):
    (tmp_path / "mine.py").write_bytes(text)
    check(phantrol("train", tmp_path / "mine.py"), f"{tmp_path / 'mine.py'}", said)


def test_a_mistake_within_a_recipe_keeps_its_frames(phantrol, tmp_path):
    (tmp_path / "mine.py").write_text("def recipe():\n    return 1 / 0\n")
    with pytest.raises(ZeroDivisionError):
        phantrol("train", tmp_path / "mine.py")
    (tmp_path / "other.py").write_text("import ast\nast.literal_eval('1 +')\n")
    with pytest.raises(SyntaxError):
        phantrol("train", tmp_path / "other.py")
    (tmp_path / "third.py").write_text("raise SyntaxError('mine')\n")
    with pytest.raises(SyntaxError, match="mine"):
        phantrol("train", tmp_path / "third.py")


def test_dry_run_of_data_that_is_not_there(here, phantrol):
    model = "model=runs/demo/final"
    check(phantrol("train", "finetune_lora", model, "data=nix.json", "--dry-run"), "no file nix.json")


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["frobnicate"], ["frobnicate"]),
        (["list", "--frobnicate"], ["--frobnicate"]),
        (["list", "wishes"], ["wishes", "modifiers"]),
        (["ask"], ["MODEL"]),
        (["train", "no_such_recipe"], ["no_such_recipe", "primer_tiny"]),
        (["train", "missing.py"], ["missing.py"]),
        (["train", "primer_tiny", "stages.tune.speed=1", "--dry-run"], ["speed", "lr"]),
        (["train", "primer_tiny", "stages.tune.lr=fast", "--dry-run"], ["lr", "fast"]),
        (["train", "primer_tiny", "stages.9.lr=1", "--dry-run"], ["9"]),
        (["train", "primer_tiny", "stages.tune.lr", "--dry-run"], ["stages.tune.lr", "KEY=VALUE"]),
        (["eval", "runs/demo/final", "no_such_benchmark"], ["no_such_benchmark", "primer"]),
        (["eval", "runs/demo/final", "primer", "--split", "tomorrow"], ["tomorrow", "val"]),
        (["eval", "runs/demo/final", "primer", "tasks=flying"], ["flying", "shape"]),
        (["eval", "runs/demo/final", "primer", "wings=2"], ["wings", "tasks"]),
        (["eval", "runs/demo/final", "primer", "scenes=dreams"], ["dreams", "sprites"]),
        (["eval", "./nowhere", "primer"], ["nowhere"]),
        (["describe", "./nowhere"], ["nowhere"]),
        (["ask", "no/where", "What?"], ["no/where is no folder here", "hub"]),
        (["ask", "runs/demo/final", b"What \xff?".decode("utf-8", "surrogateescape")], ["character 6", "UTF-8"]),
        (["eval", "runs/demo/final", "primer", "--limit", "one"], ["--limit", "integer"]),
        (["ask", "runs/demo/final", "runs/demo", "What?"], ["picture runs/demo is a folder"]),
        (["ask", "runs/demo/final", "https://a.b/c.png", "What?"], ["is an address", "fetch it first"]),
        (["train", "runs/demo/picture.png"], ["got a file, expected a path that ends in .py"]),
        (["eval", "runs/demo/final", "runs/demo/scores.json"], ["got a file, expected a path that ends in .py"]),
        (["eval", "runs/demo/final", "pope", "--data", "runs/demo/picture.png"], ["picture.png is a file"]),
        (["train", "primer_tiny", "--out", "runs/demo/picture.png"], ["picture.png: got a file, expected"]),
        (["eval", "compare", "runs/demo", "runs/demo"], ["runs/demo is a folder: expected a file"]),
        (["data", "check", ""], ["got an empty name"]),
    ],
)
def test_names_keys_and_values(here, phantrol, args, words):
    check(phantrol(*args), *words)


@pytest.mark.parametrize(
    ("name", "content", "word"),
    [
        ("model.safetensors", None, "missing"),
        ("model.safetensors", b"", "empty"),
        ("model.safetensors", b"\x10\x00\x00\x00\x00\x00\x00\x00{", "cannot be loaded"),
        ("config.json", b"{", "broken"),
        ("tokenizer.json", None, "missing"),
    ],
)
def test_a_model_folder_with_a_missing_or_corrupt_file(here, phantrol, tmp_path, name, content, word):
    folder = tmp_path / "copy"
    shutil.copytree(here / "runs" / "demo" / "final", folder)
    (folder / name).unlink()
    if content is not None:
        (folder / name).write_bytes(content)
    check(phantrol("ask", folder, "What?"), word)


@pytest.mark.parametrize(("number", "words"), [(errno.EPERM, "no permission"), (errno.ELOOP, "lead to each other")])
def test_a_folder_that_takes_no_file(phantrol, tmp_path, monkeypatch, number, words):
    def refuse(self, *_, **__):
        raise OSError(number, "", str(self))

    monkeypatch.setattr("pathlib.Path.mkdir", refuse)
    check(phantrol("train", "primer_tiny", "--out", tmp_path / "run"), words, str(tmp_path / "run"))


def test_no_room_on_the_disk(here, phantrol, monkeypatch):
    from phantrol.evals.report import Report

    def full(self, path):
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(Report, "write", full)
    done = phantrol("eval", "runs/demo/final", "primer", "tasks=shape", "--limit", 2, "--json", "full.json")
    check(done, "no room on the disk", "full.json")
    assert not (here / "full.json").exists()


def test_a_file_that_scores_would_replace(here, phantrol):
    (here / "mine.json").write_text('[{"image": "a.png"}]')
    done = phantrol("eval", "runs/demo/final", "primer", "tasks=shape", "--limit", 2, "--json", "mine.json")
    check(done, "mine.json holds no results", "write elsewhere with --json")
    assert (here / "mine.json").read_text() == '[{"image": "a.png"}]'


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["calibrat"], "Did you mean 'calibrate'? Try: phantrol --help"),
        (["data", "exporrt"], "Did you mean 'export'? Try: phantrol data --help"),
        (["calibrate", "a", "b", "--limit", 3], "No such option: --limit. Try: phantrol calibrate --help"),
    ],
)
def test_a_word_that_is_wrong_names_the_help_of_its_verb(phantrol, args, words):
    done = phantrol(*args)
    said = done.error.strip().replace("option '--limit'", "option: --limit")  # as older typer writes it
    assert done.code == 2 and said.endswith(words)


@pytest.mark.parametrize(("args", "words"), [([], "and a paired test."), (["data"], "or by rules.")])
def test_no_word_at_all_is_answered_with_the_help_as_it_is(phantrol, args, words):
    done = phantrol(*args)
    assert done.code == 2 and done.error.startswith(" ".join(["Usage: phantrol", *args]))
    assert words in done.error, "no sentence is cut short"


@pytest.mark.parametrize(
    ("args", "option"),
    [
        (["train", "primer_tiny", "--out", "", "seed=1"], "--out"),
        (["demo", "--out="], "--out"),
        (["data", "triples", "a.json", "--rules", "--out", ""], "--out"),
        (["eval", "runs/demo/final", "primer", "--json", ""], "--json"),
    ],
)
def test_an_option_with_nothing_is_not_the_current_folder(here, phantrol, args, option):
    before = sorted(here.rglob("*"))
    check(phantrol(*args), f"{option}: got an empty word")
    assert sorted(here.rglob("*")) == before


def test_what_another_program_is_given_may_be_empty():
    refuse_empty_options(["eval", "lmms", "model", "task", "--limit", "2", "--", "--include_path", "", "--x="])


def test_ctrl_c_is_one_word(phantrol, monkeypatch):
    def interrupted():
        raise KeyboardInterrupt

    monkeypatch.setattr("phantrol.doctor.examine", interrupted)
    done = phantrol("doctor")
    assert (done.code, done.error) == (130, "phantrol: stopped\n")
