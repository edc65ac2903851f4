"""Primer's pure function: (split, family, index) -> a picture, the truth about it, questions and answers."""

from __future__ import annotations

import random
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

from PIL import Image

from phantrol.data.messages import Rejected
from phantrol.data.primer import text_only
from phantrol.data.primer.asking import Draft, Sitting, reject
from phantrol.data.primer.curriculum import Curriculum, Syllabus, work_out
from phantrol.data.primer.splits import Split
from phantrol.data.primer.tasks import KINDS, TASKS, WORDINGS
from phantrol.data.primer.wordings import choose_wording

VERSION = 6  # raise it whenever any sample changes
SEEDS = 1  # raise it to draw other samples: pictures of shapes, asked what version 1 asked, are what they were
SMALLEST_PX, LARGEST_PX = 64, 448
ASKED_TWICE = 2  # most questions of one task about one picture
DEFAULT = Curriculum()


@dataclass(frozen=True)
class Turn:
    """One question and its answer.

    pool  the answers that are equally likely to one who reads only the question, as in Draft; () for free text
    form  short, number, yesno, letter or free: by it a metric is chosen
    """

    task: str
    question: str
    answer: str
    rejected: tuple[Rejected, ...]
    pool: tuple[str, ...]
    form: str = "short"


@dataclass(frozen=True)
class Sample:
    """A picture, the truth about it (a Scene, a Chart ...), and what is asked; text-only samples have only the last."""

    picture: Image.Image | None
    scene: Any
    turns: tuple[Turn, ...]


def sample(split: str, family: str, index: int, size_px: int = 64, curriculum: Curriculum = DEFAULT) -> Sample:
    """Return sample number `index`: the same in every process, for ever while VERSION stays.

    The first question is one of the family's and the scene was built for its answer; the others are of any task.

    Raises ValueError for an unknown split or family, a family that the curriculum leaves out, or a size out of range.
    """
    check_size(size_px)
    syllabus = work_out(curriculum, split, size_px)
    if family not in syllabus.leads:
        raise ValueError(f"Primer split {split} asks no family {family!r} here: use one of {', '.join(syllabus.leads)}")
    seed = blake2b(f"{SEEDS}/{split}/{family}/{index}".encode(), digest_size=16).digest()
    rng = random.Random(int.from_bytes(seed, "big"))
    if family == "text_only":
        return Sample(None, None, _ask_texts(rng, syllabus.split, curriculum))
    sitting, lead = _build(rng, syllabus, family, curriculum.wordings)
    turns = _ask_all(sitting, lead, syllabus, curriculum)
    return Sample(draw(sitting.scene, size_px), sitting.scene, turns)


def check_size(size_px: int) -> None:
    """Raise ValueError for pictures too small to read, or too large."""
    if not SMALLEST_PX <= size_px <= LARGEST_PX:
        why = ": smaller shapes are not legible" if size_px < SMALLEST_PX else ""
        raise ValueError(f"size_px must be {SMALLEST_PX} to {LARGEST_PX}, got {size_px}{why}")


def draw(scene: Any, size_px: int) -> Image.Image:
    """Return the picture of a scene, a pure function of both."""
    return KINDS[scene.kind].draw(scene, size_px)


def _build(
    rng: random.Random, syllabus: Syllabus, family: str, wordings: int | None
) -> tuple[Sitting, tuple[str, Draft]]:
    """Draw the lead question's scene, and the question itself."""
    split, names = syllabus.split, syllabus.leads[family]
    name = rng.choices(tuple(names), tuple(names.values()))[0]
    task = TASKS[name]
    kind = rng.choice([kind for kind in task.kinds if kind in syllabus.kinds])
    while True:  # nearly always once: some scenes lack the margin that a question needs
        staged = KINDS[kind].stage(rng, split, task, kind, syllabus.numbers)
        sitting = Sitting(
            rng,
            split,
            staged.scene,
            syllabus.numbers,
            WORDINGS,
            wordings,
            staged.focus,
            staged.counted,
            staged.free_number,
        )
        draft = task.ask(sitting)
        if draft is not None:
            return sitting, (name, draft)


def _ask_all(sitting: Sitting, lead: tuple[str, Draft], syllabus: Syllabus, curriculum: Curriculum) -> tuple[Turn, ...]:
    """Return the lead question, more questions of tasks drawn by weight, and the caption."""
    rng, kind = sitting.rng, sitting.scene.kind
    number = len(getattr(sitting.scene, "things", "1"))
    turns = [_turn(sitting, *lead)]
    left = {
        name: weight
        for name, weight in syllabus.tasks.items()
        if kind in TASKS[name].plans
        and TASKS[name].numbers[0] <= number <= TASKS[name].numbers[1]
        and name != "captions"
    }
    while left and len(turns) < curriculum.questions:
        name = rng.choices(tuple(left), tuple(left.values()))[0]
        done = len(sitting.asked.get(name, ()))
        draft = TASKS[name].ask(sitting) if done < ASKED_TWICE else None
        if draft is None:
            del left[name]
        else:
            turns.append(_turn(sitting, name, draft))
    if curriculum.captions and "captions" not in sitting.asked and kind in TASKS["captions"].kinds:
        turns.append(_turn(sitting, "captions", TASKS["captions"].ask(sitting)))
    return tuple(turns)


def _turn(sitting: Sitting, task: str, draft: Draft) -> Turn:
    sitting.asked.setdefault(task, []).append(draft.key)
    question = sitting.word(draft)
    return Turn(task, question, draft.answer, reject(sitting.rng, draft), draft.pool, TASKS[task].answer)


def _ask_texts(rng: random.Random, split: Split, curriculum: Curriculum) -> tuple[Turn, ...]:
    turns: dict[str, Turn] = {}
    while len(turns) < curriculum.questions:
        draft = text_only.draw_text_question(rng)
        wordings = text_only.WORDINGS[draft.template]
        question = choose_wording(rng, wordings, split.held_out_wording, curriculum.wordings).format(**draft.slots)
        question = question[0].upper() + question[1:]
        turns[question] = Turn("text_only", question, draft.answer, reject(rng, draft), draft.pool)
    return tuple(turns.values())
