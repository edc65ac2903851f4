"""What every question is made from: the task (what is asked, about which scenes), the sitting (a scene being asked
about) and the draft (a question and its truth). A file of a family holds tasks, their wordings, and nothing else is
registered: see tasks.py."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from phantrol.data.messages import Rejected
from phantrol.data.primer.scene import Thing
from phantrol.data.primer.splits import Split
from phantrol.data.primer.vocabulary import Pair
from phantrol.data.primer.wordings import Template, choose_wording

NEAR_SHARE = 0.7  # of the incorrect answers are true of another object in the picture, where there is one
ANY_NUMBER = (1, 99)


@dataclass
class Sitting:
    """One scene being asked about, and what was already asked.

    focus        what the lead question is about: the scene was built for it
    counted      (answer, colour) and (answer, shape) that the scene was built for, for questions that count
    free_number  the number of objects was drawn evenly, so that asking for it first is fair; later it is not quite, as
                 a picture of few objects runs out of other questions and is asked for its number more often
    numbers      fewest and most objects in a picture
    templates    wordings by the name of a template
    wordings     how many wordings of training to use, None for all
    """

    rng: random.Random
    split: Split
    scene: Any
    numbers: tuple[int, int]
    templates: Mapping[str, Template]
    wordings: int | None = None
    focus: Any = None
    counted: dict[str, tuple[int, str]] = field(default_factory=dict)
    free_number: bool = True
    asked: dict[str, list] = field(default_factory=dict)

    def lead(self, name: str) -> tuple | None:
        """Return what a plan of this name built the scene for, for the first question only."""
        planned = isinstance(self.focus, tuple) and self.focus[:1] == (name,)
        return self.focus[1:] if planned and not self.asked else None

    def word(self, draft: Draft) -> str:
        """Return the question, in one of the wordings of the split."""
        template = self.templates[draft.template]
        wording = choose_wording(self.rng, template, self.split.held_out_wording, self.wordings)
        return draft.prefix + wording.format(**draft.slots)


@dataclass(frozen=True)
class Draft:
    """A question before it is worded.

    pool   the answers that are equally likely when only the text is known, one that stands twice twice as likely; ()
           for free text. It holds for lead questions; of later ones, for all but the number of all objects
    near   answers of the pool that are true of something else in the picture
    wrong  incorrect answers, where they do not come from the pool
    vague  answers that dodge; by default "A or B" over the pool
    key     what was asked about: a sitting asks each task about it once
    prefix  what stands before the wording
    odd     those of near that have another form than the answer, which would give them away among options
    other   draws an answer as the right one was drawn, for options, where there is no pool
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
    odd: tuple[str, ...] = ()
    other: Callable[[], str] | None = None


Ask = Callable[[Sitting], Draft | None]
# (rng, split, number of objects) -> (contents, focus); without objects to be counted, (rng, split) -> (scene, focus)
Plan = Callable[..., tuple[Any, object]]
# (rng, split, fewest objects, most objects) -> (contents, what was counted)
CountPlan = Callable[[random.Random, Split, int, int], tuple[list[Pair | str], dict[str, tuple[int, str]]]]


@dataclass(frozen=True)
class Task:
    """One score of the benchmark.

    kinds    kinds of scene it can ask about; the lead question draws one of them
    plans    how the scene is drawn when this question leads, by kind
    answer   the form of its answers, by which a metric is chosen: short, number, yesno, letter or free
    numbers  fewest and most objects it can ask about
    axis     axis on which the objects of its scenes differ clearly
    counts   how the contents are drawn in place of a plan, for questions that count
    picky    many scenes do not suit it, those with few objects least: so their number is not drawn evenly
    weight   share among the tasks unless a curriculum says otherwise
    """

    family: str
    ask: Ask | None
    plans: dict[str, Plan | None]
    answer: str = "short"
    numbers: tuple[int, int] = ANY_NUMBER
    axis: str | None = None
    counts: CountPlan | None = None
    picky: bool = False
    weight: float = 1.0

    @property
    def kinds(self) -> tuple[str, ...]:
        return tuple(self.plans)


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
