"""Captions: everything that is in the picture, from left to right."""

from __future__ import annotations

from dataclasses import replace

from phantrol.data.primer.asking import Draft, Sitting
from phantrol.data.primer.scene import Thing
from phantrol.data.primer.vocabulary import COLOURS, SHAPES, SIZES, with_article


def ask_caption(sitting: Sitting) -> Draft | None:
    if sitting.asked.get("captions"):
        return None
    things = sitting.scene.things
    vague = ("The image shows an object.",) if len(things) == 1 else ("The image shows some objects.",)
    wrong = write_caption(_alter_one(sitting))
    return Draft("caption", {}, write_caption(things), (), "caption", wrong=(wrong,), vague=vague)


def write_caption(things: tuple[Thing, ...]) -> str:
    """Return "From left to right the image shows a large purple cross and a small red circle."."""
    phrases = [with_article(f"{thing.size} {thing.noun}" if thing.size else thing.noun) for thing in things]
    if len(phrases) == 1:
        return f"The image shows {phrases[0]}."
    return f"From left to right the image shows {', '.join(phrases[:-1])} and {phrases[-1]}."


def _alter_one(sitting: Sitting) -> tuple[Thing, ...]:
    """Return the things with exactly one attribute of one of them changed."""
    things = sitting.scene.things
    i = sitting.rng.randrange(len(things))
    return (*things[:i], _alter(sitting, things[i]), *things[i + 1 :])


def _alter(sitting: Sitting, thing: Thing) -> Thing:
    rng = sitting.rng
    if thing.colour is None:
        return replace(thing, name=sitting.split.pack.pick(rng, [other.name for other in sitting.scene.things]))
    attribute = rng.choice(("size", "colour", "name"))
    if attribute == "size":
        return replace(thing, size=SIZES[1 - SIZES.index(thing.size)])
    if attribute == "colour":
        pairs = [(colour, thing.name) for colour in COLOURS if colour != thing.colour]
    else:
        pairs = [(thing.colour, shape) for shape in SHAPES if shape != thing.name]
    colour, shape = rng.choice([pair for pair in pairs if pair in sitting.split.mentioned])
    return replace(thing, colour=colour, name=shape)
