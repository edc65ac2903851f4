"""How right an answer is: functions (text, answer) → 0 to 1. They forgive form, never content.

`text` is what a model said, `answer` the truth; of two arguments the truth is always the second. Below them stand the
scores of many answers together: `yes_no_f1`, `share_of_groups_right`. Options by their letters are in letters.py.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Hashable, Iterable
from math import isfinite, sqrt

NUMBER_WORDS = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen", "twenty",
)  # fmt: skip
MONTHS = (
    "january", "february", "march", "april", "may", "june", "july", "august", "september", "october", "november",
    "december",
)  # fmt: skip
_MONTHS = {*MONTHS, *(month[:3] for month in MONTHS), "sept"}
_TENS = {"thirty": 30, "forty": 40, "fifty": 50, "sixty": 60, "seventy": 70, "eighty": 80, "ninety": 90}
_VALUES = {word: value for value, word in enumerate(NUMBER_WORDS)} | _TENS
_SCALE = r"(?:hundred|thousand|million|billion|trillion)s?"
_SCALES = re.compile(rf"(?<![a-z])({_SCALE})\b")
_WIDE = {0xFEE0 + code: code for code in range(ord("!"), ord("~") + 1)}  # full-width letters, digits and signs
_SIGNS = _WIDE | str.maketrans("。、“”‘’【】\u3000\N{MINUS SIGN}", ".,\"\"''[] -")
_DIGITS = r"(?:\d+(?:,\d{3})*(?:\.\d+)?|(?<![\w.])\.\d+)"
_UNITS = "|".join(NUMBER_WORDS)
_BELOW_100 = rf"(?:(?:twenty|{'|'.join(_TENS)})(?:[-\s](?:{'|'.join(NUMBER_WORDS[1:10])}))?|{_UNITS})"
_SPELT = rf"(?:(?:a|{_UNITS})\s+hundred(?:\s+(?:and\s+)?{_BELOW_100})?|{_BELOW_100})"
_NUMBERS = re.compile(rf"(?:(?<!\w)-)?(?:{_DIGITS}|\b{_SPELT}\b)")
_MINUS = re.compile(  # "minus 5", "-$5", and "- 5" at the beginning: behind a number it is a dash
    rf"(?:(?:\b(?:minus|negative)|^\s*-)\s+|(?<!\w)-)(?:[$€£¥]\s*)?(?={_DIGITS}|{_SPELT}\b)"
)


def plain(text: str) -> str:
    """Return a text with ASCII signs and digits for those of Chinese typography."""
    return text.translate(_SIGNS)


def normalise(text: str) -> str:
    """Return lower case words with single spaces, without articles and without punctuation or Markdown around words."""
    return " ".join(word for word in _bare_words(text) if word not in ("a", "an", "the"))


def exact_match(text: str, answer: str) -> float:
    """1 if both are the same once normalised; an answer of articles alone, as the label "A", wants these words."""
    if not normalise(answer):
        return float(_bare_words(text) == _bare_words(answer))
    return float(normalise(text) == normalise(answer))


def yes_no(text: str, answer: str) -> float:
    """1 if the answer's yes or no is the first word, and the other one does not occur: "yes or no" says nothing."""
    words = normalise(text).split()
    said = [word for word in words if word in ("yes", "no")]
    return float(words[:1] == [normalise(answer)] and len(set(said)) == 1)


def number(text: str, answer: str) -> float:
    """1 if the only number in the text, in digits or as a word, is the answer's.

    Raises ValueError for an answer that has not one number.
    """
    said, right = (set(numbers_in(side)) for side in (text, answer))
    if len(right) != 1:
        raise ValueError(f"the right answer is {answer!r}: expected one number in it")
    return float(said == right)


