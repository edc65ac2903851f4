"""Questions about where things are. They serve scenes of shapes and scenes of sprites alike."""

from __future__ import annotations

from itertools import combinations

from phantrol.data.primer.asking import Draft, Sitting, unique
from phantrol.data.primer.scene import BARELY, CLEARLY, MANY, Thing

SIDES = {"leftmost": ("x", 1), "rightmost": ("x", -1), "highest": ("y", 1), "lowest": ("y", -1)}


def ask_left_right(sitting: Sitting) -> Draft | None:
    return _ask_relation(sitting, "left_right", "x", ("left", "right"))


def ask_above_below(sitting: Sitting) -> Draft | None:
    return _ask_relation(sitting, "above_below", "y", ("above", "below"))


def ask_outermost(sitting: Sitting) -> Draft | None:
    """The side is drawn among those on which one thing stands out."""
    things = sitting.scene.things
    if len(things) < 2:
        return None
    candidates = []
    for side, (axis, sign) in SIDES.items():
        order = sorted(things, key=lambda thing: sign * getattr(thing, axis))
        apart = abs(getattr(order[0], axis) - getattr(order[1], axis))
        if apart >= BARELY and _is_about(sitting, order[0]):
            candidates.append((side, order[0]))
    task = "objects" if sitting.scene.kind == "sprites" else "outermost"
    done = sitting.asked.get(task, ())
    candidates = [candidate for candidate in candidates if candidate[1].noun not in done]
    if not candidates:
        return None
    side, thing = sitting.rng.choice(candidates)
    pool, vague = nouns(sitting, thing)
    near = tuple(other.noun for other in things if other.noun in pool)
    return Draft("outermost", {"side": side}, thing.noun, pool, thing.noun, near, vague=vague)


def nouns(sitting: Sitting, thing: Thing) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the names the thing could have had, and those too general to say what it is."""
    if thing.colour:
        pool = tuple(f"{colour} {shape}" for colour, shape in sitting.split.mentioned)
        return pool, (f"{thing.colour} object", thing.name)
    pack = sitting.split.pack
    return pack.others(thing.name), (pack.kind_of[thing.name], "object")


def _ask_relation(sitting: Sitting, task: str, axis: str, words: tuple[str, str]) -> Draft | None:
    """Draw the answer, then a pair of things, then the order in which the answer is true of them."""
    rng, things = sitting.rng, unique(sitting.scene.things, "noun")
    apart = CLEARLY if len(sitting.scene.things) < MANY else CLEARLY * 0.7
    done = sitting.asked.get(task, ())
    pairs = [
        (one, two)
        for one, two in combinations(things, 2)
        if abs(getattr(one, axis) - getattr(two, axis)) >= apart
        and (_is_about(sitting, one) or _is_about(sitting, two))
        and frozenset((one.noun, two.noun)) not in done
    ]
    if not pairs:
        return None
    answer = rng.choice(words)
    low, high = sorted(rng.choice(pairs), key=lambda thing: getattr(thing, axis))
    thing, other = (low, high) if answer == words[0] else (high, low)
    vague = (f"{words[0]} or {words[1]}", f"{words[1]} or {words[0]}")
    slots = {"thing": thing.noun, "other": other.noun}
    return Draft(task, slots, answer, words, frozenset(slots.values()), vague=vague)


def _is_about(sitting: Sitting, thing: Thing) -> bool:
    return thing.pair is None or thing.pair in sitting.split.pairs
