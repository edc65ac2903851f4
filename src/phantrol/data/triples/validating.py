"""What no wrong answer may be: empty, the right answer in other clothes, or told by its length."""

from __future__ import annotations

import re
from difflib import SequenceMatcher

SAME_WORD = 0.75  # of difflib's ratio: a word and its misspelling, or its plural
LONG_CHARACTERS = 40  # of an answer in which no single word is all that matters
LONGEST, SLACK_WORDS = 3, 8  # times the words of the right answer, and so many more

_ARTICLES = re.compile(r"\b(?:the|an?)\b")
_NUMBER = re.compile(r"[-+]?\d[\d,]*(?:\.\d+)?%?")


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
    text = _NUMBER.sub(lambda found: _value(found[0]), text.casefold().replace("grey", "gray"))
    return " ".join(re.sub(r"[^\w\s.%+-]|\.(?!\d)", " ", _ARTICLES.sub(" ", text)).split())


def _value(number: str) -> str:
    percent = "%" if number.endswith("%") else ""
    return f"{float(number.rstrip('%').replace(',', '')):.12g}{percent}"


def _is_misspelt(one: str, other: str) -> bool:
    """Whether two texts differ in spelling alone: word for word the same, or nearly, and every number."""
    ours, theirs = plain(one).split(), plain(other).split()
    if len(ours) != len(theirs):
        return False
    changed = [(a, b) for a, b in zip(ours, theirs, strict=True) if a != b]
    return all(not any(map(str.isdigit, a + b)) and SequenceMatcher(None, a, b).ratio() > SAME_WORD for a, b in changed)
