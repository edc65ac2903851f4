"""What no wrong answer may be: empty, the right answer in other clothes, or told by its length."""

from __future__ import annotations

import re
from decimal import Decimal
from difflib import SequenceMatcher

SAME_WORD = 0.75  # of difflib's ratio: a word and its misspelling, or its plural
LONG_CHARACTERS = 40  # of an answer in which no single word is all that matters
LONGEST, SLACK_WORDS = 3, 8  # times the words of the right answer, and so many more

_ARTICLES = re.compile(r"\b(?:the|an?)\b")
# a sign stands behind no number, commas part groups of three digits, and more than one point is a version or a date
_NUMBER = re.compile(
    r"(?=[-+.\d])(?:(?<![\w.)%])[-+])?(?:(?<!\d,)\d{1,3}(?:,\d{3})+(?!,?\d)|\d+|(?<![\w.])(?=\.\d))(?:\.\d+)*(?:\s?%)?"
)
_DASH = re.compile(r"(?<=\d)\s[-–—−]\s(?=\d)|[–—−](?=[\d.])")  # of a range, or a minus


def fault_of(answer: str, chosen: str, kind: str) -> str:
    """Return why an answer cannot be a rejected one of its kind, in a word, or ""."""
    if not answer.strip():
        return "empty"
    if plain(answer) == plain(chosen):
        return "the right answer"
    if len(answer.split()) > LONGEST * len(chosen.split()) + SLACK_WORDS:
        return "too long"
    if kind == "incorrect" and min(len(answer), len(chosen)) >= LONG_CHARACTERS and _is_misspelt(answer, chosen):
        return "too similar"
    return ""


def plain(text: str) -> str:
    """Return a text as it is compared: small letters, no articles, no punctuation, numbers by their value, one spelling
    of gray."""
    text = _DASH.sub("-", text.casefold().replace("grey", "gray"))
    text = _NUMBER.sub(lambda found: _value(found[0]), text)
    return " ".join(re.sub(r"[^\w\s.%+-]|\.(?!\d)", " ", _ARTICLES.sub(" ", text)).split())


def _value(number: str) -> str:
    digits, percent, _ = number.replace(",", "").partition("%")
    if digits.count(".") < 2:
        digits = f"{Decimal(digits):f}"
        digits = digits.rstrip("0").rstrip(".") if "." in digits else digits
    return digits.rstrip() + percent


def _is_misspelt(one: str, other: str) -> bool:
    """Whether two texts differ in spelling alone: word for word the same, or nearly, and every number."""
    ours, theirs = plain(one).split(), plain(other).split()
    if len(ours) != len(theirs):
        return False
    changed = [(a, b) for a, b in zip(ours, theirs, strict=True) if a != b]
    return all(not any(map(str.isdigit, a + b)) and SequenceMatcher(None, a, b).ratio() > SAME_WORD for a, b in changed)