def relaxed_accuracy(text: str, answer: str, tolerance: float = 0.05) -> float:
    """1 if the only number in the text is within 5 % of the answer's; an answer that is not a number wants the words.

    The tolerance is a share of the answer, as in ChartQA's paper: an answer of 0 tolerates nothing. Percent signs,
    units and thousands' commas do not matter, but a million is no billion where both sides spell it; "5 m" may be
    metres. The day of a month is not a number to be near to.
    Differs: some released evaluation code takes the 5 % of what the model said, which forgives numbers that are too
    large more than numbers that are too small.
    """
    target = only_number(answer)
    if target is None:
        return exact_match(text, answer)
    scales = [set(_SCALES.findall(_NUMBERS.sub(" ", _signed(side)))) for side in (text, answer)]
    if all(scales) and scales[0] != scales[1]:
        return 0.0
    said = set(numbers_in(text))
    # a little more than 5 %, since 95 is not within 0.05 · 100 of 100 in binary fractions
    return float(len(said) == 1 and abs(said.pop() - target) <= tolerance * abs(target) * (1 + 1e-9))


def numbers_in(text: str) -> list[float]:
    """Return the numbers of a text in their order, those in words up to hundreds among them."""
    return [_value(found) for found in _NUMBERS.findall(_signed(text))]


def anls(text: str, answer: str, threshold: float = 0.5) -> float:
    """1 less the edit distance as a share of the longer text, and 0 from a share of `threshold` on, as in DocVQA.

    Case and spaces at the ends do not matter, and runs of spaces count as one. The average over rows is the ANLS.
    Raises ValueError for an empty answer.
    """
    said, right = (" ".join(side.lower().split()) for side in (text, answer))
    if not right:
        raise ValueError("the right answer is empty: expected a text")
    away = edit_distance(said, right) / max(len(said), len(right))
    return 1 - away if away < threshold else 0.0


def edit_distance(one: str, other: str) -> int:
    """Return how many letters must be put in, taken out or exchanged to make one of the other (Levenshtein)."""
    row = list(range(len(other) + 1))
    for i, letter in enumerate(one, 1):
        before, row[0] = row[0], i
        for j, wanted in enumerate(other, 1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (letter != wanted))
    return row[-1]


def rouge_n(text: str, answer: str, n: int = 1) -> float:
    """F1 of the different runs of n words that both have, after Lin (2004), as the package `rouge` counts them: case
    matters, words end at spaces and full stops, and a run that comes twice counts once."""
    grams = [{tuple(words[i : i + n]) for i in range(len(words) - n + 1)} for words in map(_words, (text, answer))]
    return _f1(len(grams[0] & grams[1]), len(grams[0]), len(grams[1]))


def rouge_l(text: str, answer: str) -> float:
    """F1 of the different words in the longest common subsequences of the sentences of both, as `rouge_n` counts."""
    said, right = ([sentence.split() for sentence in side.split(".")] for side in (text, answer))
    shared = {word for wanted in right for sentence in said for word in _longest_common(wanted, sentence)}
    return _f1(len(shared), len(set(_words(text))), len(set(_words(answer))))


def attribute_f1(text: str, answer: str, nouns: Collection[str], adjectives: Collection[str]) -> float:
    """F1 over what two captions say about their objects: each noun, and each adjective bound to its noun.

    "a large red circle" says circle, large circle, red circle. So a right colour on the wrong object earns nothing. The
    order of the objects does not count. A noun may be of several words ("ice cream").
    Raises ValueError for an answer that names no noun.
    """
    said, right = (_attributes(side, nouns, adjectives) for side in (text, answer))
    if not right:
        raise ValueError(f"the right caption {answer!r} names none of the known nouns")
    shared = sum((said & right).values())
    return 2 * shared / (sum(said.values()) + sum(right.values()))


def yes_no_f1(pairs: Iterable[tuple[str, str]]) -> float:
    """Return the F1 of "yes" over (text, answer) of yes-no questions, as in POPE; 0 if no yes was right.

    What is neither yes nor no counts as not yes. Raises ValueError for an answer that is neither.
    """
    pairs = list(pairs)
    wrong = [answer for _, answer in pairs if normalise(answer) not in ("yes", "no")]
    if wrong:
        raise ValueError(f"the right answer is {wrong[0]!r}: expected yes or no")
    said = [yes_no(text, "yes") for text, _ in pairs]
    right = [float(normalise(answer) == "yes") for _, answer in pairs]
    both = sum(one * other for one, other in zip(said, right, strict=True))
    return 2 * both / (sum(said) + sum(right)) if both else 0.0


