"""Scenes: the truth about a picture. Lengths and positions are fractions of the picture's side, y grows downwards."""

from __future__ import annotations

import random
from dataclasses import dataclass

from phantrol.data.primer.vocabulary import Pair

MARGIN = 0.02  # between an object and the border
GAP = 0.03  # between two objects
MANY = 4  # from so many objects on, they are drawn smaller and stand closer
CLEARLY = 0.14  # by so much two objects differ on an axis before a question compares them
BARELY = 0.06  # by so much all objects differ from left to right, so that captions have one order

RADII = {"small": (0.115, 0.135), "large": (0.18, 0.21), "sprite": (0.16, 0.22)}
SHRINK_OF_MANY = 0.72


@dataclass(frozen=True)
class Thing:
    """One object in the box of ±radius around (x, y): a coloured shape, or a sprite without colour and size."""

    name: str
    colour: str | None
    size: str | None
    x: float
    y: float
    radius: float
    angle: float  # degrees

    @property
    def noun(self) -> str:
        return f"{self.colour} {self.name}" if self.colour else self.name

    @property
    def pair(self) -> Pair | None:
        return (self.colour, self.name) if self.colour else None


@dataclass(frozen=True)
class Scene:
    """Everything that is drawn: the objects from left to right, the style, and the seed of what carries no meaning.

    stamps  folder of the drawings of sprites, "" for the bundled ones
    """

    kind: str
    things: tuple[Thing, ...]
    style: str
    paint_seed: int
    stamps: str = ""


def compose(
    rng: random.Random, kind: str, contents: list[Pair | str], style: str, axis: str | None = None, stamps: str = ""
) -> tuple[Scene, list[Thing]]:
    """Place the contents; return the scene and the things in the order of the contents.

    contents  (colour, shape) pairs for kind "shapes", names for kind "sprites"
    axis      "x" or "y": all objects differ clearly on it
    """
    sizes = [rng.choice(("small", "large")) if kind == "shapes" else "sprite" for _ in contents]
    spots = _place(rng, [rng.uniform(*RADII[size]) for size in sizes], axis)
    things = []
    for content, size, (x, y, radius) in zip(contents, sizes, spots, strict=True):
        angle = rng.uniform(-12, 12)
        if kind == "shapes":
            colour, shape = content
            things.append(Thing(shape, colour, size, x, y, radius, angle))
        else:
            things.append(Thing(content, None, None, x, y, radius, 0.0))
    scene = Scene(kind, tuple(sorted(things, key=lambda thing: thing.x)), style, rng.getrandbits(48), stamps)
    return scene, things


def _place(rng: random.Random, radii: list[float], axis: str | None) -> list[tuple[float, float, float]]:
    """Return (x, y, radius) of each object; tries again and again, a little smaller every few times."""
    shrink = SHRINK_OF_MANY if len(radii) >= MANY else 1.0
    few = len(radii) < MANY
    apart_x = CLEARLY if few and axis == "x" else BARELY
    apart_y = CLEARLY if few and axis == "y" else 0.0
    for attempt in range(1000):
        scale = shrink * max(0.6, 1 - 0.02 * (attempt // 25))
        spots = _try_to_place(rng, [radius * scale for radius in radii], apart_x, apart_y)
        if spots is not None:
            return spots
    raise RuntimeError(f"no room for {len(radii)} objects: RADII, GAP and BARELY do not fit together")


def _try_to_place(
    rng: random.Random, radii: list[float], apart_x: float, apart_y: float
) -> list[tuple[float, float, float]] | None:
    spots: list[tuple[float, float, float]] = []
    for radius in radii:
        low, span = MARGIN + radius, 1 - 2 * (MARGIN + radius)
        for _ in range(12):
            x, y = low + span * rng.random(), low + span * rng.random()
            for other_x, other_y, other_radius in spots:
                across, down = abs(x - other_x), abs(y - other_y)
                reach = radius + other_radius + GAP
                if across < apart_x or down < apart_y or (across < reach and down < reach):
                    break
            else:
                spots.append((x, y, radius))
                break
        else:
            return None
    return spots
