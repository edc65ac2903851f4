"""A canvas for figures: lines, dots and words at fractions of a pixel, drawn large and made smaller at the end."""

from __future__ import annotations

from typing import Literal

from PIL import Image, ImageDraw

from phantrol.data.primer.fonts import load_font

SCALE, SHOWN = 4, 2  # drawn at so many pixels a unit, and kept at so many
TEXT_PX = 13
COLOURS = 128  # few enough for small files
INK, MUTED, LINE, BAND = "#17202b", "#566273", "#dce1e8", "#f0f3f7"

Anchor = Literal["left", "middle", "right"]


def width_of(words: str, size: float = TEXT_PX) -> float:
    """Return how wide a canvas draws words, in units."""
    return load_font("aileron", round(size * SCALE)).getlength(words) / SCALE


class Canvas:
    """A white sheet. Places are in units, from the upper left corner; text is placed by its upper edge."""

    def __init__(self, width: float, height: float):
        self._sheet = Image.new("RGB", (round(width * SCALE), round(height * SCALE)), "white")
        self._pen = ImageDraw.Draw(self._sheet)

    def text(self, x: float, y: float, words: str, colour: str, size: float = TEXT_PX, anchor: Anchor = "left") -> None:
        x -= {"left": 0.0, "middle": 0.5, "right": 1.0}[anchor] * width_of(words, size)
        self._pen.text((x * SCALE, y * SCALE), words, colour, load_font("aileron", round(size * SCALE)))

    def line(self, x1: float, y1: float, x2: float, y2: float, colour: str, width: float = 1) -> None:
        self._pen.line((x1 * SCALE, y1 * SCALE, x2 * SCALE, y2 * SCALE), colour, round(width * SCALE))

    def box(self, x1: float, y1: float, x2: float, y2: float, colour: str) -> None:
        self._pen.rectangle((x1 * SCALE, y1 * SCALE, x2 * SCALE, y2 * SCALE), colour)

    def dot(self, x: float, y: float, radius: float, colour: str) -> None:
        self._pen.ellipse(
            ((x - radius) * SCALE, (y - radius) * SCALE, (x + radius) * SCALE, (y + radius) * SCALE), colour
        )

    def finished(self) -> Image.Image:
        """Return the sheet, its edges smoothed."""
        size = tuple(side * SHOWN // SCALE for side in self._sheet.size)
        smooth = self._sheet.resize(size, Image.Resampling.LANCZOS)
        return smooth.quantize(COLOURS, dither=Image.Dither.NONE)
