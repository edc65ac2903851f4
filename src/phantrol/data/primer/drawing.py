"""From a scene to a picture, with Pillow: shapes at twice the size and then reduced, sprites as they are."""

from __future__ import annotations

import math
import random

from PIL import Image, ImageDraw

from phantrol.data.primer.scene import Scene, Thing
from phantrol.data.primer.sprites import sprite
from phantrol.data.primer.vocabulary import COLOURS

OVERSAMPLING = 2
PAPERS = {
    "plain": ((246, 246, 244), (238, 240, 244), (250, 245, 232), (232, 242, 234), (226, 228, 232), (240, 232, 238)),
    "sketch": ((255, 252, 240), (222, 232, 240), (236, 228, 214)),
}
SPRITE_SHEET = {"plain": "noto", "sketch": "twemoji"}
TEXTURE_CELLS = 5
TEXTURE_DEPTH = 10  # of 255
TINT = 10  # of 255: how far a colour strays
STROKE, RIM = 0.30, 1 / 8  # of the radius
WHOLE_PX = 128  # larger pictures of shapes are not enlarged as a whole, which would take most of the time

_TEXTURE = bytes(value * TEXTURE_DEPTH // 256 for value in range(256))


def draw(scene: Scene, size_px: int) -> Image.Image:
    """Return the scene as an RGB picture of size_px by size_px, a pure function of both."""
    rng = random.Random(scene.paint_seed)
    shapes = [thing for thing in scene.things if thing.colour]
    whole = size_px <= WHOLE_PX and len(shapes) == len(scene.things)
    picture = _paper(rng, scene.style, size_px * OVERSAMPLING) if whole else _paper(rng, scene.style, size_px, 2)
    for thing in shapes:
        colour = tuple(min(255, max(0, c + rng.randint(-TINT, TINT))) for c in COLOURS[thing.colour])
        if whole:
            _draw_shape(picture, thing, scene.style, colour, size_px * OVERSAMPLING)
        else:
            _draw_enlarged(picture, thing, scene.style, colour, size_px)
    if whole:
        return picture.reduce(OVERSAMPLING)
    for thing in scene.things:
        if not thing.colour:
            _paste_sprite(picture, thing, scene.stamps or SPRITE_SHEET[scene.style], size_px)
    return picture


def _paper(rng: random.Random, style: str, side: int, coarse: int = 1) -> Image.Image:
    """Return paper with a texture of so coarse a grain, in pixels: it is so smooth that 2 cannot be seen."""
    base = rng.choice(PAPERS[style])
    noise = rng.randbytes(3 * TEXTURE_CELLS**2).translate(_TEXTURE)
    pixels = bytes(base[i % 3] - value for i, value in enumerate(noise))
    paper = Image.frombytes("RGB", (TEXTURE_CELLS, TEXTURE_CELLS), pixels)
    paper = paper.resize((side // coarse, side // coarse), Image.Resampling.BILINEAR)
    if coarse > 1:
        paper = paper.resize((side, side), Image.Resampling.NEAREST)
    if style == "sketch":
        pen = ImageDraw.Draw(paper)
        ruling = tuple(channel - 26 for channel in base)
        for i in range(1, 8):
            at = i * side // 8
            pen.line((0, at, side, at), fill=ruling, width=max(1, side // 112))
    return paper


def _paste_sprite(paper: Image.Image, thing: Thing, sheet: str, side: int) -> None:
    step = side // 16  # few sizes, so that the cache of scaled sprites helps
    size = int(2 * thing.radius * side / step) * step
    picture = sprite(sheet, thing.name, size)
    paper.paste(picture, (round(thing.x * side - size / 2), round(thing.y * side - size / 2)), picture)


def _draw_enlarged(picture: Image.Image, thing: Thing, style: str, colour: tuple[int, ...], side: int) -> None:
    """Enlarge what is around the shape, draw on it, and put it back reduced."""
    reach = thing.radius * (1 + RIM) * side + 2
    low = [max(0, int(at * side - reach)) for at in (thing.x, thing.y)]
    high = [min(side, int(at * side + reach) + 1) for at in (thing.x, thing.y)]
    size = [OVERSAMPLING * (b - a) for a, b in zip(low, high, strict=True)]
    around = picture.crop((*low, *high)).resize(size, Image.Resampling.NEAREST)
    _draw_shape(around, thing, style, colour, side * OVERSAMPLING, (OVERSAMPLING * low[0], OVERSAMPLING * low[1]))
    picture.paste(around.reduce(OVERSAMPLING), tuple(low))


def _draw_shape(
    paper: Image.Image,
    thing: Thing,
    style: str,
    colour: tuple[int, ...],
    side: int,
    corner: tuple[int, int] = (0, 0),
) -> None:
    """Draw on a paper that is the part of a picture of this side which begins at the corner."""
    pen = ImageDraw.Draw(paper)
    x, y, radius = thing.x * side - corner[0], thing.y * side - corner[1], thing.radius * side
    turn = math.radians(thing.angle)
    across, up = math.cos(turn) * radius, math.sin(turn) * radius
    points = [(x + u * across - v * up, y + u * up + v * across) for u, v in OUTLINES[thing.name]]
    if style == "plain":
        pen.polygon(points, fill=colour)
        return
    # The stroke lies inside the outline: the shape once in colour, once smaller in a pale tint.
    pen.polygon(points, fill=colour)
    hole = 1 - STROKE
    if thing.name in ("star", "cross"):  # their arms are too thin for a hole, so they get a dark rim
        pen.line(
            [*points, points[0], points[1]], fill=tuple(channel // 3 for channel in colour), width=round(radius * RIM)
        )
    else:
        cx = sum(px for px, _ in points) / len(points)
        cy = sum(py for _, py in points) / len(points)
        inner = [(cx + (px - cx) * hole, cy + (py - cy) * hole) for px, py in points]
        pen.polygon(inner, fill=tuple((channel + 3 * 255) // 4 for channel in colour))


def _circle(radius: float, corners: int, turn: float = 0.0, inner: float | None = None) -> list[tuple[float, float]]:
    radii = (radius, radius if inner is None else inner)
    angles = [turn - math.pi / 2 + 2 * math.pi * i / corners for i in range(corners)]
    return [(radii[i % 2] * math.cos(angle), radii[i % 2] * math.sin(angle)) for i, angle in enumerate(angles)]


def _heart() -> list[tuple[float, float]]:
    points = []
    for i in range(40):
        t = 2 * math.pi * i / 40
        u = math.sin(t) ** 3
        v = (13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)) / 16
        points.append((0.92 * u, 0.92 * (-v - 0.1)))
    return points


_ARM = 0.3
# Corners in the box of ±1, y downwards; turned by up to 12 degrees they stay in it.
OUTLINES: dict[str, list[tuple[float, float]]] = {
    "circle": _circle(0.92, 60),
    "square": [(-0.8, -0.8), (0.8, -0.8), (0.8, 0.8), (-0.8, 0.8)],
    "triangle": [(0.0, -0.92), (0.88, 0.68), (-0.88, 0.68)],
    "star": _circle(1.0, 10, inner=0.42),
    "cross": [
        (-_ARM, -0.92), (_ARM, -0.92), (_ARM, -_ARM), (0.92, -_ARM), (0.92, _ARM), (_ARM, _ARM),
        (_ARM, 0.92), (-_ARM, 0.92), (-_ARM, _ARM), (-0.92, _ARM), (-0.92, -_ARM), (-_ARM, -_ARM),
    ],
    "heart": _heart(),
}  # fmt: skip
