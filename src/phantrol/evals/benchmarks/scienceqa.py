"""ScienceQA-IMG: school questions with a picture, of natural, social and language science."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

from phantrol.evals.letters import LETTERS
from phantrol.evals.published import ChoiceBenchmark, Picture, PublishedRow, lettered
from phantrol.evals.reading import Record, picture_of, read_json, read_parquet


@dataclass(frozen=True)
class ScienceQA(ChoiceBenchmark):
    """problems.json with pid_splits.json and images/SPLIT/ID/image.png, or data/SPLIT-*.parquet of the hub."""

    splits: ClassVar[tuple[str, ...]] = ("test", "val")
    folders: ClassVar[tuple[str, ...]] = ("ScienceQA", "ScienceQA-IMG")
    source: ClassVar[str] = "github.com/lupantech/ScienceQA or hub derek-thomas/ScienceQA"
    released_name: ClassVar[str] = "sqa"

    def questions(self, split: str) -> Iterator[PublishedRow]:
        for name, problem, picture in self._problems(split):
            choices = tuple(problem["choices"])
            question, hint = f"{problem['question']}\n{lettered(choices)}", problem["hint"] or ""
            if self.protocol == "paper":
                question = f"{hint}\n{question}"  # an empty hint leaves its line, as released
            elif hint:
                question = f"Context: {hint}\n{question}"
            answer = LETTERS[problem["answer"]]
            yield self.row(name, problem["subject"], [picture], question, answer, choices=choices)

    def _problems(self, split: str) -> Iterator[tuple[str, dict[str, Any], Picture]]:
        if not self.has("problems.json"):
            for index, row in enumerate(read_parquet(self.files(f"{split}-*.parquet"))):
                if row["image"] is not None:
                    yield str(index), row, picture_of(row["image"])
            return
        file = self.file("problems.json")
        problems, numbers = read_json(file), read_json(self.file("pid_splits.json"))[split]
        folder = self.folder(f"images/{split}", split)
        for number in numbers:
            problem = Record(problems[number], f"{file.name}[{number}]")
            if problem["image"]:
                yield number, problem, folder / number / problem["image"]


BENCHMARK = ScienceQA
