"""Questions about coloured shapes: shape, colour, size, existence, counts, and how their scenes are built."""

from __future__ import annotations

import random

from phantrol.data.primer.asking import Draft, Sitting, unique
from phantrol.data.primer.scene import Thing
from phantrol.data.primer.splits import Split
from phantrol.data.primer.vocabulary import COLOURS, PLURALS, SHAPES, SIZES, Pair, with_article

ADVERSARIAL_SHARE = 0.5  # of the absent pairs have their colour and their shape in the picture, on different objects


# -- scenes: (rng, split, number) -> (pairs, what the lead question is about)


def plan_pairs(rng: random.Random, split: Split, number: int) -> tuple[list[Pair], object]:
    return rng.sample(split.pairs, number), None


def plan_unique_colour(rng: random.Random, split: Split, number: int) -> tuple[list[Pair], object]:
    """The pair is drawn evenly, so given the colour in the question each shape is as likely."""
    target = rng.choice(split.pairs)
    others = [pair for pair in split.pairs if pair[0] != target[0]]
    return [target, *rng.sample(others, number - 1)], target


def plan_unique_shape(rng: random.Random, split: Split, number: int) -> tuple[list[Pair], object]:
    target = rng.choice(split.pairs)
    others = [pair for pair in split.pairs if pair[1] != target[1]]
    return [target, *rng.sample(others, number - 1)], target


def plan_unique_both(rng: random.Random, split: Split, number: int) -> tuple[list[Pair], object]:
    target = rng.choice(split.pairs)
    others = [pair for pair in split.pairs if pair[0] != target[0] and pair[1] != target[1]]
    return [target, *rng.sample(others, number - 1)], target


def plan_existence(rng: random.Random, split: Split, number: int) -> tuple[list[Pair], object]:
    """Draw the answer, then the pairs. The focus is (the answer, the absent pair if the scene was built around it).

    In `test_comp` half of the scenes for "no" show colour and shape of a held-out pair on two other objects.
    """
    answer = rng.choice(("yes", "no"))
    if answer == "yes" or split.pairs == split.mentioned or number < 2 or rng.random() >= ADVERSARIAL_SHARE:
        return rng.sample(split.pairs, number), (answer, None)
    colour, shape = rng.choice(split.pairs)
    known = [pair for pair in split.mentioned if pair not in split.pairs]
    same_colour = rng.choice([pair for pair in known if pair[0] == colour])
    same_shape = rng.choice([pair for pair in known if pair[1] == shape])
    others = [pair for pair in split.pairs if pair != (colour, shape)]
    return [same_colour, same_shape, *rng.sample(others, number - 2)], (answer, (colour, shape))


def plan_counts(rng: random.Random, split: Split, low: int, high: int) -> tuple[list[Pair], dict[str, tuple[int, str]]]:
    """Draw how many objects have one colour and one shape, each evenly from 0 to `high`, then fill up."""
    colour, shape = rng.choice(split.pairs)
    of_colour, of_shape = rng.randint(0, high), rng.randint(0, high)
    number = rng.randint(max(1, low, of_colour, of_shape), high)
    both = rng.randint(max(0, of_colour + of_shape - number), min(of_colour, of_shape))
    coloured = [(colour, other) for other in SHAPES if other != shape]
    shaped = [(other, shape) for other in COLOURS if other != colour]
    neither = [(c, s) for c in COLOURS for s in SHAPES if c != colour and s != shape]
    pairs = [(colour, shape)] * both
    for group, count in (
        (coloured, of_colour - both),
        (shaped, of_shape - both),
        (neither, number - of_colour - of_shape + both),
    ):
        allowed = [pair for pair in group if pair in split.pairs] or [pair for pair in group if pair in split.mentioned]
        pairs += rng.choices(allowed, k=count)
    return pairs, {"colour": (of_colour, colour), "shape": (of_shape, shape)}


# -- questions: sitting -> draft, or None where the scene does not allow a fair one


def ask_shape(sitting: Sitting) -> Draft | None:
    thing = _target(sitting, ("shape",), "colour")
    if thing is None:
        return None
    pool = tuple(shape for shape in SHAPES if (thing.colour, shape) in sitting.split.mentioned)
    near = tuple(other.name for other in sitting.scene.things if other.name in pool)
    return Draft("shape", {"colour": thing.colour}, thing.name, pool, thing.pair, near)


