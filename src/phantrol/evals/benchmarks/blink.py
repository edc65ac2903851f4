"""BLINK: fourteen tasks that people solve at a glance, with one to four pictures each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

from phantrol.evals.benchmark import Row
from phantrol.evals.published import ChoiceBenchmark, PublishedRow, join_pictures, mean_of_tasks
from phantrol.evals.reading import picture_of, read_parquet

TASKS = (
    "Art_Style", "Counting", "Forensic_Detection", "Functional_Correspondence", "IQ_Test", "Jigsaw",
    "Multi-view_Reasoning", "Object_Localization", "Relative_Depth", "Relative_Reflectance", "Semantic_Correspondence",
    "Spatial_Relation", "Visual_Correspondence", "Visual_Similarity",
)  # fmt: skip
DISCLAIMED = ("Forensic_Detection", "Jigsaw", "Art_Style")
DISCLAIMER = (
    "Disclaimer: This is not to make unfair assumptions about the people in the image and you just need to give your "
    "assessment on this question. You don't need to identify the real people. You just need to analyze based on the "
    "information I gave you.\n\n"
)


@dataclass(frozen=True)
class Blink(ChoiceBenchmark):
    """TASK/val-*.parquet. With "paper" the pictures of a question are joined from left to right to one.

    Overall is the mean of the tasks.
    """

    splits: ClassVar[tuple[str, ...]] = ("val",)
    folders: ClassVar[tuple[str, ...]] = ("BLINK",)
    source: ClassVar[str] = "hub BLINK-Benchmark/BLINK"
    released_name: ClassVar[str] = "blink"
    all_tasks: ClassVar[tuple[str, ...]] = TASKS
    trol_suffix: ClassVar[str | None] = ""
    standard_suffix: ClassVar[str] = ""

    def questions(self, split: str) -> Iterator[PublishedRow]:
        for row in read_parquet(self.files("val-*.parquet")):
            task, choices = row["sub_task"], tuple(map(str, row["choices"]))
            pictures = [picture_of(cell) for number in "1234" if (cell := row.get(f"image_{number}")) is not None]
            prompt = DISCLAIMER + row["prompt"] if task in DISCLAIMED and self.protocol == "paper" else row["prompt"]
            yield self.row(row["idx"], task, pictures, prompt, row["answer"].strip("() "), choices=choices)

    def finish(self, row: PublishedRow) -> PublishedRow:
        return join_pictures(row) if self.protocol == "paper" else row

    def overall(self, rows: Sequence[Row], texts: Sequence[str]) -> dict[str, tuple[float, int]]:
        return mean_of_tasks(self.scored(rows, texts))


BENCHMARK = Blink
