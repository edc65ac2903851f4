"""CV-Bench: counting, place, depth and distance, asked about pictures of ADE20K, COCO and Omni3D."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

from phantrol.evals.benchmark import Row
from phantrol.evals.published import ChoiceBenchmark, PublishedRow, mean, mean_by
from phantrol.evals.reading import picture_of, read_parquet


@dataclass(frozen=True)
class CVBench(ChoiceBenchmark):
    """test_2d.parquet and test_3d.parquet, or test.parquet.

    Scores: `2d` is the mean of ADE20K and COCO, `3d` is Omni3D, and overall the mean of the two.
    """

    folders: ClassVar[tuple[str, ...]] = ("CV-Bench",)
    source: ClassVar[str] = "hub nyu-visionx/CV-Bench"
    released_name: ClassVar[str] = "cvbench"
    all_tasks: ClassVar[tuple[str, ...]] = ("Count", "Relation", "Depth", "Distance")
    trol_suffix: ClassVar[str | None] = ""

    def questions(self, split: str) -> Iterator[PublishedRow]:
        for row in read_parquet(self.files("test_[23]d*.parquet", "test*.parquet")):
            choices, answer = tuple(map(str, row["choices"])), row["answer"].strip("() ")
            more = {"choices": choices, "facts": {"source": row["source"]}}
            picture = picture_of(row["image"])
            yield self.row(f"{row['type']}/{row['idx']}", row["task"], [picture], row["prompt"], answer, **more)

    def overall(self, rows: Sequence[Row], texts: Sequence[str]) -> dict[str, tuple[float, int]]:
        scored = self.scored(rows, texts)
        sources = mean_by((row.facts["source"], score) for row, score in scored)
        parts = {"2d": [name for name in ("ADE20K", "COCO") if name in sources], "3d": ["Omni3D"]}
        found = {
            part: (mean(sources[name][0] for name in names)[0], sum(sources[name][1] for name in names))
            for part, names in parts.items()
            if names and names[0] in sources
        }
        overall = mean(score for score, _ in found.values())[0], len(rows)
        return sources | found | {"overall": overall}


BENCHMARK = CVBench
