"""AI2D: questions about diagrams of school books, four options each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

from phantrol.evals.letters import LETTERS
from phantrol.evals.published import ChoiceBenchmark, PublishedRow, lettered
from phantrol.evals.reading import picture_of, read_json, read_lines, read_parquet


@dataclass(frozen=True)
class AI2D(ChoiceBenchmark):
    """The published folder (questions/*.json, images, abc_images and ai2d_test_ids.csv), the list ai2d_test.json beside
    its pictures, or data/test-*.parquet of the hub."""

    folders: ClassVar[tuple[str, ...]] = ("ai2d-all", "ai2d_all")
    source: ClassVar[str] = "prior.allenai.org/projects/diagram-understanding or hub lmms-lab/ai2d"
    released_name: ClassVar[str] = "ai2d"

    def questions(self, split: str) -> Iterator[PublishedRow]:
        between = " " if self.protocol == "paper" else "\n"
        for name, picture, question, choices, right in self._asked():
            text = f"{question}\n{lettered(choices, between)}"
            yield self.row(name, "ai2d", [picture], text, LETTERS[int(right)], choices=tuple(choices))

    def _asked(self) -> Iterator[tuple[Any, ...]]:
        if not self.has("ai2d_test.json") and not self.has("ai2d_test_ids.csv"):
            for index, row in enumerate(read_parquet(self.files("test-*.parquet", "ai2d_test.json"))):
                yield index, picture_of(row["image"]), row["question"], row["options"], row["answer"]
            return
        images = self.folder("images")
        for image, question, facts in self._listed() if self.has("ai2d_test.json") else self._annotated():
            folder = self.folder("abc_images") if facts["abcLabel"] else images
            yield facts["questionId"], folder / image, question, facts["answerTexts"], facts["correctAnswer"]

    def _listed(self) -> Iterator[tuple[str, str, dict[str, Any]]]:
        for row in read_json(self.file("ai2d_test.json")):
            yield row["imageName"], row["question"], row["metadata"]

    def _annotated(self) -> Iterator[tuple[str, str, dict[str, Any]]]:
        tested = {line.strip() for line in read_lines(self.file("ai2d_test_ids.csv"))}
        for file in self.files("questions/*.json"):
            found = read_json(file)
            if found["imageName"].removesuffix(".png") in tested:
                for question, facts in found["questions"].items():
                    yield found["imageName"], question, facts


BENCHMARK = AI2D
