"""Primer as a benchmark: one row is one question about one picture of its own; nothing to download."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import count, islice

from phantrol.data.messages import Message
from phantrol.data.primer.curriculum import SCENES, Curriculum, work_out
from phantrol.data.primer.generator import Turn, sample
from phantrol.data.primer.tasks import TASKS
from phantrol.data.primer.vocabulary import COLOURS, PLURALS, SHAPES, SIZES, SPRITES
from phantrol.evals.benchmark import Benchmark, Row
from phantrol.evals.metrics import attribute_f1, exact_match, number, option_letter, yes_no

PRIOR_PICTURES = 400  # of training, for each family of tasks: some 2,000 texts each
PICTURES_OF_A_SEED = 1_000_000
CAPTION_TOKENS = 64
SHAPE_NOUNS = {*SHAPES, *PLURALS.values()}
MASKS = (
    (re.compile(rf"\b(?:{'|'.join(COLOURS)})\b"), "COLOUR"),
    (re.compile(rf"\b(?:{'|'.join(sorted(SHAPE_NOUNS, key=len, reverse=True))})\b"), "SHAPE"),
    (re.compile(rf"\b(?:{'|'.join(SPRITES)})\b"), "THING"),
    (re.compile(r"\ban\b"), "a"),
    (re.compile(r"\b\d+\b"), "NUMBER"),
)
METRICS = {
    "existence": yes_no,
    "object_existence": yes_no,
    "count": number,
    "count_by_colour": number,
    "count_by_shape": number,
    "multiple_choice": option_letter,
}


@dataclass(frozen=True)
class PrimerBenchmark(Benchmark):
    """Every task is asked equally often, each time about a picture that was drawn for its answer.

    tasks    names of tasks, None for all that the split and the other options allow
    size_px  side of the pictures
    scenes   kinds of pictures: "shapes", "sprites", "text" (none at all)
    min_objects, max_objects  objects in a picture, by default as the split has it

    Captions count twice: `captions` is the F1 of what they say about each object, `captions_exact` the share that is
    right to the word. Raises ValueError for an unknown split or task, and for tasks that the options leave out.
    """

    tasks: tuple[str, ...] | None = None
    size_px: int = 64
    scenes: tuple[str, ...] = SCENES
    min_objects: int | None = None
    max_objects: int | None = None
    max_new_tokens: int = 8

    def rows(self, split: str, limit: int | None = None, seed: int = 0) -> list[Row]:
        """Return `limit` rows of each task; Primer never ends, so None is refused."""
        if limit is None:
            raise ValueError("Primer draws pictures without end: expected a limit, the number of rows of each task")
        first = seed * PICTURES_OF_A_SEED
        return [row for task in self.tasks_of(split) for row in islice(self._rows_of(split, task, first), limit)]

    def scores(self, row: Row, text: str) -> dict[str, float]:
        if row.task != "captions":
            return {row.task: METRICS.get(row.task, exact_match)(text, row.answer)}
        f1 = attribute_f1(text, row.answer, {*SHAPES, *SPRITES}, {*COLOURS, *SIZES})
        return {"captions": f1, "captions_exact": exact_match(text, row.answer)}

    def tokens_for(self, task: str) -> int:
        return CAPTION_TOKENS if task == "captions" else self.max_new_tokens

    def tasks_of(self, split: str) -> tuple[str, ...]:
        """Return the tasks that are asked."""
        possible = tuple(work_out(self._curriculum(None), split).tasks)
        wrong = [task for task in self.tasks or () if task not in possible]
        if wrong:
            raise ValueError(f"Primer asks no {', '.join(wrong)} here in split {split}: it has {', '.join(possible)}")
        return possible if self.tasks is None else self.tasks

    def prior_rows(self) -> tuple[Row, ...]:
        return _training_texts(self)

    def mask(self, question: str) -> str:
        for pattern, word in MASKS:
            question = pattern.sub(word, question)
        return question

    def _rows_of(self, split: str, task: str, first: int) -> Iterator[Row]:
        for index in count(first):
            drawn = sample(split, TASKS[task].family, index, self.size_px, self._curriculum((task,)))
            turn = drawn.turns[0]
            parts = (turn.question,) if drawn.picture is None else (drawn.picture, turn.question)
            yield _row(f"{split}/{task}/{index}", turn, parts)

    def _curriculum(self, tasks: tuple[str, ...] | None, questions: int = 1) -> Curriculum:
        weights = None if tasks is None else dict.fromkeys(tasks, 1.0)
        return Curriculum(weights, questions, tasks is None, self.min_objects, self.max_objects, None, self.scenes)


@lru_cache(maxsize=8)
def _training_texts(benchmark: PrimerBenchmark) -> tuple[Row, ...]:
    tasks = benchmark.tasks_of("train")
    curriculum = benchmark._curriculum(tasks, questions=6)
    rows = []
    for family in dict.fromkeys(TASKS[task].family for task in tasks):
        for index in range(PRIOR_PICTURES):
            drawn = sample("train", family, index, benchmark.size_px, curriculum)
            rows += [_row(f"train/{family}/{index}", turn, (turn.question,)) for turn in drawn.turns]
    return tuple(rows)


def _row(name: str, turn: Turn, parts: tuple) -> Row:
    return Row(name, turn.task, [Message("user", parts).as_chat()], turn.answer)


BENCHMARK = PrimerBenchmark
