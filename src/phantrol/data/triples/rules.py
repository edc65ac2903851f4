"""Wrong answers without any model, by rules, from what the data themselves say.

Short answers change places: within a pool of like questions each row gets the right answer of another. So an answer is
wrong as often as it is right, and neither its words nor its form nor its length tell. What is left over where one
answer is in the majority gets none. What any row has as right is wrong for no other that asks the same of the same
pictures. In a sentence one word or number is exchanged for another of its class that the
data say behind the same word, as often as they say it. The ambiguous answer names both, the right and a wrong one: that
is known by its form, as hedges are.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from phantrol.data.messages import REJECTED_KINDS
from phantrol.data.triples.asking import Made
from phantrol.data.triples.forms import form_of, keys_of, words_of
from phantrol.data.triples.reading import Row
from phantrol.data.triples.right_answers import RightAnswers, asked_in
from phantrol.data.triples.validating import fault_of, plain

Pool = dict[tuple[str, ...], list[int]]
Vocabulary = dict[tuple[str, str], Counter[str]]  # (class, word before): the words that were said there
MOST_TRIED = 100  # rows to change with, where a row got what is right for it


class Short(NamedTuple):
    """A short answer, the pools in which it may change places, the narrowest first, and what was asked."""

    answer: str
    keys: list[tuple[str, ...]]
    asked: bytes


@dataclass(frozen=True)
class Rules:
    """Makes wrong answers of the given kinds; the same rows and seed give the same ones."""

    kinds: tuple[str, ...] = REJECTED_KINDS
    seed: int = 0

    def __call__(self, rows: Iterable[Row]) -> Iterator[Made]:
        """Yield what becomes of each row. The rows are walked twice: first to learn what they say."""
        swaps, vocabulary, right = self._learn(rows)
        for number, row in enumerate(rows):
            if row.example is None:
                yield Made(row, failure=row.fault)
                continue
            found = self._make(row, swaps.get(number), vocabulary, right)
            rejected = tuple((text, kind) for kind, text in found.items() if not fault_of(text, row.answer, kind))
            kinds = [kind for _, kind in rejected]
            yield Made(row, rejected, tuple((kind, "no rule fits") for kind in self.kinds if kind not in kinds))

    def _make(self, row: Row, other: str | None, vocabulary: Vocabulary, right: RightAnswers) -> dict[str, str]:
        if other is not None:
            wrong, both = other, self._both(row, row.answer, other)
        elif form_of(row.answer) == "free":
            wrong, both = self._exchanged(row, vocabulary)
            if right.hold(asked_in(row), wrong):
                return {}
        else:
            return {}
        return {kind: text for kind, text in (("incorrect", wrong), ("ambiguous", both)) if kind in self.kinds and text}

    def _learn(self, rows: Iterable[Row]) -> tuple[dict[int, str], Vocabulary, RightAnswers]:
        """Return the answer that each row with a short one gets, the words of each class in the free ones, and what is
        right."""
        short: dict[int, Short] = {}
        vocabulary: Vocabulary = defaultdict(Counter)
        right = RightAnswers()
        for number, row in enumerate(rows):
            if row.example is None:
                continue
            right.add(asked := asked_in(row), row.answer)
            if keys := keys_of(row.last_question, row.answer):
                short[number] = Short(row.answer, keys, asked)
            elif form_of(row.answer) == "free":
                for start, end, kind in words_of(row.answer):
                    vocabulary[kind][row.answer[start:end].lower()] += 1
        right.close()
        return self._change_places(short, right), vocabulary, right

    def _change_places(self, short: dict[int, Short], right: RightAnswers) -> dict[int, str]:
        swaps: dict[int, str] = {}
        for level in range(max((len(each.keys) for each in short.values()), default=0)):
            pools: Pool = defaultdict(list)
            for number, each in short.items():
                if number not in swaps and level < len(each.keys):
                    pools[each.keys[level]].append(number)
            for members in pools.values():
                swaps |= self._rotate({number: short[number] for number in members}, right)
        return swaps

    def _rotate(self, rows: dict[int, Short], right: RightAnswers) -> dict[int, str]:
        """Return {row: the answer of another row}, each answer as often as it is right among these rows."""
        by_answer: dict[str, list[int]] = defaultdict(list)
        for number in sorted(rows, key=lambda number: self._draw(f"order {number}")):
            by_answer[plain(rows[number].answer)].append(number)
        most = max(by_answer, key=lambda answer: (len(by_answer[answer]), answer))
        others = sum(len(members) for answer, members in by_answer.items() if answer != most)
        by_answer[most] = by_answer[most][:others]  # a majority would be right more often than wrong
        line = [number for answer in sorted(by_answer) for number in by_answer[answer]]
        if not line:
            return {}
        step = max(len(members) for members in by_answer.values())
        given = [rows[number].answer for number in line[step:] + line[:step]]
        return {
            number: answer
            for number, answer in zip(line, _set_right([rows[n] for n in line], given, right), strict=True)
            if answer is not None
        }

    def _exchanged(self, row: Row, vocabulary: Vocabulary) -> tuple[str, str]:
        """Return a sentence with one word exchanged, and with both words in its place."""
        places = [
            (start, end, others)
            for start, end, kind in words_of(row.answer)
            if (others := _others(row.answer[start:end], vocabulary[kind]))
        ]
        if not places:
            return "", ""
        start, end, others = places[self._draw(f"place {row.where}") % len(places)]
        said = row.answer[start:end]
        other = _like(said, self._weighed(others, f"word {row.where}"))
        return (
            row.answer[:start] + other + row.answer[end:],
            row.answer[:start] + self._both(row, said, other) + row.answer[end:],
        )

    def _both(self, row: Row, one: str, other: str) -> str:
        """Return "one or other", in either order."""
        ends = "." if one.endswith(".") and other.endswith(".") else ""
        pair = [one.rstrip("."), other.rstrip(".")] if ends else [one, other]
        first, second = pair if self._draw(f"both {row.where}") % 2 else pair[::-1]
        return f"{_like(one, first)} or {second[:1].lower() + second[1:] if _is_word(second) else second}{ends}"

    def _weighed(self, words: Sequence[tuple[str, int]], what: str) -> str:
        left = self._draw(what) % sum(count for _, count in words)
        for word, count in words:
            left -= count
            if left < 0:
                return word
        raise AssertionError("the counts do not add up")

    def _draw(self, what: str) -> int:
        return int.from_bytes(hashlib.blake2b(f"{self.seed} {what}".encode(), digest_size=6).digest(), "big")


def _set_right(rows: list[Short], given: list[str], right: RightAnswers) -> list[str | None]:
    """Return what is given with answers changed between rows where one of them got what is right for it, or None."""
    found: list[str | None] = list(given)

    def fits(place: int, answer: str | None) -> bool:
        return answer is not None and not right.hold(rows[place].asked, answer)

    for place in [place for place, answer in enumerate(given) if not fits(place, answer)]:
        others = ((place + step) % len(rows) for step in range(1, min(len(rows), MOST_TRIED)))
        other = next((o for o in others if fits(place, found[o]) and fits(o, found[place])), None)
        if other is None:
            found[place] = None
        else:
            found[place], found[other] = found[other], found[place]
    return found


def _others(word: str, known: Counter[str]) -> list[tuple[str, int]]:
    return sorted((other, count) for other, count in known.items() if plain(other) != plain(word))


def _like(said: str, other: str) -> str:
    """`other` with a capital where `said` has one."""
    return other[:1].upper() + other[1:] if said[:1].isupper() and _is_word(other) else other


def _is_word(text: str) -> bool:
    """Whether a text begins like an ordinary word, whose first letter may be large or small."""
    return text[:1].isalpha() and text[1:2].islower()
