"""What an answer looks like, and which answers may change places: forms, kinds of questions, classes of words."""

from __future__ import annotations

import re

YES_NO = re.compile(r"(yes|no)[.!]?", re.IGNORECASE)
LETTER = re.compile(r"\(?([A-H])[).]?")
NUMBER = re.compile(r"[-+$]?\d[\d,]*(?:\.\d+)?%?\.?")
SHORT_WORDS = 3
# words that stand for one another in a sentence, one line a class
CLASSES = [
    line.split()
    for line in """\
red orange yellow green blue purple pink brown black white gray grey golden silver
left right
above below
top bottom
front behind
inside outside
large small
big little
tall short
old young
open closed
higher lower
highest lowest
increases decreases
more fewer
one two three four five six seven eight nine ten
first second third fourth fifth
man woman boy girl
dog cat horse cow sheep bird
car bus truck bicycle motorcycle train
circle square triangle star heart diamond cross pentagon hexagon
circles squares triangles stars hearts diamonds crosses
north south east west
morning evening
summer winter spring autumn
monday tuesday wednesday thursday friday saturday sunday
""".splitlines()
]
CLASS_OF = {word: number for number, words in enumerate(CLASSES) for word in words}
_WORD = re.compile(r"[A-Za-z]+|\d+(?:\.\d+)?")


def form_of(answer: str) -> str:
    """Return the form of an answer: yesno, letter, number with its digits, short with its words, or free."""
    if YES_NO.fullmatch(answer):
        return "yesno"
    if LETTER.fullmatch(answer):
        return "letter"
    if NUMBER.fullmatch(answer):
        digits = answer.rstrip(".")
        return f"number {re.sub(r'[0-9]', '0', digits)}"
    words = answer.split()
    return f"short {len(words)}" if len(words) <= SHORT_WORDS and "\n" not in answer else "free"


def keys_of(question: str, answer: str) -> list[tuple[str, ...]]:
    """Return the pools in which an answer may change places, the narrowest first: same form and the same kind of
    question, told by what it offers to choose from, and by fewer and fewer of its first words."""
    form = form_of(answer)
    if form == "free":
        return []
    last = question.strip().split("\n")[-1].lower() if form != "letter" else ""
    words = re.findall(r"[a-z']+", last or question.lower())
    ends = ("." if answer.endswith(".") else "", "A" if answer[:1].isupper() else "")
    if form == "letter":
        letters = sorted(set(re.findall(r"(?m)^\(?([A-H])[).:]", question)))
        return [(form, *ends, "".join(letters))] if len(letters) > 1 else []
    offered = _offered(words, answer)
    if offered:
        return [(form, *ends, "or", *offered)]
    pools = [(form, *ends, *words[:count]) for count in (4, 3, 2) if len(words) >= count]
    return [*pools, (form, *ends)] if form == "yesno" else pools


def _offered(words: list[str], answer: str) -> tuple[str, ...]:
    """Return the words between which a question lets choose, if the answer is one of them: "left or right"."""
    said = answer.lower().rstrip(".")
    for before, middle, after in zip(words, words[1:], words[2:], strict=False):
        if middle == "or" and said in (before, after) and before != after:
            return tuple(sorted((before, after)))
    return ()


def words_of(text: str) -> list[tuple[int, int, tuple[str, str]]]:
    """Return (start, end, (class, word before)) of the words and numbers in a text that others could stand for."""
    found, before = [], ""
    for match in _WORD.finditer(text):
        word = match[0].lower()
        if word in CLASS_OF:
            found.append((match.start(), match.end(), (str(CLASS_OF[word]), before)))
        elif word[0].isdigit():
            found.append((match.start(), match.end(), (re.sub(r"\d", "0", word), before)))
        before = word
    return found