def share_of_groups_right(scores: Iterable[tuple[Hashable, float]]) -> tuple[float, int]:
    """Return (the share of groups all of whose scores are 1, how many groups there are), from (group, score).

    Circular evaluation: a multiple-choice question counts only if the right option is found in each place, so the group
    is the question, and its rows are its rotations.
    """
    worst: dict[Hashable, float] = {}
    for group, score in scores:
        worst[group] = min(score, worst.get(group, 1.0))
    return sum(score == 1 for score in worst.values()) / max(1, len(worst)), len(worst)


def wilson_interval(share: float, number_of_rows: int) -> tuple[float, float]:
    """Return the 95 % interval of a share of rows, after Wilson. For scores between 0 and 1 it is on the wide side."""
    if number_of_rows == 0:
        return 0.0, 1.0
    z = 1.96  # of 95 %
    n, extra = number_of_rows, z * z / number_of_rows
    middle = (share + extra / 2) / (1 + extra)
    half = z / (1 + extra) * sqrt(share * (1 - share) / n + extra / (4 * n))
    return max(0.0, middle - half), min(1.0, middle + half)


def _attributes(text: str, nouns: Collection[str], adjectives: Collection[str]) -> Counter[str]:
    said: Counter[str] = Counter()
    bound: list[str] = []
    words = normalise(text).split()
    longest = max(len(noun.split()) for noun in nouns)
    while words:
        sizes = [size for size in range(longest, 0, -1) if " ".join(words[:size]) in nouns]
        size = sizes[0] if sizes else 1
        word = " ".join(words[:size])
        words = words[size:]
        if word in adjectives:
            bound.append(word)
        elif word in nouns:
            said.update({word, *(f"{adjective} {word}" for adjective in bound)})
            bound = []
        else:
            bound = []
    return said


def _bare_words(text: str) -> list[str]:
    """Return lower case words without punctuation or Markdown around them; what is nothing else is none."""
    words = (word.strip(".,;:!?\"'()[]*`") for word in plain(text).lower().split())
    return [word for word in words if word]


def _words(text: str) -> list[str]:
    return text.replace(".", " ").split()


def _f1(shared: int, said: int, right: int) -> float:
    return 2 * shared / (said + right) if shared else 0.0


def _longest_common(one: list[str], other: list[str]) -> list[str]:
    """Return the longest subsequence that two lists of words share."""
    lengths = [[0] * (len(other) + 1) for _ in range(len(one) + 1)]
    for i, word in enumerate(one):
        for j, wanted in enumerate(other):
            longer = lengths[i][j] + 1 if word == wanted else max(lengths[i][j + 1], lengths[i + 1][j])
            lengths[i + 1][j + 1] = longer
    found, i, j = [], len(one), len(other)
    while i and j:
        if one[i - 1] == other[j - 1]:
            found.append(one[i - 1])
            i, j = i - 1, j - 1
        elif lengths[i - 1][j] > lengths[i][j - 1]:
            i -= 1
        else:
            j -= 1
    return found[::-1]


def only_number(text: str) -> float | None:
    """Return the number that a text is, with a unit or a sign at most: "12 %", "$1,200", "-3.5 cm"; else None.

    The day of a month is none. One of so many digits that it is none to a float is None too.
    """
    text = _signed(text)
    found = re.fullmatch(rf"[$€£¥]?\s*(-?{_DIGITS})\s*(?:%|°|([a-z]{{1,7}}|{_SCALE})[²³]?)?\.?", text.strip())
    if found and found[2] in _MONTHS:
        return None
    if found:
        value = _value(found[1])
        return value if isfinite(value) else None
    found = re.fullmatch(rf"(?:(?:an?|the) )?(-?{_SPELT})", " ".join(_bare_words(text)))
    return _value(found[1]) if found else None


def _signed(text: str) -> str:
    """Return a text in lower case with the sign for the word minus, right before the number."""
    return _MINUS.sub("-", plain(text).lower())


def _value(number: str) -> float:
    if number.lstrip("-.")[:1].isdigit():
        return float(number.replace(",", ""))
    value = 0
    for word in re.findall("[a-z]+", number):
        value = (value or 1) * 100 if word == "hundred" else value + _VALUES.get(word, 0)
    return -float(value) if number.startswith("-") else float(value)
