"""Counting by colour and shape at once, and by kind: how many red stars, how many animals."""

from __future__ import annotations

import random

from phantrol.data.primer.asking import Draft, Sitting, Task
from phantrol.data.primer.shape_tasks import ADVERSARIAL_SHARE
from phantrol.data.primer.splits import Split
from phantrol.data.primer.vocabulary import PLURALS, Pair
from phantrol.data.primer.wordings import Template


def plan_pair_counts(rng: random.Random, split: Split, low: int, high: int) -> tuple[list[Pair], dict]:
    """Draw how many there are of one pair, evenly from 0; about half of the others share its colour or its shape."""
    pair, count = rng.choice(split.pairs), rng.randint(0, high)
    number = rng.randint(max(1, low, count), high)
    others = [other for other in split.mentioned if other != pair]
    alike = [other for other in others if (other[0] == pair[0]) != (other[1] == pair[1])]
    pairs = [pair] * count
    for _ in range(number - count):
        pairs.append(rng.choice(alike if rng.random() < ADVERSARIAL_SHARE else others))
    return pairs, {"pair": (count, pair)}


def plan_kind_counts(rng: random.Random, split: Split, low: int, high: int) -> tuple[list[str], dict]:
    """Draw how many are of one kind, evenly from 0, then as many names of it; the others are of other kinds."""
    pack = split.pack
    kind, count = rng.choice(pack.countable_kinds(high)), rng.randint(0, high)
    number = rng.randint(max(1, low, count), high)
    names = rng.sample(pack.by_kind[kind], count)
    while len(names) < number:
        name = pack.pick(rng, names)
        if pack.kind_of[name] != kind:
            names.append(name)
    return names, {"kind": (count, kind)}


def ask_count_by_pair(sitting: Sitting) -> Draft | None:
    if "pair" not in sitting.counted or sitting.asked.get("count_by_pair"):
        return None
    number, (colour, shape) = sitting.counted["pair"]
    return _draft(sitting, "count_by_pair", f"{colour} {PLURALS[shape]}", number)


def ask_count_by_kind(sitting: Sitting) -> Draft | None:
    if "kind" not in sitting.counted or sitting.asked.get("count_by_kind"):
        return None
    number, kind = sitting.counted["kind"]
    return _draft(sitting, "count_by_kind", f"{kind}s", number)


def _draft(sitting: Sitting, task: str, things: str, number: int) -> Draft:
    pool = tuple(map(str, range(sitting.numbers[1] + 1)))
    return Draft("count_these", {"things": things}, str(number), pool, task)


TASKS = {
    "count_by_pair": Task(
        "count", ask_count_by_pair, {"shapes": plan_pair_counts}, "number", counts=plan_pair_counts, weight=0.7
    ),
    "count_by_kind": Task(
        "count", ask_count_by_kind, {"sprites": plan_kind_counts}, "number", counts=plan_kind_counts, weight=0.7
    ),
}
WORDINGS: dict[str, Template] = {
    "count_these": (
        (
            "How many {things} are there?",
            "How many {things} are in the image?",
            "How many {things} does the image show?",
            "How many {things} can you see?",
            "What is the number of {things}?",
            "Count the {things}.",
        ),
        ("In the image, how many {things} are there?", "Count the {things} in the image."),
    ),
}
