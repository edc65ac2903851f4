"""Explanations: an answer with its reason, in one sentence made from the scene."""

from __future__ import annotations

from phantrol.data.primer.asking import Draft, Sitting, Task, unique
from phantrol.data.primer.comparisons import OPPOSITE, compare, is_fair
from phantrol.data.primer.lists import join
from phantrol.data.primer.scene import Thing
from phantrol.data.primer.shape_tasks import plan_pairs
from phantrol.data.primer.vocabulary import COLOURS, PLURALS, SHAPES, with_article
from phantrol.data.primer.wordings import Template

DONE = "explain"


def ask_why_there(sitting: Sitting) -> Draft | None:
    """Is A left of B? "No, the A is right of the B." The reason says which way round it is."""
    found = None if sitting.asked.get("explain_relation") else compare(sitting, ())
    if found is None:
        return None
    side, thing, other = found
    true = sitting.rng.random() < 0.5
    one, two = (thing, other) if true else (other, thing)
    yes = f"Yes, the {one.noun} is {side} the {two.noun}."
    no = f"No, the {one.noun} is {OPPOSITE[side]} the {two.noun}."
    slots = {"thing": one.noun, "side": side, "other": two.noun}
    pair = (yes, no)
    return Draft("explain_relation", slots, pair[not true], pair, DONE, vague=_dodge(one, two))


def ask_why_larger(sitting: Sitting) -> Draft | None:
    things = unique(sitting.scene.things, "noun")
    pairs = [
        (one, two)
        for one in things
        for two in things
        if one.size == "large" and two.size == "small" and (is_fair(sitting, one) or is_fair(sitting, two))
    ]
    if not pairs or sitting.asked.get("explain_size"):
        return None
    large, small = sitting.rng.choice(pairs)
    names = [large.noun, small.noun]
    right, wrong = (
        f"The {a} is larger, because it is large and the {b} is small." for a, b in (names, reversed(names))
    )
    sitting.rng.shuffle(names)
    slots = {"thing": names[0], "other": names[1]}
    return Draft("explain_size", slots, right, (right, wrong), DONE, vague=_dodge(large, small))


def ask_why_so_many(sitting: Sitting) -> Draft | None:
    """Count the objects of a colour or shape that is there, and name them; the incorrect answer has one changed."""
    rng, split, things = sitting.rng, sitting.split, sitting.scene.things
    attribute = rng.choice(("colour", "name"))
    values = sorted({getattr(thing, attribute) for thing in things if is_fair(sitting, thing)})
    if not values or sitting.asked.get("explain_count"):
        return None
    value = rng.choice(values)
    pairs = [thing.pair for thing in things if getattr(thing, attribute) == value]
    others = [
        (colour, shape)
        for colour in ((value,) if attribute == "colour" else COLOURS)
        for shape in ((value,) if attribute == "name" else SHAPES)
        if (colour, shape) in split.mentioned and (colour, shape) not in pairs
    ]
    if not others:  # every pair that there is of this colour or shape is in the picture: there is nothing to change to
        return None
    changed = list(pairs)
    changed[rng.randrange(len(pairs))] = rng.choice(others)
    right, wrong = _list(pairs), _list(changed)
    pool = (*(_list([pair]) for pair in others), right)  # to one who does not look, one object is likeliest
    asked = f"{value} objects" if attribute == "colour" else PLURALS[value]
    vague = ("Some of them.", f"{len(pairs)} or more.")
    return Draft("explain_count", {"things": asked}, right, pool, DONE, wrong=(wrong,), vague=vague)


def _list(pairs: list[tuple[str, str]]) -> str:
    """Return "2: a red star and a blue star."."""
    return f"{len(pairs)}: {join([with_article(' '.join(pair)) for pair in pairs])}."


def _dodge(one: Thing, two: Thing) -> tuple[str, ...]:
    return (f"Maybe, there is {with_article(one.noun)} and {with_article(two.noun)}.", "Yes or no, it depends.")


_SHAPES = {"shapes": plan_pairs}
TASKS = {
    "explain_relation": Task("explanations", ask_why_there, _SHAPES, "free", numbers=(2, 99), weight=0.3),
    "explain_size": Task("explanations", ask_why_larger, _SHAPES, "free", numbers=(2, 99), weight=0.3),
    "explain_count": Task("explanations", ask_why_so_many, _SHAPES, "free", weight=0.3),
}
WORDINGS: dict[str, Template] = {
    "explain_relation": (
        (
            "Is the {thing} {side} the {other}? Explain.",
            "Is the {thing} {side} the {other}, and why?",
            "Is the {thing} {side} the {other}? Say why.",
            "Is the {thing} {side} the {other}? Give a reason.",
            "Explain whether the {thing} is {side} the {other}.",
            "Is the {thing} {side} the {other}? Tell me why.",
        ),
        (
            "In the image, is the {thing} {side} the {other}? Explain why.",
            "Tell me whether the {thing} is {side} the {other}, and why.",
        ),
    ),
    "explain_size": (
        (
            "Which is larger, the {thing} or the {other}? Explain.",
            "Which is larger, the {thing} or the {other}, and why?",
            "Which is larger, the {thing} or the {other}? Say why.",
            "Which is larger, the {thing} or the {other}? Give a reason.",
            "Explain which is larger, the {thing} or the {other}.",
            "Which is larger, the {thing} or the {other}? Tell me why.",
        ),
        (
            "In the image, which is larger, the {thing} or the {other}? Explain why.",
            "Tell me which is larger, the {thing} or the {other}, and why.",
        ),
    ),
    "explain_count": (
        (
            "How many {things} are there? Explain.",
            "How many {things} are there, and which?",
            "How many {things} are there? Name them.",
            "Count the {things} and name them.",
            "Explain how many {things} there are.",
            "How many {things} can you see, and which?",
        ),
        ("In the image, how many {things} are there, and which?", "Count the {things}. Which are there?"),
    ),
}
