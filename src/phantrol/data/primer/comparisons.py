"""More about places and sizes: what is beside a thing, in which corner it is, yes or no, which of two is larger."""

from __future__ import annotations

from itertools import combinations

from phantrol.data.primer.asking import Draft, Sitting, Task, unique
from phantrol.data.primer.scene import BARELY, CLEARLY, MANY, Thing
from phantrol.data.primer.shape_tasks import plan_pairs
from phantrol.data.primer.spatial_tasks import nouns
from phantrol.data.primer.sprite_tasks import plan_sprites
from phantrol.data.primer.wordings import Template

# side -> (axis, sign): a thing is on this side of another if sign times its place is less
SIDES = {"left of": ("x", 1), "right of": ("x", -1), "above": ("y", 1), "below": ("y", -1)}
OPPOSITE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
CORNERS = ("top left", "top right", "bottom left", "bottom right")
CORNER = 0.38  # of the side: so near to both edges is a corner
DODGES = ("yes or no", "no or yes", "maybe")


def lies(thing: Thing, side: str, other: Thing) -> float:
    """Return how far a thing lies on a side of another, as a fraction of the picture's side."""
    axis, sign = SIDES[side]
    return sign * (getattr(other, axis) - getattr(thing, axis))


def is_fair(sitting: Sitting, thing: Thing) -> bool:
    """Return whether the split asks about this thing, and its name is the only one."""
    asked = thing.pair is None or thing.pair in sitting.split.pairs
    return asked and [other.noun for other in sitting.scene.things].count(thing.noun) == 1


def compare(sitting: Sitting, done: tuple | list) -> tuple[str, Thing, Thing] | None:
    """Return (side, thing, other): the thing clearly lies on that side of the other. Every side is as likely."""
    apart = CLEARLY if len(sitting.scene.things) < MANY else 0.7 * CLEARLY
    pairs = [
        (one, two, axis)
        for one, two in combinations(unique(sitting.scene.things, "noun"), 2)
        for axis in ("x", "y")
        if abs(getattr(one, axis) - getattr(two, axis)) >= apart
        and (is_fair(sitting, one) or is_fair(sitting, two))
        and frozenset((one.noun, two.noun)) not in done
    ]
    if not pairs:
        return None
    one, two, axis = sitting.rng.choice(pairs)
    side = sitting.rng.choice([side for side in SIDES if SIDES[side][0] == axis])
    return (side, one, two) if lies(one, side, two) > 0 else (side, two, one)


def ask_relation(sitting: Sitting) -> Draft | None:
    found = compare(sitting, sitting.asked.get("relation", ()))
    if found is None:
        return None
    side, thing, other = found
    answer = sitting.rng.choice(("yes", "no"))
    if answer == "no":
        thing, other = other, thing
    slots = {"thing": thing.noun, "side": side, "other": other.noun}
    return Draft("relation", slots, answer, ("yes", "no"), frozenset((thing.noun, other.noun)), vague=DODGES)


def ask_beside(sitting: Sitting) -> Draft | None:
    """Ask about a thing with one other clearly on a side, and none that is nearly there."""
    done = sitting.asked.get("beside", ())
    apart = CLEARLY if len(sitting.scene.things) < MANY else 0.7 * CLEARLY
    found = []
    for thing in sitting.scene.things:
        for side in SIDES:
            others = [other for other in sitting.scene.things if other is not thing]
            there = [other for other in others if lies(other, side, thing) > -BARELY]
            alone = len(there) == 1 and lies(there[0], side, thing) >= apart
            if alone and (thing.noun, side) not in done and is_fair(sitting, thing) and is_fair(sitting, there[0]):
                found.append((thing, side, there[0]))
    if not found:
        return None
    thing, side, answer = sitting.rng.choice(found)
    pool, vague = nouns(sitting, answer)
    pool = tuple(noun for noun in pool if noun != thing.noun)
    near = tuple(other.noun for other in sitting.scene.things if other.noun in pool)
    return Draft(
        "beside", {"side": side, "thing": thing.noun}, answer.noun, pool, (thing.noun, side), near, vague=vague
    )


