"""What can be wrong with a row, or a file: the reasons, the errors that carry them, and a field that must be text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

REASONS = {
    "bad-json": "not JSON",
    "bad-utf8": "not UTF-8, or half of a character",
    "wrong-type": "a field holds something of another kind than expected",
    "unknown-layout": "no question and answer under any known name",
    "turns": "the turns do not end with an answer to a question, or a rejected one is beside an earlier turn",
    "empty-question": "a question without text",
    "no-answer": "an empty answer, or no token of it left for the model to say",
    "chosen-is-rejected": "the chosen answer is also the rejected one",
    "image-count": "more or fewer <image> in the text than there are images",
    "image-missing": "no such image file",
    "image-unreadable": "an empty, broken or too large image",
    "image-remote": "an image that is a web address",
    "too-long": "more tokens than allowed",
    "duplicate-id": "an id that an earlier row of the file has",
    "no-rows": "a file without a row",
}


class BrokenRow(ValueError):
    """A row that cannot be trained on.

    reason  a key of REASONS;  detail  what is wrong, in words;  where  file and row, if known
    """

    def __init__(self, reason: str, detail: str, where: str = ""):
        super().__init__(f"{where}: {detail}" if where else detail)
        self.reason, self.detail, self.where = reason, detail, where

    def at(self, where: str) -> BrokenRow:
        """Return the same error with the place where it was met."""
        return BrokenRow(self.reason, self.detail, where)


class BrokenGroup(ValueError):
    """Several rows that come together, of which some cannot be trained on.

    faults  what is wrong, an error for each such row;  good  the examples of the other rows, perhaps none
    """

    def __init__(self, faults: Sequence[BrokenRow], good: Sequence[Any]):
        super().__init__("; ".join(map(str, faults)))
        self.faults, self.good = tuple(faults), tuple(good)


def text_of(value: Any, what: str) -> str:
    """Return a field as text, a number too. Raises BrokenRow for anything else, naming the field as `what`."""
    if isinstance(value, str):
        return value
    if isinstance(value, int | float) and not isinstance(value, bool) and not is_null(value):
        return str(value)
    raise BrokenRow("wrong-type", f"got {'nothing' if is_null(value) else kind_of(value)} as {what}, expected text")


def is_null(value: Any) -> bool:
    """Whether it is None, or NaN, which pandas writes for what is missing."""
    return value is None or (isinstance(value, float) and value != value)


def kind_of(value: Any) -> str:
    """Return what a value is called where another was expected."""
    names = {
        (type(None),): "nothing",
        (Mapping,): "an object",
        (str,): "text",
        (bool,): "true or false",
        (int, float): "a number",
        (list, tuple): "a list",
    }
    return next((name for kind, name in names.items() if isinstance(value, kind)), type(value).__name__)
