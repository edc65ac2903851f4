"""SEED-IMG: the questions of SEED-Bench about one picture, nine kinds."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from phantrol.evals.published import PublishedRow
from phantrol.evals.ranked import RankedBenchmark
from phantrol.evals.reading import as_records, read_json

KINDS = {
    1: "scene_understanding",
    2: "instance_identity",
    3: "instance_location",
    4: "instance_attributes",
    5: "instances_counting",
    6: "spatial_relation",
    7: "instance_interaction",
    8: "visual_reasoning",
    9: "text_understanding",
}


@dataclass(frozen=True)
class SeedImage(RankedBenchmark):
    """SEED-Bench.json and the folder SEED-Bench-image."""

    folders: ClassVar[tuple[str, ...]] = ("SEED-Bench", "SEED")
    source: ClassVar[str] = "hub AILab-CVC/SEED-Bench"
    released_name: ClassVar[str] = "seed"

    def questions(self, split: str) -> Iterator[PublishedRow]:
        file, folder = self.file("SEED-Bench.json"), self.folder("SEED-Bench-image")
        for row in as_records(read_json(file)["questions"], file.name):
            if row["data_type"] != "image":
                continue
            choices = tuple(str(row[f"choice_{letter}"]) for letter in "abcd")
            question, kind = self.asked(row["question"], choices), KINDS[row["question_type_id"]]
            picture = folder / row["data_id"]
            yield self.row(row["question_id"], kind, [picture], question, row["answer"], choices=choices)


BENCHMARK = SeedImage
