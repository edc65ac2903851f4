"""MathVista, the part that rules can score: options, whole numbers and decimal numbers. Lists need a judge."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import ClassVar

from phantrol.evals.benchmark import Row
from phantrol.evals.letters import LETTERS, chosen_option
from phantrol.evals.metrics import numbers_in, only_number, plain
from phantrol.evals.published import PublishedBenchmark, PublishedRow, mean, mean_by
from phantrol.evals.reading import picture_of, read_parquet

_STATED = re.compile(r"(?:answer|result|value|total)\b[^.\n]*?(?:is|:|=|equals)\s*([^\n]*)", re.IGNORECASE)


@dataclass(frozen=True)
class MathVista(PublishedBenchmark):
    """testmini-*.parquet. Overall is the share of right answers; `unread` the share in which no rule finds an answer,
    which count as wrong here and which a judge might still read."""

    splits: ClassVar[tuple[str, ...]] = ("testmini",)
    folders: ClassVar[tuple[str, ...]] = ("MathVista",)
    source: ClassVar[str] = "hub AI4Math/MathVista"
    released_name: ClassVar[str] = "mathvista"
    max_new_tokens = 1024

    def questions(self, split: str) -> Iterator[PublishedRow]:
        for row in read_parquet(self.files(f"{split}-*.parquet")):
            if row["answer_type"] == "list":
                continue
            choices, answer = tuple(row["choices"] or ()), str(row["answer"])
            if row["question_type"] == "multi_choice":
                if answer not in choices:
                    raise ValueError(f"{row.where}: the right answer {answer!r} is none of {choices}")
                answer = LETTERS[choices.index(answer)]
            facts = {"type": row["answer_type"], "precision": int(row["precision"] or 0)}
            task, picture = row["metadata"]["task"], picture_of(row["decoded_image"])
            yield self.row(row["pid"], task, [picture], row["query"], answer, choices=choices, facts=facts)

    def score(self, row: PublishedRow, text: str) -> float:
        said = _read(row, text)
        return float(said is not None and said == _rounded(row, row.answer))

    def overall(self, rows: Sequence[Row], texts: Sequence[str]) -> dict[str, tuple[float, int]]:
        asked = list(zip(rows, texts, strict=True))
        types = mean_by((f"type_{row.facts['type']}", self.score(row, text)) for row, text in asked)
        unread = mean(float(_read(row, text) is None) for row, text in asked)
        return types | super().overall(rows, texts) | {"unread": unread}


def _read(row: PublishedRow, text: str) -> str | None:
    """Return what an answer says in the form of the right one: a letter, or a number rounded as MathVista does.

    A number of more digits than a float holds, as of a model that repeats itself, says nothing.
    """
    if row.choices:
        return chosen_option(text, row.choices)
    stated = _STATED.findall(plain(text))
    for part in (text, *reversed(stated)):
        alone = only_number(part.strip(" *\"'")) if part else None
        found = [alone] if alone is not None else sorted(set(numbers_in(part)))
        if len(found) == 1 and isfinite(found[0]):
            return _rounded(row, str(found[0]))
    return None


def _rounded(row: PublishedRow, number: str) -> str:
    if row.choices:
        return number
    value = float(number)
    return str(int(value)) if row.facts["type"] == "integer" else str(round(value, row.facts["precision"]))


BENCHMARK = MathVista
