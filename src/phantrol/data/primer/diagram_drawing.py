"""From a diagram to a picture."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from PIL import Image

from phantrol.data.primer.drawing import SPRITE_SHEET
from phantrol.data.primer.page import INK, PAPERS, Colour, Page
from phantrol.data.primer.sprites import sprite

if TYPE_CHECKING:
    from phantrol.data.primer.diagrams import Diagram

FILLS: tuple[Colour, ...] = ((222, 234, 250), (226, 242, 222), (252, 236, 214), (244, 224, 236), (238, 238, 238))
LETTERS, SPRITE = 0.054, 0.17  # of the side
GAP = 0.012  # between an arrow and its nodes
HEAD = 0.04
Box = tuple[float, float, float, float]  # the middle, half the width, half the height


def draw_diagram(diagram: Diagram, size_px: int) -> Image.Image:
    """Return the diagram as an RGB picture of size_px by size_px."""
    rng = random.Random(diagram.paint_seed)
    page = Page(size_px, rng.choice(PAPERS[diagram.style]), diagram.font, smooth=True)
    fill, ovals = rng.choice(FILLS), diagram.form == "web" or rng.random() < 0.4
    letters = LETTERS * size_px
    settled = Page(size_px, page.paper, diagram.font)  # measures letters at their final size
    boxes = [_box(settled, diagram, i, letters) for i in range(len(diagram.names))]
    for a, b in diagram.edges:
        _draw_edge(page, boxes[a], boxes[b])
    if not diagram.sprites:
        for x, y, half_width, half_height in boxes:
            corners = (x - half_width, y - half_height, x + half_width, y + half_height)
            page.round_box(*corners, half_height if ovals else 2, fill, INK)
    page.settle()
    for name, (x, y, *_) in zip(diagram.names, boxes, strict=True):
        if diagram.sprites:
            size = round(SPRITE * size_px)
            picture = sprite(diagram.stamps or SPRITE_SHEET[diagram.style], name, size)
            page.image.paste(picture, (round(x - size / 2), round(y - size / 2)), picture)
        else:
            page.write(x, y, name, letters, anchor="m")
    return page.image


def _box(page: Page, diagram: Diagram, i: int, letters: float) -> Box:
    """Return the middle of a node, and half its width and height, pushed into the picture."""
    side, (x, y) = page.size_px, diagram.places[i]
    if diagram.sprites:
        half_width = half_height = SPRITE * side / 2
    else:
        half_width, half_height = page.width_of(diagram.names[i], letters) / 2 + 0.5 * letters, 0.95 * letters
    x = min(max(x * side, half_width + 2), side - half_width - 2)
    y = min(max(y * side, half_height + 2), side - half_height - 2)
    return x, y, half_width, half_height


def _draw_edge(page: Page, start: Box, end: Box) -> None:
    """Draw an arrow from the rim of one node to the rim of another."""
    side, gap = page.size_px, GAP * page.size_px
    dx, dy = end[0] - start[0], end[1] - start[1]
    length = (dx * dx + dy * dy) ** 0.5
    u, v = dx / length, dy / length
    reach = [_reach(u, v, box[2] + gap, box[3] + gap) for box in (start, end)]
    page.arrow(
        start[0] + u * reach[0],
        start[1] + v * reach[0],
        end[0] - u * reach[1],
        end[1] - v * reach[1],
        INK,
        0.009 * side,
        HEAD * side,
    )


def _reach(u: float, v: float, half_width: float, half_height: float) -> float:
    """Return how far it is from the middle of a box to its rim, in the direction (u, v)."""
    return min(half_width / abs(u) if u else 9e9, half_height / abs(v) if v else 9e9)
