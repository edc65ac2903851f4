"""Existence in three ways, as POPE asks it: a name at random, a popular one, one that the picture suggests.

The name is drawn before the answer, so that no name leans to a yes or a no.
"""

from __future__ import annotations

import random

from phantrol.data.primer.asking import Draft, Sitting, Task
from phantrol.data.primer.comparisons import DODGES
from phantrol.data.primer.splits import Split
from phantrol.data.primer.sprite_packs import is_in_a_drawing
from phantrol.data.primer.vocabulary import Pair, with_article
from phantrol.data.primer.wordings import Template

POPULAR = 12  # names at the beginning of a pack


def plan_random(rng: random.Random, split: Split, number: int) -> tuple[list[str], tuple]:
    name, present = split.pack.pick(rng), rng.random() < 0.5
    names = [name] if present else []
    while len(names) < number:
        names.append(split.pack.pick(rng, [name, *names]))
    return names, ("existence_random", name, present)


def plan_popular(rng: random.Random, split: Split, number: int) -> tuple[list[str], tuple]:
    """Popular names are those that pictures show most: these pictures show nothing else."""
    present = rng.random() < 0.5
    name, *others = rng.sample(split.pack.names[:POPULAR], number + 1)
    return [name, *others[1:]] if present else others, ("existence_popular", name, present)


def plan_adversarial(rng: random.Random, split: Split, number: int) -> tuple[list[str], tuple]:
    """Something of the same kind is in the picture, whatever the answer."""
    pack = split.pack
    name, present = pack.pick(rng), rng.random() < 0.5
    names = [name] if present else []
    names.append(pack.pick(rng, [name], pack.kind_of[name]))
    while len(names) < number:
        names.append(pack.pick(rng, [name, *names]))
    return names, ("existence_adversarial", name, present)


def plan_random_pair(rng: random.Random, split: Split, number: int) -> tuple[list[Pair], tuple]:
    pair, present = rng.choice(split.pairs), rng.random() < 0.5
    others = rng.sample([other for other in split.pairs if other != pair], number - present)
    return [pair] * present + others, ("existence_random", pair, present)


def plan_adversarial_pair(rng: random.Random, split: Split, number: int) -> tuple[list[Pair], tuple]:
    """For a no, the colour and the shape are in the picture, on two different objects."""
    pair, present = rng.choice(split.pairs), rng.random() < 0.5
    known = [other for other in split.mentioned if other != pair]
    one = rng.choice([other for other in known if other[0] == pair[0]])
    two = rng.choice([other for other in known if other[1] == pair[1]])
    start = [pair, rng.choice((one, two))] if present else [one, two]
    rest = [other for other in known if other not in start]
    return [*start, *rng.sample(rest, number - 2)], ("existence_adversarial", pair, present)


def ask_random(sitting: Sitting) -> Draft | None:
    return _ask(sitting, "existence_random")


def ask_popular(sitting: Sitting) -> Draft | None:
    return _ask(sitting, "existence_popular")


def ask_adversarial(sitting: Sitting) -> Draft | None:
    return _ask(sitting, "existence_adversarial")


def _ask(sitting: Sitting, task: str) -> Draft | None:
    planned = sitting.lead(task)
    if planned is None:
        return None
    thing, present = planned
    noun = thing if isinstance(thing, str) else " ".join(thing)
    if not present and is_in_a_drawing(noun, [other.name for other in sitting.scene.things]):
        return None
    answer = "yes" if present else "no"
    return Draft("existence", {"a_thing": with_article(noun)}, answer, ("yes", "no"), thing, vague=DODGES)


TASKS = {
    "existence_random": Task(
        "existence", ask_random, {"shapes": plan_random_pair, "sprites": plan_random}, "yesno", weight=0.3
    ),
    "existence_popular": Task("existence", ask_popular, {"sprites": plan_popular}, "yesno", weight=0.3),
    "existence_adversarial": Task(
        "existence",
        ask_adversarial,
        {"shapes": plan_adversarial_pair, "sprites": plan_adversarial},
        "yesno",
        numbers=(2, 99),
        weight=0.3,
    ),
}
WORDINGS: dict[str, Template] = {}  # those of "existence"
