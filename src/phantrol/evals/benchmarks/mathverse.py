"""MathVerse: the same mathematical problem in six versions, from all in the text to all in the picture.

Zhang et al., 2024: testmini.json, testmini_text_only.json and a folder images/.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from phantrol.evals.benchmark import Row
from phantrol.evals.judged import EXTRACT, SAME, JudgedBenchmark, same_as_truth
from phantrol.evals.judging import Ask
from phantrol.evals.published import PublishedRow, mean_by
from phantrol.evals.reading import Record, read_json

TEXT_ONLY = "Text Only"


@dataclass(frozen=True)
class MathVerse(JudgedBenchmark):
    """Each score is the share of right results in one version.

    overall  the mean of five versions, without Text Only, as MathVerse itself has it; with protocol "paper" of all
             six, as TroL's and Phantom's tables have it (32.1 of TroL-7B is the mean of its six)
    """

    splits: ClassVar[tuple[str, ...]] = ("testmini",)
    source: ClassVar[str] = "huggingface.co/datasets/AI4Math/MathVerse"
    released_name: ClassVar[str] = "mathverse"
    picture_ends_line: ClassVar[bool] = False
    judge_prompts: ClassVar[dict[str, str]] = {"extract": EXTRACT, "same": SAME}

    def questions(self, split: str) -> Iterable[PublishedRow]:
        entries = list(read_json(self.file("testmini.json")))
        pictures = self.folder("images", "testmini")
        text_only = read_json(self.file("testmini_text_only.json", "testmini_text-only.json"))
        for entry in [*entries, *text_only]:
            version = entry["problem_version"].replace("-", " ").replace("_", " ").title()
            shown = [] if version == TEXT_ONLY or not entry.get("image") else [_picture(entry, pictures)]
            yield self.row(
                f"{entry['problem_index']}/{entry['sample_index']}/{version}",
                version,
                shown,
                entry["query_wo"],
                str(entry["answer"]),
                group=str(entry["problem_index"]),
                facts=dict(entry),
            )

    def judge(self, row: PublishedRow, text: str, ask: Ask) -> dict[str, float]:
        question = row.facts.get("question_for_eval") or row.facts["question"]
        return {row.task: same_as_truth(question, row.answer, text, ask)}

    def overall_of(self, rows: Sequence[Row], scores: Sequence[Mapping[str, float]]) -> dict[str, tuple[float, int]]:
        pairs = [pair for each in scores for pair in each.items() if self.protocol == "paper" or pair[0] != TEXT_ONLY]
        means = [value for value, _ in mean_by(pairs).values()]
        return {"overall": (sum(means) / len(means), len(pairs))} if means else {}

    def official(self, rows: Sequence[PublishedRow], texts: Sequence[str], model: str) -> list[dict[str, Any]]:
        """The entries of the files with model_answer, as the extraction script of MathVerse reads them."""
        return [row.facts | {"model_answer": text} for row, text in zip(rows, texts, strict=True)]


def _picture(entry: Record, pictures: Path) -> Path:
    # the paths in the file begin with the folder, or below it, as the file was unpacked
    path = Path(entry["image"])
    return pictures / path.relative_to(path.parts[0]) if path.parts[0] == pictures.name else pictures / path


BENCHMARK = MathVerse
