"""SEED-Bench-2-Plus: questions about charts, maps and web pages full of text."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from phantrol.evals.published import PublishedRow
from phantrol.evals.ranked import RankedBenchmark
from phantrol.evals.reading import read_json


@dataclass(frozen=True)
class Seed2Plus(RankedBenchmark):
    """SEED-Bench-2-plus-text-rich.json and the folder text_rich, unpacked beside it."""

    folders: ClassVar[tuple[str, ...]] = ("SEED-Bench-2-plus",)
    source: ClassVar[str] = "hub AILab-CVC/SEED-Bench-2-plus"
    released_name: ClassVar[str] = "seed-2-plus"
    trol_suffix: ClassVar[str | None] = ""

    def questions(self, split: str) -> Iterator[PublishedRow]:
        file = self.file("SEED-Bench-2-plus-text-rich.json")
        for row in read_json(file):
            choices = tuple(str(row[f"choice_{letter}"]) for letter in "ABCD")
            question, kind = self.asked(row["question"], choices), row["question_image_type"].lower()
            picture = file.parent / row["data_id"]
            yield self.row(row["question_id"], kind, [picture], question, row["answer"], choices=choices)


BENCHMARK = Seed2Plus
