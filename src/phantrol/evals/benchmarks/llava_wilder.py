"""LLaVA-Bench Wilder: open questions from a public demo, answers compared with a reference by a judge that sees the
picture. Li et al., 2024: Parquet with Question, Answer, Category and image.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from phantrol.evals.judged import ComparedBenchmark
from phantrol.evals.published import PublishedRow
from phantrol.evals.reading import picture_of, read_parquet


@dataclass(frozen=True)
class LLaVAWilder(ComparedBenchmark):
    """The judge is told that the reference is right."""

    folders: ClassVar[tuple[str, ...]] = ("llava-bench-wilder", "llava_wilder")
    source: ClassVar[str] = "huggingface.co/datasets/lmms-lab/LLaVA-Bench-Wilder"
    released_name: ClassVar[str] = "llava_wilder"
    shown: ClassVar[str] = ", which you see"
    rule: ClassVar[str] = "Assistant 1 is right and has a 10; "
    judge_sees: ClassVar[bool] = True

    def questions(self, split: str) -> Iterable[PublishedRow]:
        for number, entry in enumerate(read_parquet(self.files("*small*.parquet", "*.parquet"))):
            name = entry.get("question_id", number)
            picture, facts = picture_of(entry["image"]), {"question_id": name}
            yield self.row(name, "open", [picture], entry["Question"], entry["Answer"], facts=facts)


BENCHMARK = LLaVAWilder
