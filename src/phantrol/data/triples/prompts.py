"""What the asking model and the judge are told, and how their replies are read.

As in [Phantom, section 3] both see the question and the right answer and no picture. Differs: an incorrect and an
ambiguous answer are asked for apart, because training tells them apart; the words are ours.
"""

from __future__ import annotations

import re
from typing import Any

Chat = list[dict[str, Any]]

_WANTED = {
    "incorrect": "It must be plainly wrong: no one who sees the picture or works the question out would accept it.",
    "ambiguous": "It must dodge the question: vague or undecided where the right answer is definite, so that nothing "
    "is settled.",
}
_HELD_AGAINST = {
    "incorrect": "Is the proposed answer wrong, given the right one?",
    "ambiguous": "Is the proposed answer vague or undecided, so that it does not answer what was asked?",
}
_ASKING = (
    "You write wrong answers that teach a model to tell right from wrong. You are given a question about a picture "
    "that you do not see, and its right answer. Write one other answer. {wanted} Keep the form, the style, the "
    "language and about the length of the right answer, so that nothing but its meaning gives it away. Reply with "
    "that answer alone."
)
_JUDGING = (
    "You check wrong answers that were written on purpose. You are given a question about a picture that you do not "
    "see, its right answer, and a proposed answer. {question} Reply with one word: yes or no."
)
_QUOTES = {'"': '"', "'": "'", "“": "”", "«": "»"}
_LABEL = re.compile(r"(?:(?:wrong|incorrect|ambiguous|other|proposed) )?answer\s*:\s*", re.IGNORECASE)


def asking_prompt(kind: str, question: str, answer: str, refused: tuple[str, ...] = ()) -> Chat:
    """Return the chat that asks for an answer of a kind; `refused` are earlier ones that were not good."""
    told = f"Question: {question}\nRight answer: {answer}"
    if refused:
        told += "".join(f"\nNot this again: {text}" for text in refused)
    return [
        {"role": "system", "content": _ASKING.format(wanted=_WANTED[kind])},
        {"role": "user", "content": told},
    ]


def judging_prompt(kind: str, question: str, answer: str, proposed: str) -> Chat:
    """Return the chat that asks the judge whether a proposed answer is of the kind that it was written as."""
    told = f"Question: {question}\nRight answer: {answer}\nProposed answer: {proposed}"
    return [
        {"role": "system", "content": _JUDGING.format(question=_HELD_AGAINST[kind])},
        {"role": "user", "content": told},
    ]


def read_answer(reply: str) -> str:
    """Return the answer in a reply, without a label before it and quotation marks around it."""
    text = _LABEL.sub("", reply.strip(), count=1) if _LABEL.match(reply.strip()) else reply.strip()
    if len(text) > 1 and _QUOTES.get(text[0]) == text[-1] and text[-1] not in text[1:-1]:
        text = text[1:-1].strip()
    return text


def read_verdict(reply: str) -> bool | None:
    """Return what the judge says: yes, no, or None for anything that is not that one word."""
    found = re.fullmatch(r"[\s*\"'`]*(yes|no)[\s.!*\"'`]*", reply, re.IGNORECASE)
    return None if found is None else found[1].lower() == "yes"
