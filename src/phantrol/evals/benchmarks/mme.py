"""MME: two questions about each picture, one to be answered yes and one no; fourteen tasks of up to 200 points."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from phantrol.evals.benchmark import Row
from phantrol.evals.letters import leading_yes_or_no
from phantrol.evals.metrics import share_of_groups_right
from phantrol.evals.published import SHORT, PublishedBenchmark, PublishedRow, mean
from phantrol.evals.reading import read_lines

PERCEPTION = ("existence", "count", "position", "color", "posters", "celebrity", "scene", "landmark", "artwork", "OCR")
COGNITION = ("commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning")
PICTURES = (".jpg", ".png", ".jpeg")
ASKED_TO = " Please answer yes or no."


@dataclass(frozen=True)
class Mme(PublishedBenchmark):
    """A folder for each task, with pictures and texts of "question TAB answer" side by side or in two folders.

    Scores: accuracy and accuracy+ (both questions of a picture right) of each task. A task has 100 points for each of
    the two; `perception` is their share of 2000 points, `cognition` of 800, `overall` of all 2800 where all were asked.
    """

    headline_scale: ClassVar[float] = 100 * 2 * len(PERCEPTION + COGNITION)
    all_tasks: ClassVar[tuple[str, ...]] = PERCEPTION + COGNITION
    folders: ClassVar[tuple[str, ...]] = ("MME_Benchmark_release_version", "MME_Benchmark")
    source: ClassVar[str] = "github.com/BradyFU/Awesome-Multimodal-Large-Language-Models (Evaluation), on request"
    released_name: ClassVar[str] = "mme"
    paper_suffix: ClassVar[str] = SHORT

    def questions(self, split: str) -> Iterator[PublishedRow]:
        root = self.root / "MME_Benchmark" if (self.root / "MME_Benchmark").is_dir() else self.root
        present = [task for task in PERCEPTION + COGNITION if (root / task).is_dir()]
        if not present:
            raise ValueError(f"{self.name}: no folder of a task ({', '.join(PERCEPTION[:3])} ...) in {root}")
        for task in present:
            for text in sorted((root / task).glob("**/[!.]*.txt")):
                picture = _picture_of(text)
                for index, line in enumerate(read_lines(text)):
                    question, tab, answer = line.strip().rpartition("\t")
                    if line.strip() and (not tab or answer.lower() not in ("yes", "no")):
                        raise ValueError(
                            f"{text} line {index + 1}: got {line!r}, expected a question, a tab, Yes or No"
                        )
                    if tab:
                        asked = question.removesuffix(ASKED_TO).rstrip() if self.protocol == "paper" else question
                        name, group = f"{task}/{text.stem}/{index}", f"{task}/{text.stem}"
                        yield self.row(name, task, [picture], asked, answer.lower(), group=group)

    def score(self, row: PublishedRow, text: str) -> float:
        return float(leading_yes_or_no(text) == row.answer)

    def overall(self, rows: Sequence[Row], texts: Sequence[str]) -> dict[str, tuple[float, int]]:
        points: dict[str, float] = {}
        found: dict[str, tuple[float, int]] = {}
        scored = self.scored(rows, texts)
        for task in dict.fromkeys(row.task for row in rows):
            of_task = [(self.group_of(row), score) for row, score in scored if row.task == task]
            plus, pictures = share_of_groups_right(of_task)
            accuracy, _ = mean(score for _, score in of_task)
            found[f"{task}_plus"] = plus, pictures
            points[task] = (accuracy + plus) / 2
        for name, tasks in {"perception": PERCEPTION, "cognition": COGNITION, "overall": points}.items():
            asked = [points[task] for task in tasks if task in points]
            if asked:
                found[name] = mean(asked)[0], sum(row.task in tasks for row in rows)
        return found


def _picture_of(text: Path) -> Path:
    """Return the picture of a text with questions: of the same name, beside it or in the folder images."""
    folder = text.parent.parent / "images" if text.parent.name == "questions_answers_YN" else text.parent
    named = [folder / (text.stem + end) for end in PICTURES]
    return next((path for path in named if path.is_file()), named[0])


BENCHMARK = Mme