def ask_corner(sitting: Sitting) -> Draft | None:
    done = sitting.asked.get("corner", ())
    found = [
        (thing, corner)
        for thing in sitting.scene.things
        if is_fair(sitting, thing) and thing.noun not in done and (corner := corner_of(thing))
    ]
    if not found:
        return None
    thing, corner = sitting.rng.choice(found)
    near = tuple(other for other in CORNERS if set(other.split()) & set(corner.split()))
    return Draft("corner", {"thing": thing.noun}, corner, CORNERS, thing.noun, near)


def corner_of(thing: Thing) -> str | None:
    """Return the corner a thing is in, or None if it is in none."""
    sides = [
        low if place < CORNER else high if place > 1 - CORNER else None
        for place, low, high in ((thing.y, "top", "bottom"), (thing.x, "left", "right"))
    ]
    return " ".join(sides) if all(sides) else None


def ask_larger(sitting: Sitting) -> Draft | None:
    """Ask which of two is larger, or smaller: one is large and one is small."""
    rng, done = sitting.rng, sitting.asked.get("larger", ())
    things = [thing for thing in unique(sitting.scene.things, "noun") if thing.size]
    pairs = [
        (one, two)
        for one, two in combinations(things, 2)
        if one.size != two.size
        and (is_fair(sitting, one) or is_fair(sitting, two))
        and frozenset((one.noun, two.noun)) not in done
    ]
    if not pairs:
        return None
    pair = list(rng.choice(pairs))
    rng.shuffle(pair)
    side = rng.choice(("larger", "smaller"))
    wanted = "large" if side == "larger" else "small"
    answer = next(thing.noun for thing in pair if thing.size == wanted)
    names = (pair[0].noun, pair[1].noun)
    slots = {"side": side, "thing": names[0], "other": names[1]}
    return Draft("larger", slots, answer, names, frozenset(names), vague=(f"{names[0]} or {names[1]}", "object"))


_BOTH = {"shapes": plan_pairs, "sprites": plan_sprites}
TASKS = {
    "larger": Task("attributes", ask_larger, {"shapes": plan_pairs}, numbers=(2, 99), weight=0.5),
    "relation": Task("spatial", ask_relation, _BOTH, "yesno", numbers=(2, 99), weight=0.7),
    "beside": Task("spatial", ask_beside, _BOTH, numbers=(2, 99), weight=0.7),
    "corner": Task("spatial", ask_corner, _BOTH, picky=True, weight=0.5),
}
WORDINGS: dict[str, Template] = {
    "relation": (
        (
            "Is the {thing} {side} the {other}?",
            "Is the {thing} placed {side} the {other}?",
            "Can you see the {thing} {side} the {other}?",
            "Does the image show the {thing} {side} the {other}?",
            "Is the place of the {thing} {side} the {other}?",
            "Does the {thing} lie {side} the {other}?",
        ),
        ("In the image, is the {thing} {side} the {other}?", "Does the image have the {thing} {side} the {other}?"),
    ),
    "beside": (
        (
            "What is {side} the {thing}?",
            "Which object is {side} the {thing}?",
            "What object is {side} the {thing}?",
            "Name the object {side} the {thing}.",
            "What can you see {side} the {thing}?",
            "What is placed {side} the {thing}?",
        ),
        ("In the image, what is {side} the {thing}?", "Name what is {side} the {thing}."),
    ),
    "corner": (
        (
            "In which corner is the {thing}?",
            "Which corner is the {thing} in?",
            "What corner is the {thing} in?",
            "Name the corner of the {thing}.",
            "In which corner can you see the {thing}?",
            "Where is the {thing}, in which corner?",
        ),
        ("In the image, which corner is the {thing} in?", "Name the corner that the {thing} is in."),
    ),
    "larger": (
        (
            "Which is {side}, the {thing} or the {other}?",
            "What is {side}, the {thing} or the {other}?",
            "Which object is {side}, the {thing} or the {other}?",
            "Name the {side} one of the {thing} and the {other}.",
            "Of the {thing} and the {other}, which is {side}?",
            "Which one is {side}: the {thing} or the {other}?",
        ),
        (
            "In the image, which is {side}, the {thing} or the {other}?",
            "Name which is {side}, the {thing} or the {other}.",
        ),
    ),
}
