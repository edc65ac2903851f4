"""Q-Bench (LLVisionQA): how good a picture is, and what is wrong with it. Only the dev split has its answers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from phantrol.evals.letters import LETTERS
from phantrol.evals.published import ChoiceBenchmark, PublishedRow, lettered
from phantrol.evals.reading import read_json


@dataclass(frozen=True)
class QBench(ChoiceBenchmark):
    """llvisionqa_dev.json and the folder images."""

    splits: ClassVar[tuple[str, ...]] = ("dev",)
    folders: ClassVar[tuple[str, ...]] = ("LLVisionQA-QBench", "Q-Bench")
    source: ClassVar[str] = "github.com/Q-Future/Q-Bench (LLVisionQA)"
    released_name: ClassVar[str] = "qbench"

    def questions(self, split: str) -> Iterator[PublishedRow]:
        folder = self.folder("images", "images_llvisionqa", "LLVisionQA-QBench/images")
        for index, row in enumerate(read_json(self.file(f"llvisionqa_{split}.json"))):
            choices = tuple(row["candidates"])
            if row["correct_ans"] not in choices:
                raise ValueError(f"{row.where}: the right answer {row['correct_ans']!r} is none of {choices}")
            answer, kind = LETTERS[choices.index(row["correct_ans"])], _kind(row["question"], choices)
            question, picture = f"{row['question']}\n{lettered(choices)}", folder / row["img_path"]
            yield self.row(index, kind, [picture], question, answer, choices=choices)


def _kind(question: str, choices: tuple[str, ...]) -> str:
    """Return which of the benchmark's three kinds a question is."""
    if {choice.lower() for choice in choices} <= {"yes", "no"}:
        return "yes_or_no"
    return "how" if question.lower().startswith("how") else "what"


BENCHMARK = QBench
