"""LLaVA-Bench in the wild: open questions, answers compared with those of GPT-4, which never saw the picture.

Liu et al., 2023: questions.jsonl, context.jsonl, answers_gpt4.jsonl and a folder images/.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from phantrol.evals.benchmark import Row, question_text
from phantrol.evals.fingerprints import texts_sha256
from phantrol.evals.judged import PAIR, JudgedBenchmark, ratio_of_pairs, read_pair
from phantrol.evals.judging import Ask
from phantrol.evals.published import PublishedRow
from phantrol.evals.reading import read_json
from phantrol.training.checkpoint import write_text


@dataclass(frozen=True)
class LLaVAW(JudgedBenchmark):
    """The score is the sum of the model's grades over the sum of the reference's; it can be above 100 %."""

    folders: ClassVar[tuple[str, ...]] = ("llava-bench-in-the-wild", "llava_bench", "llava-w")
    source: ClassVar[str] = "huggingface.co/datasets/liuhaotian/llava-bench-in-the-wild"
    released_name: ClassVar[str] = "llava"
    judge_prompts: ClassVar[dict[str, str]] = {"pair": PAIR}
    official_ending: ClassVar[str] = ".jsonl"

    def questions(self, split: str) -> Iterable[PublishedRow]:
        pictures = self.folder("images")
        captions = {entry["image"]: entry["caption"] for entry in read_json(self.file("context.jsonl"))}
        references = {entry["question_id"]: entry["text"] for entry in read_json(self.file("answers_gpt4.jsonl"))}
        for entry in read_json(self.file("questions.jsonl")):
            number, image = entry["question_id"], entry["image"]
            if number not in references or image not in captions:
                raise ValueError(f"{entry.where}: question {number} about {image} has no reference or no context")
            facts = {"context": captions[image], "question_id": number}
            shown = [pictures / image]
            yield self.row(
                number, entry["category"], shown, entry["text"], references[number], group=image, facts=facts
            )

    def judge(self, row: PublishedRow, text: str, ask: Ask) -> dict[str, float]:
        said = ask(
            PAIR.format(
                context=f"[Context]\n{row.facts['context']}\n\n",
                shown=", which the context describes",
                rule="",
                question=question_text(row),
                reference=row.answer,
                answer=text,
            ),
            max_tokens=1024,
        )
        reference, model = read_pair(said)
        return {"model": model, "reference": reference}

    def overall_of(self, rows: Sequence[Row], scores: Sequence[Mapping[str, float]]) -> dict[str, tuple[float, int]]:
        found = {"overall": ratio_of_pairs(scores)} if scores else {}
        tasks = sorted({row.task for row in rows})
        for task in tasks if len(tasks) > 1 else []:
            found[task] = ratio_of_pairs([each for row, each in zip(rows, scores, strict=True) if row.task == task])
        return found

    def write_official(self, rows: Sequence[PublishedRow], texts: Sequence[str], model: str, path: Path) -> None:
        """One object a line, as LLaVA's review scripts read answers."""
        lines = []
        for row, text in zip(rows, texts, strict=True):
            own: dict[str, Any] = {"question_id": row.facts["question_id"], "prompt": question_text(row), "text": text}
            own |= {"answer_id": texts_sha256([row.id, text])[:22], "model_id": model, "metadata": {}}
            lines.append(json.dumps(own, ensure_ascii=False) + "\n")
        write_text(path, "".join(lines))


BENCHMARK = LLaVAW
