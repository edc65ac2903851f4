"""ChartQA: short answers about charts; numbers may be off by 5 %."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from phantrol.evals.metrics import relaxed_accuracy
from phantrol.evals.published import SHORT, PublishedBenchmark, PublishedRow
from phantrol.evals.reading import read_json


@dataclass(frozen=True)
class ChartQA(PublishedBenchmark):
    """SPLIT/SPLIT_human.json and SPLIT/SPLIT_augmented.json beside the folder png. "paper" asks the augmented half."""

    splits: ClassVar[tuple[str, ...]] = ("test", "val")
    folders: ClassVar[tuple[str, ...]] = ("ChartQA", "ChartQA Dataset")
    source: ClassVar[str] = "github.com/vis-nlp/ChartQA or hub ahmed-masry/ChartQA"
    released_name: ClassVar[str] = "chartqa"
    paper_suffix: ClassVar[str] = SHORT
    standard_suffix: ClassVar[str] = "\nAnswer the question with a single word."

    def questions(self, split: str) -> Iterator[PublishedRow]:
        for half in ("augmented",) if self.protocol == "paper" else ("human", "augmented"):
            file = self.file(f"{split}_{half}.json")
            for index, row in enumerate(read_json(file)):
                picture = file.parent / "png" / row["imgname"]
                asked, answer = row["query"], str(row["label"])
                yield self.row(f"{half}/{index}", half, [picture], asked, answer, group=row["imgname"])

    def score(self, row: PublishedRow, text: str) -> float:
        if self.protocol == "paper" and any(letter.isdigit() for letter in text):
            text = text.split()[0]
        return relaxed_accuracy(text, row.answer)


BENCHMARK = ChartQA
