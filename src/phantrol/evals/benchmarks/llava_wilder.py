"""LLaVA-Bench Wilder: open questions from a public demo, answers compared with a reference by a judge that sees the
picture. Li et al., 2024: Parquet with Question, Answer, Category and image.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from phantrol.evals.benchmark import question_text
from phantrol.evals.benchmarks.llava_w import LLaVAW
from phantrol.evals.judged import PAIR, read_pair
from phantrol.evals.judging import Ask
from phantrol.evals.published import PublishedRow
from phantrol.evals.reading import picture_of, read_parquet


@dataclass(frozen=True)
class LLaVAWilder(LLaVAW):
    """The score is the sum of the model's grades over the sum of the reference's, which the judge is told is right."""

    folders: ClassVar[tuple[str, ...]] = ("llava-bench-wilder", "llava_wilder")
    source: ClassVar[str] = "huggingface.co/datasets/lmms-lab/LLaVA-Bench-Wilder"
    released_name: ClassVar[str] = "llava_wilder"

    def questions(self, split: str) -> Iterable[PublishedRow]:
        for number, entry in enumerate(read_parquet(self.files("*small*.parquet", "*.parquet"))):
            name = entry.get("question_id", number)
            facts = {"question_id": name}
            shown = [picture_of(entry["image"])]
            yield self.row(name, "open", shown, entry["Question"], entry["Answer"], facts=facts)

    def judge(self, row: PublishedRow, text: str, ask: Ask) -> dict[str, float]:
        pictures = [part["image"] for part in row.chat[0]["content"] if part["type"] == "image"]
        said = ask(
            PAIR.format(
                context="",
                shown=", which you see",
                rule="Assistant 1 is right and has a 10; ",
                question=question_text(row),
                reference=row.answer,
                answer=text,
            ),
            max_tokens=1024,
            pictures=pictures,
        )
        reference, model = read_pair(said)
        return {"model": model, "reference": reference}


BENCHMARK = LLaVAWilder