def ask_colour(sitting: Sitting) -> Draft | None:
    thing = _target(sitting, ("colour_one", "colour_several"), "name")
    if thing is None:
        return None
    pool = tuple(colour for colour in COLOURS if (colour, thing.name) in sitting.split.mentioned)
    near = tuple(other.colour for other in sitting.scene.things if other.colour in pool)
    return Draft("colour", {"shape": thing.name}, thing.colour, pool, thing.pair, near)


def ask_size(sitting: Sitting) -> Draft | None:
    done = sitting.asked.get("size", ())
    things = unique(sitting.scene.things, "noun")
    things = [thing for thing in things if thing.pair in sitting.split.pairs and thing not in done]
    if not things:
        return None
    thing = sitting.rng.choice(things)
    return Draft("size", {"thing": thing.noun}, thing.size, SIZES, thing, vague=("large or small", "small or large"))


def ask_existence(sitting: Sitting) -> Draft | None:
    """Yes and no are drawn first; a second question on the same scene gets the other answer."""
    rng, split = sitting.rng, sitting.split
    shown = {thing.pair for thing in sitting.scene.things}
    planned = None
    if sitting.asked.get("existence"):
        present = sitting.asked["existence"][-1] not in shown
    elif sitting.focus and not sitting.asked:
        answer, planned = sitting.focus
        present = answer == "yes"
    else:
        present = rng.random() < 0.5
    if planned:
        return _draft_existence(planned, present)
    if present:
        pairs = sorted(shown.intersection(split.pairs))
        return _draft_existence(rng.choice(pairs), True) if pairs else None
    absent = [pair for pair in split.pairs if pair not in shown]
    if rng.random() < ADVERSARIAL_SHARE:
        colours, shapes = {pair[0] for pair in shown}, {pair[1] for pair in shown}
        unbound = [pair for pair in absent if pair[0] in colours and pair[1] in shapes]
        absent = unbound or [pair for pair in absent if pair[0] in colours or pair[1] in shapes] or absent
    return _draft_existence(rng.choice(absent), False)


def ask_count(sitting: Sitting) -> Draft | None:
    low, high = sitting.numbers
    if not sitting.free_number or low == high or sitting.asked.get("count"):
        return None
    return _draft_count("count", {}, len(sitting.scene.things), low, high)


def ask_count_by_colour(sitting: Sitting) -> Draft | None:
    if "colour" not in sitting.counted or sitting.asked.get("count_by_colour"):
        return None
    number, colour = sitting.counted["colour"]
    return _draft_count("count_by_colour", {"colour": colour}, number, 0, sitting.numbers[1])


def ask_count_by_shape(sitting: Sitting) -> Draft | None:
    if "shape" not in sitting.counted or sitting.asked.get("count_by_shape"):
        return None
    number, shape = sitting.counted["shape"]
    return _draft_count("count_by_shape", {"shapes": PLURALS[shape]}, number, 0, sitting.numbers[1])


def _target(sitting: Sitting, tasks: tuple[str, ...], unique_in: str) -> Thing | None:
    """Return a thing that the attribute of the question singles out: the planned one, or any not asked about."""
    things = unique(sitting.scene.things, unique_in)
    if not sitting.asked and sitting.focus is not None:
        return next(thing for thing in things if thing.pair == sitting.focus)
    done = [pair for task in tasks for pair in sitting.asked.get(task, ())]
    things = [thing for thing in things if thing.pair in sitting.split.pairs and thing.pair not in done]
    return sitting.rng.choice(things) if things else None


def _draft_existence(pair: Pair, present: bool) -> Draft:
    slots = {"a_thing": with_article(" ".join(pair))}
    answer = "yes" if present else "no"
    return Draft("existence", slots, answer, ("yes", "no"), pair, vague=("yes or no", "no or yes", "maybe"))


def _draft_count(template: str, slots: dict[str, str], number: int, low: int, high: int) -> Draft:
    pool = tuple(str(i) for i in range(low, high + 1))
    return Draft(template, slots, str(number), pool, number)
