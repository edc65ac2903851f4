"""Primer as a benchmark: one row is one question about one picture of its own; nothing to download."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import count, islice
from typing import ClassVar

from phantrol.data.messages import Message
from phantrol.data.primer.curriculum import SCENES, Curriculum, work_out
from phantrol.data.primer.generator import Turn, sample
from phantrol.data.primer.multiple_choice import rotations
from phantrol.data.primer.sprite_names import COUNTED_BY
from phantrol.data.primer.sprite_packs import find_pack
from phantrol.data.primer.tasks import TASKS
from phantrol.data.primer.vocabulary import COLOURS, PLURALS, SHAPES, SIZES, SPRITES
from phantrol.evals.benchmark import Benchmark, Row
from phantrol.evals.letters import option_letter
from phantrol.evals.metrics import (
    anls,
    attribute_f1,
    exact_match,
    number,
    relaxed_accuracy,
    share_of_groups_right,
    yes_no,
    yes_no_f1,
)

PRIOR_PICTURES = 400  # of training, for each family of tasks: some 2,000 texts each
PICTURES_OF_A_SEED = 1_000_000
SENTENCE_TOKENS, SPELT_TOKENS = 64, 24
SHAPE_NOUNS = {*SHAPES, *PLURALS.values()}
MASKS = (
    (re.compile(rf"\b(?:{'|'.join(COLOURS)})\b"), "COLOUR"),
    (re.compile(rf"\b(?:{'|'.join(sorted(SHAPE_NOUNS, key=len, reverse=True))})\b"), "SHAPE"),
    (re.compile(rf"\b(?:(?:{'|'.join({*COUNTED_BY.values()})}) of )?(?:{'|'.join(SPRITES)})\b"), "THING"),
    (re.compile(r"\ban\b"), "a"),
    (re.compile(r"\b\d+\b"), "NUMBER"),
)
METRICS = {"short": exact_match, "number": number, "yesno": yes_no, "letter": option_letter, "free": exact_match}
# As ChartQA and DocVQA count, beside what is right to the word: an answer form in these families has a second score.
RELAXED = ("charts", "tables", "documents", "mathematics")
SPELT = ("ocr", "documents")
NOUNS, ADJECTIVES = frozenset((*SHAPES, *SPRITES)), frozenset((*COLOURS, *SIZES))


@dataclass(frozen=True)
class PrimerRow(Row):
    """A row that knows the form of its answer (short, number, yesno, letter, free) and which question it is a turn of.

    question_id  the same for all rotations of a multiple-choice question
    """

    form: str = "short"
    question_id: str = ""


@dataclass(frozen=True)
class PrimerBenchmark(Benchmark):
    """Every task is asked equally often, each time about a picture that was drawn for its answer.

    tasks    names of tasks, None for all that the split and the other options allow
    size_px  side of the pictures
    scenes   kinds of pictures: "shapes", "sprites"; from 192 px on "ocr", "charts", "tables", "documents",
             "diagrams", "figures" (those with letters); "text" (no picture)
    min_objects, max_objects  objects in a picture, by default as the split has it
    max_new_tokens  longest answer; sentences, and words that are read, may be longer
    sprites  which sprites: None for all, a number for so many of them (64 are the core), or a folder of stamps
    extra_fonts  whether `test_style` writes in the fonts of phantrol[fonts] as well
    circular each multiple-choice question is asked with its options in all four orders

    The form of an answer chooses its metric. Captions count twice: `captions` is the F1 of what they say about each
    object, `captions_exact` the share that is right to the word. So do numbers in charts and the like (`..._relaxed`:
    within 5 %) and words that are read (`..._anls`). Over all rows: `..._f1` of yes-no questions, and `..._circular`,
    the share of multiple-choice questions that are right in every order.

    Raises ValueError for an unknown split or task, and for tasks that the options leave out.
    """

    default_limit: ClassVar[int | None] = 200

    tasks: tuple[str, ...] | None = None
    size_px: int = 64
    scenes: tuple[str, ...] = SCENES
    min_objects: int | None = None
    max_objects: int | None = None
    max_new_tokens: int = 8
    sprites: int | str | None = None
    extra_fonts: bool = False
    circular: bool = False

    def rows(self, split: str, limit: int | None = None, seed: int = 0) -> list[Row]:
        """Return `limit` rows of each task; Primer never ends, so None is refused."""
        if limit is None:
            raise ValueError("Primer draws pictures without end: expected a limit, the number of rows of each task")
        first = seed * PICTURES_OF_A_SEED
        rows = [row for task in self.tasks_of(split) for row in islice(self._rows_of(split, task, first), limit)]
        return [turned for row in rows for turned in (_turned(row) if self.circular else (row,))]

    def scores(self, row: Row, text: str) -> dict[str, float]:
        if row.task == "captions":
            f1 = attribute_f1(text, row.answer, NOUNS.union(find_pack(self.sprites).names), ADJECTIVES)
            return {"captions": f1, "captions_exact": exact_match(text, row.answer)}
        family, scores = TASKS[row.task].family, {row.task: METRICS[row.form](text, row.answer)}
        if row.form == "number" and family in RELAXED:
            scores[f"{row.task}_relaxed"] = relaxed_accuracy(text, row.answer)
        if row.form == "short" and family in SPELT:
            scores[f"{row.task}_anls"] = anls(text, row.answer)
        return scores

    def overall(self, rows: Sequence[Row], texts: Sequence[str]) -> dict[str, tuple[float, int]]:
        found: dict[str, tuple[float, int]] = {}
        for task in dict.fromkeys(row.task for row in rows):
            said = [(row, text) for row, text in zip(rows, texts, strict=True) if row.task == task]
            form = said[0][0].form
            if form == "yesno":
                found[f"{task}_f1"] = yes_no_f1((text, row.answer) for row, text in said), len(said)
            if form == "letter" and self.circular:
                scores = [(row.question_id, option_letter(text, row.answer)) for row, text in said]
                found[f"{task}_circular"] = share_of_groups_right(scores)
        return found

    def tokens_for(self, task: str) -> int:
        if TASKS[task].answer == "free":
            return SENTENCE_TOKENS
        return max(SPELT_TOKENS, self.max_new_tokens) if TASKS[task].family in SPELT else self.max_new_tokens

    def group_of(self, row: Row) -> str:
        return row.question_id

    def tasks_of(self, split: str) -> tuple[str, ...]:
        """Return the tasks that are asked."""
        possible = tuple(work_out(self._curriculum(None), split, self.size_px).tasks)
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

    def _rows_of(self, split: str, task: str, first: int) -> Iterator[PrimerRow]:
        for index in count(first):
            drawn = sample(split, TASKS[task].family, index, self.size_px, self._curriculum((task,)))
            turn = drawn.turns[0]
            parts = (turn.question,) if drawn.picture is None else (drawn.picture, turn.question)
            yield _row(f"{split}/{task}/{index}", turn, parts)

    def _curriculum(self, tasks: tuple[str, ...] | None, questions: int = 1) -> Curriculum:
        weights = None if tasks is None else dict.fromkeys(tasks, 1.0)
        return Curriculum(
            weights,
            questions,
            tasks is None,
            self.min_objects,
            self.max_objects,
            scenes=self.scenes,
            sprites=self.sprites,
            extra_fonts=self.extra_fonts,
        )


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


def _row(name: str, turn: Turn, parts: tuple) -> PrimerRow:
    return PrimerRow(name, turn.task, [Message("user", parts).as_chat()], turn.answer, turn.form, name)


def _turned(row: PrimerRow) -> Iterator[PrimerRow]:
    """Yield the row, and for a multiple-choice question the three others that have its options in another order."""
    if row.form != "letter":
        yield row
        return
    *pictures, question = row.chat[0]["content"]
    for i, (text, letter) in enumerate(rotations(question["text"], row.answer)):
        chat = [{"role": "user", "content": [*pictures, {"type": "text", "text": text}]}]
        yield replace(row, id=f"{row.id}/{i}" if i else row.id, chat=chat, answer=letter)


BENCHMARK = PrimerBenchmark
