"""Questions whose right answers join several things: the form that a dodging answer has elsewhere."""

from __future__ import annotations

import random
from functools import lru_cache
from itertools import permutations

from phantrol.data.primer.asking import Draft, Sitting, Task
from phantrol.data.primer.splits import Split
from phantrol.data.primer.vocabulary import COLOURS, PLURALS, SHAPES, Pair
from phantrol.data.primer.wordings import Template


def plan_same_shape(rng: random.Random, split: Split, number: int) -> tuple[list[Pair], tuple]:
    return _plan(rng, split, number, "colours_of", 1)


def plan_same_colour(rng: random.Random, split: Split, number: int) -> tuple[list[Pair], tuple]:
    return _plan(rng, split, number, "shapes_of", 0)


def _plan(rng: random.Random, split: Split, number: int, task: str, shared: int) -> tuple[list[Pair], tuple]:
    """Two or three objects share their shape (1) or colour (0); the others do not."""
    target = rng.choice([pair for pair in split.pairs if len(_alike(pair, split, shared)) > 1])
    alike = [pair for pair in _alike(target, split, shared) if pair != target]
    among = [target, *rng.sample(alike, rng.randint(1, min(2, number - 1, len(alike))))]
    others = [pair for pair in split.pairs if pair[shared] != target[shared]]
    return [*among, *rng.sample(others, number - len(among))], (task, target[shared])


def _alike(pair: Pair, split: Split, shared: int) -> list[Pair]:
    """In `test_comp` few pairs share a shape, so their partners may be known ones."""
    return [other for other in split.mentioned if other[shared] == pair[shared]]


def ask_colours(sitting: Sitting) -> Draft | None:
    planned = sitting.lead("colours_of")
    if planned is None:
        return None
    (shape,) = planned
    right = [thing.colour for thing in sitting.scene.things if thing.name == shape]
    known = [colour for colour in COLOURS if (colour, shape) in sitting.split.mentioned]
    return _draft(sitting, "colours_of", {"shapes": PLURALS[shape]}, right, known)


def ask_shapes(sitting: Sitting) -> Draft | None:
    planned = sitting.lead("shapes_of")
    if planned is None:
        return None
    (colour,) = planned
    right = [thing.name for thing in sitting.scene.things if thing.colour == colour]
    known = [shape for shape in SHAPES if (colour, shape) in sitting.split.mentioned]
    return _draft(sitting, "shapes_of", {"colour": colour}, right, known)


def _draft(sitting: Sitting, task: str, slots: dict, right: list[str], known: list[str]) -> Draft:
    """The incorrect answer has another order, or one other word."""
    rng = sitting.rng
    wrong = rng.sample(right, len(right))
    others = [word for word in known if word not in right]
    if wrong == right or (others and rng.random() < 0.7):
        wrong = list(right)
        wrong[rng.randrange(len(wrong))] = rng.choice(others)
    vague = (" or ".join(right), "some colors" if task == "colours_of" else "some shapes")
    pool = _orders(tuple(known), len(right))
    return Draft(task, slots, join(right), pool, task, wrong=(join(wrong),), vague=vague)


@lru_cache(maxsize=256)
def _orders(words: tuple[str, ...], number: int) -> tuple[str, ...]:
    return tuple(join(list(order)) for order in permutations(words, number))


def join(words: list[str]) -> str:
    """Return "red and blue", "red, blue and green"."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


TASKS = {
    "colours_of": Task("attributes", ask_colours, {"shapes": plan_same_shape}, numbers=(2, 99), weight=0.3),
    "shapes_of": Task("attributes", ask_shapes, {"shapes": plan_same_colour}, numbers=(2, 99), weight=0.3),
}
WORDINGS: dict[str, Template] = {
    "colours_of": (
        (
            "What colors are the {shapes}, from left to right?",
            "Which colors are the {shapes}, from left to right?",
            "Name the colors of the {shapes} from left to right.",
            "What are the colors of the {shapes}, from left to right?",
            "From left to right, what colors are the {shapes}?",
            "Which colors do the {shapes} have, from left to right?",
        ),
        (
            "In the image, from left to right, what colors are the {shapes}?",
            "From left to right, name the colors of the {shapes}.",
        ),
    ),
    "shapes_of": (
        (
            "What shapes are {colour}, from left to right?",
            "Which shapes are {colour}, from left to right?",
            "Name the {colour} shapes from left to right.",
            "What are the {colour} shapes, from left to right?",
            "From left to right, what shapes are {colour}?",
            "Which {colour} shapes are there, from left to right?",
        ),
        (
            "In the image, from left to right, what shapes are {colour}?",
            "From left to right, name the {colour} shapes.",
        ),
    ),
}
