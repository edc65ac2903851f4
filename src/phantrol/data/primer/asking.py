"""What every question is made from: the sitting (a scene being asked about) and the draft (a question, its truth)."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from phantrol.data.messages import Rejected
from phantrol.data.primer.scene import Scene, Thing
from phantrol.data.primer.splits import Split
from phantrol.data.primer.vocabulary import Pair

NEAR_SHARE = 0.7  # of the incorrect answers are true of another object in the picture, where there is one


@dataclass
class Sitting:
    """One scene being asked about, and what was already asked.

    focus        what the lead question is about: the scene was built for it
    counted      (answer, colour) and (answer, shape) that the scene was built for, for questions that count
    free_number  the number of objects was drawn evenly, so that asking for it is fair
    numbers      fewest and most objects in a picture
    wordings     how many wordings of training to use, None for all
    """

    rng: random.Random
    split: Split
    scene: Scene
    numbers: tuple[int, int]
    wordings: int | None = None
    focus: Any = None
    counted: dict[str, tuple[int, str]] = field(default_factory=dict)
    free_number: bool = True
    asked: dict[str, list] = field(default_factory=dict)


@dataclass(frozen=True)
class Draft:
    """A question before it is worded.

    pool   the answers that are equally likely when only the text is known; () for free text
    near   answers of the pool that are true of something else in the picture
    wrong  incorrect answers, where they do not come from the pool
    vague  answers that dodge; by default "A or B" over the pool
    key     what was asked about: a sitting asks each task about it once
    prefix  what stands before the wording
    """

    template: str
    slots: dict[str, str]
    answer: str
    pool: tuple[str, ...]
    key: object
    near: tuple[str, ...] = ()
    wrong: tuple[str, ...] = ()
    vague: tuple[str, ...] = ()
    prefix: str = ""


Ask = Callable[[Sitting], Draft | None]
Plan = Callable[[random.Random, Split, int], tuple[list[Pair | str], object]]


def reject(rng: random.Random, draft: Draft) -> tuple[Rejected, ...]:
    """Return one incorrect and one ambiguous answer."""
    others = draft.wrong or tuple(answer for answer in draft.pool if answer != draft.answer)
    near = tuple(answer for answer in draft.near if answer != draft.answer)
    wrong = rng.choice(near if near and rng.random() < NEAR_SHARE else others)
    if draft.vague:
        vague = rng.choice(draft.vague)
    else:
        pair = [draft.answer, rng.choice(others)]
        rng.shuffle(pair)
        vague = " or ".join(pair)
    return Rejected(wrong, "incorrect"), Rejected(vague, "ambiguous")


def unique(things: tuple[Thing, ...], attribute: str) -> list[Thing]:
    """Return the things that share the attribute with no other thing."""
    values = [getattr(thing, attribute) for thing in things]
    return [thing for thing, value in zip(things, values, strict=True) if values.count(value) == 1]
