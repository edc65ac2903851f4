"""MM-Vet: open questions that need several capabilities at once, graded from 0 to 1 by a judge.

Yu et al., 2023: mm-vet.json beside a folder of pictures, images/.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from phantrol.evals.judged import SHARE, JudgedBenchmark, read_share
from phantrol.evals.judging import Ask
from phantrol.evals.published import PublishedRow
from phantrol.evals.reading import Record, read_json


@dataclass(frozen=True)
class MMVet(JudgedBenchmark):
    """Each score is the mean over the questions that need a capability: rec, ocr, know, gen, spat, math."""

    folders: ClassVar[tuple[str, ...]] = ("mm-vet", "mmvet")
    source: ClassVar[str] = "github.com/yuweihao/MM-Vet"
    released_name: ClassVar[str] = "mm-vet"
    judge_prompts: ClassVar[dict[str, str]] = {"share": SHARE}
    table: ClassVar[str] = "mm-vet.json"

    def questions(self, split: str) -> Iterable[PublishedRow]:
        pictures = self.folder("images")
        for name, said in read_json(self.file(self.table)).items():
            entry = Record(said, f"{self.table} {name}")
            yield self.question(name, entry, pictures)

    def question(self, name: str, entry: Record, pictures: Path) -> PublishedRow:
        facts = {"capability": sorted(entry["capability"]), "question": entry["question"]}
        shown = [pictures / entry["imagename"]]
        return self.row(name, "open", shown, entry["question"], entry["answer"], facts=facts)

    def judge(self, row: PublishedRow, text: str, ask: Ask) -> dict[str, float]:
        truth = row.answer.replace("<AND>", " <AND> ").replace("<OR>", " <OR> ")
        share = read_share(ask(SHARE.format(question=row.facts["question"], truth=truth, answer=text), max_tokens=8))
        return dict.fromkeys(row.facts["capability"], share)

    def official(self, rows: Sequence[PublishedRow], texts: Sequence[str], model: str) -> dict[str, str]:
        """{id: answer}, as the evaluator of MM-Vet reads it."""
        return {row.id: text for row, text in zip(rows, texts, strict=True)}


BENCHMARK = MMVet
