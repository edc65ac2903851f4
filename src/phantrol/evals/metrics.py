"""How right an answer is: functions (text, answer) → 0 to 1. They forgive form, never content."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection
from math import sqrt

NUMBER_WORDS = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen", "twenty",
)  # fmt: skip
_NUMBERS = re.compile(r"-?\d+(?:,\d{3})*(?:\.\d+)?|" + "|".join(rf"\b{word}\b" for word in NUMBER_WORDS))


def normalise(text: str) -> str:
    """Return lower case words with single spaces, without articles and without punctuation around words."""
    words = (word.strip(".,;:!?\"'()[]") for word in text.lower().split())
    return " ".join(word for word in words if word not in ("", "a", "an", "the"))


def exact_match(text: str, answer: str) -> float:
    """1 if both are the same once normalised."""
    return float(normalise(text) == normalise(answer))


def yes_no(text: str, answer: str) -> float:
    """1 if the answer's yes or no is the first word, and the other one does not occur: "yes or no" says nothing."""
    words = normalise(text).split()
    said = [word for word in words if word in ("yes", "no")]
    return float(words[:1] == [normalise(answer)] and len(set(said)) == 1)


def number(text: str, answer: str) -> float:
    """1 if the only number in the text, in digits or as a word, is the answer's."""
    said, right = ({_value(found) for found in _NUMBERS.findall(side.lower())} for side in (text, answer))
    if len(right) != 1:
        raise ValueError(f"the right answer is {answer!r}: expected one number in it")
    return float(said == right)


def option_letter(text: str, answer: str) -> float:
    """1 if the letter that the text chooses, as in "B", "(B)", "B. red" or "The answer is B.", is the answer's."""
    return float(chosen_letter(text) == answer.strip().upper())


def chosen_letter(text: str) -> str | None:
    """Return the option that a text chooses, or None if it chooses none or several."""
    text = text.strip()
    if re.fullmatch(r"\(?[A-Za-z]\)?[.:]?", text):
        return re.sub(r"[^A-Za-z]", "", text).upper()
    # a lone "A" before a word is an article: a letter counts with a mark after it, or at the end, or as "answer is B"
    found = re.findall(r"(?<![\w'])\(?([A-Z])(?:[).:,]|\s*$)", text)
    found += re.findall(r"(?i:\b(?:answer|option|letter|choice)\s+(?:is\s+)?)\(?([A-Z])\b", text)
    return found[0] if len(set(found)) == 1 else None


def attribute_f1(text: str, answer: str, nouns: Collection[str], adjectives: Collection[str]) -> float:
    """F1 over what two captions say about their objects: each noun, and each adjective bound to its noun.

    "a large red circle" says circle, large circle, red circle. So a right colour on the wrong object earns nothing. The
    order of the objects does not count.
    """
    said, right = (_attributes(side, nouns, adjectives) for side in (text, answer))
    if not right:
        raise ValueError(f"the right caption {answer!r} names none of the known nouns")
    shared = sum((said & right).values())
    return 2 * shared / (sum(said.values()) + sum(right.values()))


def wilson_interval(share: float, number_of_rows: int, z: float = 1.96) -> tuple[float, float]:
    """Return the 95 % interval of a share of rows, after Wilson. For scores between 0 and 1 it is on the wide side."""
    if number_of_rows == 0:
        return 0.0, 1.0
    n, extra = number_of_rows, z * z / number_of_rows
    middle = (share + extra / 2) / (1 + extra)
    half = z / (1 + extra) * sqrt(share * (1 - share) / n + extra / (4 * n))
    return max(0.0, middle - half), min(1.0, middle + half)


def _attributes(text: str, nouns: Collection[str], adjectives: Collection[str]) -> Counter[str]:
    said: Counter[str] = Counter()
    bound: list[str] = []
    for word in normalise(text).split():
        if word in adjectives:
            bound.append(word)
        elif word in nouns:
            said.update({word, *(f"{adjective} {word}" for adjective in bound)})
            bound = []
        else:
            bound = []
    return said


def _value(word: str) -> float:
    return float(NUMBER_WORDS.index(word)) if word in NUMBER_WORDS else float(word.replace(",", ""))
