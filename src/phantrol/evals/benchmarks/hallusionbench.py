"""HallusionBench: yes or no about figures that were tampered with, and about the same things without a figure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from phantrol.evals.benchmark import Row
from phantrol.evals.letters import said_yes_or_no
from phantrol.evals.metrics import share_of_groups_right
from phantrol.evals.published import PublishedBenchmark, PublishedRow, mean
from phantrol.evals.reading import read_json

ANSWERS = {"0": "no", "1": "yes"}


@dataclass(frozen=True)
class HallusionBench(PublishedBenchmark):
    """HallusionBench.json and the folder hallusion_bench.

    Scores: the accuracy by question (aAcc), by figure (fAcc: all questions about it right) and by question over its
    figures (qAcc). Without "paper", who is unsure about a figure that is not shown is right, as the benchmark has it.
    """

    headline: ClassVar[str | None] = "aAcc"
    folders: ClassVar[tuple[str, ...]] = ("HallusionBench",)
    source: ClassVar[str] = "github.com/tianyi-lab/HallusionBench"
    released_name: ClassVar[str] = "hallusionbench"
    picture_ends_line: ClassVar[bool] = False
    standard_suffix: ClassVar[str] = " Please answer yes or no."

    def questions(self, split: str) -> Iterator[PublishedRow]:
        folder = self.folder("hallusion_bench")
        for index, row in enumerate(read_json(self.file("HallusionBench.json"))):
            _, kind, path = (row["filename"] or "").rpartition(f"{row['category']}/")
            pictures = [_named(folder / (kind + path))] if row["filename"] else []
            question = row["question"]
            if self.protocol == "paper" and "Please answer yes or no." not in question:
                question += "\nPlease answer yes or no."
            of_set = f"{row['category']}/{row['subcategory']}/{row['set_id']}"
            facts = {
                "figure": f"{of_set}/figure {row['figure_id']}",
                "question": f"{of_set}/question {row['question_id']}",
                "unseen": row["category"] == "VS" and str(row["figure_id"]) == "0",
            }
            answer, task = ANSWERS[str(row["gt_answer"])], f"{row['category']}_{row['subcategory']}"
            yield self.row(index, task, pictures, question, answer, group=of_set, facts=facts)

    def score(self, row: PublishedRow, text: str) -> float:
        said = said_yes_or_no(text)
        if said is None and text.strip() and self.protocol == "standard":
            return float(row.facts["unseen"])
        return float(said == row.answer)

    def overall(self, rows: Sequence[Row], texts: Sequence[str]) -> dict[str, tuple[float, int]]:
        scored = self.scored(rows, texts)
        figures = [(row, score) for row, score in scored if not row.facts["unseen"]]
        return {
            "aAcc": mean(score for _, score in scored),
            "fAcc": share_of_groups_right((row.facts["figure"], score) for row, score in figures),
            "qAcc": share_of_groups_right((row.facts["question"], score) for row, score in scored),
        }


def _named(path: Path) -> Path:
    """Return the file, which may end in .PNG where it is said to end in .png."""
    other = path.with_suffix(path.suffix.swapcase())
    return other if other.is_file() and not path.is_file() else path


BENCHMARK = HallusionBench
