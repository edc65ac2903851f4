"""`phantrol chat`: talk with a model in the terminal, or let a script talk with it through a pipe.

A line that begins with a slash is a command, any other a question. In a terminal Ctrl-C stops an answer, and what was
said until then stays in the conversation; Ctrl-D ends. Through a pipe only answers are printed, and the first mistake
ends it, so that a script sees it.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from phantrol.harmless import harmless
from phantrol.inference.engine import Engine
from phantrol.models.image_processing import load_picture

HELP = """/image FILE   show a picture with the next question (several: say it again)
/clear        begin anew
/help         these lines
/quit         end, as Ctrl-D does; Ctrl-C stops an answer"""
PROMPT = "› "


class Conversation:
    """The turns so far, and the pictures that wait for the next question."""

    def __init__(self, engine: Engine, max_new_tokens: int):
        self.engine, self.max_new_tokens = engine, max_new_tokens
        self.turns: list[dict[str, Any]] = []
        self.waiting: list[Any] = []

    def show(self, path: str | Path) -> tuple[int, int]:
        """Add a picture to the next question and return its size in pixels. Raises ValueError as `load_picture`."""
        picture = load_picture(path, self.engine.processor.image_processor.max_pixels)
        self.waiting.append(picture)
        return picture.size

    def clear(self) -> None:
        self.turns, self.waiting = [], []

    def ask(self, question: str) -> Iterator[str]:
        """Yield the answer in pieces. Question and answer stay, also where the answer is stopped midway.

        Raises ValueError, and changes nothing, for a question that the engine refuses.
        """
        pictures = [{"type": "image", "image": picture} for picture in self.waiting]
        turn = {"role": "user", "content": [*pictures, {"type": "text", "text": question}]}
        stream = self.engine.stream([*self.turns, turn], max_new_tokens=self.max_new_tokens)
        self.waiting = []
        self.turns.append(turn)
        said = ""
        try:
            for piece in stream:
                said += piece
                yield piece
        finally:
            stream.close()
            self.turns.append({"role": "assistant", "content": said})


def chat(model: str, image: Path | None, max_new_tokens: int, weights: str | None) -> None:
    """Talk until the input ends.

    Raises ValueError for a model or picture that cannot be loaded; and for any mistake where input comes from a pipe.
    """
    if image is not None:
        load_picture(image)  # a wrong name is said before a model is loaded
    by_hand = sys.stdin is not None and sys.stdin.isatty()
    console = Console(highlight=False, soft_wrap=True)
    if by_hand:
        with console.status("opening the model"):
            conversation = Conversation(Engine.open(model, weights), max_new_tokens)
        console.print(f"[bold]{escape(conversation.engine.name or model)}[/]  [dim]/help says what can be typed[/]")
    else:
        conversation = Conversation(Engine.open(model, weights), max_new_tokens)
    if image is not None:
        _show(conversation, image, console, by_hand)  # as it is: nobody typed quotes or backslashes around it
    for line in _lines(console, by_hand):
        try:
            if not _do(conversation, line, console, by_hand):
                break
        except ValueError as error:
            if not by_hand:
                raise
            console.print(f"[red]{escape(str(error))}[/]")


def _do(conversation: Conversation, line: str, console: Console, by_hand: bool) -> bool:
    """Do what a line says. Return False if it ends the conversation."""
    line = line.strip()
    if not line:
        return True
    word, *rest = line.split(None, 1)
    if not word.startswith("/"):
        _answer(conversation, line, console, by_hand)
    elif word == "/quit":
        return False
    elif word == "/clear":
        conversation.clear()
        _remark(console, by_hand, "cleared")
    elif word == "/help":
        _remark(console, by_hand, HELP)
    elif word == "/image":
        if not rest:
            raise ValueError("/image without a file: expected, for example, /image picture.png")
        _show(conversation, _typed_path(rest[0]), console, by_hand)
    else:
        raise ValueError(f"unknown command {word}: expected /image FILE, /clear, /help or /quit")
    return True


def _show(conversation: Conversation, path: str | Path, console: Console, by_hand: bool) -> None:
    width, height = conversation.show(path)
    _remark(console, by_hand, f"{width} x {height} px, shown with the next question")


def _answer(conversation: Conversation, question: str, console: Console, by_hand: bool) -> None:
    answer = conversation.ask(question)
    try:
        for piece in answer:
            console.file.write(harmless(piece, console.file))
            console.file.flush()
        console.file.write("\n")
    except KeyboardInterrupt:
        if not by_hand:
            raise
        console.print(" [dim](stopped)[/]")
    finally:
        answer.close()
        console.file.flush()


def _lines(console: Console, by_hand: bool) -> Iterator[str]:
    """Yield what is typed or piped, line by line, until the input ends."""
    if not by_hand:
        for line in sys.stdin or ():  # None if it was closed before
            yield line.removeprefix("\ufeff")  # the byte-order mark that some editors put before a script
        return
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401  it gives `input` a history and the arrow keys
    while True:
        try:
            yield input(PROMPT)
        except KeyboardInterrupt:
            console.print("[dim](Ctrl-D or /quit ends)[/]")
        except EOFError:
            console.print()
            return


def _remark(console: Console, by_hand: bool, words: str) -> None:
    if by_hand:
        console.print(words, style="dim", markup=False)


def _typed_path(typed: str) -> str:
    """A file that is dragged into a terminal comes in quotes, or with a backslash before each character that a shell
    would take for its own; one that is typed may begin with ~, the home folder. A name that is there is taken as it is.
    """
    is_quoted = len(typed) > 1 and typed[0] == typed[-1] and typed[0] in "'\""
    if is_quoted and not os.path.exists(typed):
        typed = typed[1:-1].replace(r"'\''", "'")  # how a shell's quotes hold an apostrophe
    elif os.name == "posix" and not os.path.exists(os.path.expanduser(typed)):
        typed = re.sub(r"\\(.)", r"\1", typed)
    return os.path.expanduser(typed)
