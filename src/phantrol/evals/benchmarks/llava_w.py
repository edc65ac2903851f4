"""LLaVA-Bench in the wild: open questions, answers compared with those of GPT-4, which never saw the picture.

Liu et al., 2023: questions.jsonl, context.jsonl, answers_gpt4.jsonl and a folder images/.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from phantrol.evals.judged import ComparedBenchmark
from phantrol.evals.published import PublishedRow
from phantrol.evals.reading import read_json


@dataclass(frozen=True)
class LLaVAW(ComparedBenchmark):
    """The judge reads what is in the picture in place of seeing it; the reference had the same text."""

    folders: ClassVar[tuple[str, ...]] = ("llava-bench-in-the-wild", "llava_bench", "llava-w")
    source: ClassVar[str] = "huggingface.co/datasets/liuhaotian/llava-bench-in-the-wild"
    released_name: ClassVar[str] = "llava"
    shown: ClassVar[str] = ", which the context describes"

    def questions(self, split: str) -> Iterable[PublishedRow]:
        pictures = self.folder("images")
        captions = {entry["image"]: entry["caption"] for entry in read_json(self.file("context.jsonl"))}
        references = {entry["question_id"]: entry["text"] for entry in read_json(self.file("answers_gpt4.jsonl"))}
        for entry in read_json(self.file("questions.jsonl")):
            number, image = entry["question_id"], entry["image"]
            if number not in references or image not in captions:
                raise ValueError(f"{entry.where}: question {number} about {image} has no reference or no context")
            more = {"group": image, "facts": {"context": captions[image], "question_id": number}}
            yield self.row(number, entry["category"], [pictures / image], entry["text"], references[number], **more)


BENCHMARK = LLaVAW
