"""A page: what charts, tables, documents and the like are drawn on. Lengths are in px of the finished picture.

Slanted lines and round shapes are drawn at twice the size; `settle` brings the page to its size, and letters and
upright edges come after, since they need no smoothing.
"""

from __future__ import annotations

import random
from functools import lru_cache

from PIL import Image, ImageDraw

from phantrol.data.primer.fonts import fonts, load_font
from phantrol.data.primer.splits import Split
from phantrol.data.primer.vocabulary import COLOURS

Colour = tuple[int, int, int]
INK: Colour = (34, 34, 40)
FAINT: Colour = (196, 198, 204)
PAPERS = {
    "plain": ((255, 255, 255), (250, 250, 247), (244, 247, 252), (252, 246, 238), (243, 249, 243)),
    "sketch": ((255, 252, 238), (232, 240, 236), (240, 234, 244)),
}
MARKERS = tuple(COLOURS)  # names of the colours that bars, slices and lines have


class Page:
    """A picture in the making.

    size_px  side of the finished picture;  font  a name of `fonts`
    smooth   begin at twice the size, until `settle`
    """

    def __init__(self, size_px: int, paper: Colour, font: str, smooth: bool = False):
        self.size_px, self.paper, self.font = size_px, paper, font
        self._scale = 2 if smooth else 1
        self.image = Image.new("RGB", (size_px * self._scale,) * 2, paper)
        self._pen = ImageDraw.Draw(self.image)

    def settle(self) -> None:
        """Bring a page that was begun at twice its size to its size."""
        self.image = self.image.reduce(self._scale)
        self._scale = 1
        self._pen = ImageDraw.Draw(self.image)

    def line(self, points: list[tuple[float, float]], colour: Colour = INK, width: float = 1.0) -> None:
        scaled = [(x * self._scale, y * self._scale) for x, y in points]
        self._pen.line(scaled, fill=colour, width=max(1, round(width * self._scale)), joint="curve")

    def polygon(self, points: list[tuple[float, float]], colour: Colour) -> None:
        self._pen.polygon([(x * self._scale, y * self._scale) for x, y in points], fill=colour)

    def box(
        self,
        left: float,
        top: float,
        right: float,
        bottom: float,
        fill: Colour | None = None,
        edge: Colour | None = None,
    ) -> None:
        corners = [round(v * self._scale) for v in (left, top, right, bottom)]
        self._pen.rectangle(corners, fill=fill, outline=edge, width=self._scale)

    def round_box(
        self, left: float, top: float, right: float, bottom: float, radius: float, fill: Colour, edge: Colour
    ) -> None:
        corners = [round(v * self._scale) for v in (left, top, right, bottom)]
        self._pen.rounded_rectangle(corners, radius * self._scale, fill=fill, outline=edge, width=self._scale)

    def disc(self, x: float, y: float, radius: float, fill: Colour | None, edge: Colour | None = None) -> None:
        corners = [v * self._scale for v in (x - radius, y - radius, x + radius, y + radius)]
        self._pen.ellipse(corners, fill=fill, outline=edge, width=2 * self._scale)

    def slice(self, x: float, y: float, radius: float, start: float, end: float, fill: Colour) -> None:
        """Fill a slice from one angle to another, in degrees, clockwise from three o'clock."""
        corners = [v * self._scale for v in (x - radius, y - radius, x + radius, y + radius)]
        self._pen.pieslice(corners, start, end, fill=fill, outline=self.paper, width=self._scale)

    def arc(self, x: float, y: float, radius: float, start: float, end: float, colour: Colour, width: float) -> None:
        corners = [v * self._scale for v in (x - radius, y - radius, x + radius, y + radius)]
        self._pen.arc(corners, start, end, fill=colour, width=max(1, round(width * self._scale)))

    def arrow(self, x0: float, y0: float, x1: float, y1: float, colour: Colour, width: float, head: float) -> None:
        """Draw a line with a head of this length at its second end."""
        length = ((x1 - x0) ** 2 + (y1 - y0) ** 2) ** 0.5
        u, v = (x1 - x0) / length, (y1 - y0) / length
        base_x, base_y = x1 - head * u, y1 - head * v
        self.line([(x0, y0), (base_x, base_y)], colour, width)
        half = 0.5 * head
        self.polygon([(x1, y1), (base_x - half * v, base_y + half * u), (base_x + half * v, base_y - half * u)], colour)

    def write(
        self, x: float, y: float, text: str, px: float, colour: Colour = INK, anchor: str = "l", font: str | None = None
    ) -> None:
        """Write a line, its capitals centred on y; anchor "l", "m" or "r": what of the text x is."""
        mask, middle = _letters(text, font or self.font, round(px))
        left = x - {"l": 0, "m": mask.width / 2, "r": mask.width}[anchor]
        self.image.paste(colour, (round(left), round(y) - middle), mask)

    def write_turned(self, x: float, y: float, text: str, px: float, colour: Colour, angle: float) -> None:
        """Write a line whose middle is at (x, y), turned by an angle in degrees."""
        mask = _letters(text, self.font, round(px))[0].rotate(angle, Image.Resampling.BICUBIC, expand=True)
        self.image.paste(colour, (round(x - mask.width / 2), round(y - mask.height / 2)), mask)

    def width_of(self, text: str, px: float) -> int:
        return _letters(text, self.font, round(px))[0].width

    def fit(self, texts: tuple[str, ...] | list[str], px: float, room: float) -> float:
        """Return a size of letters, at most px, at which each of the texts is no wider than `room`."""
        widest = max(self.width_of(text, px) for text in texts)
        return px if widest <= room else px * room / widest


@lru_cache(maxsize=8192)
def _letters(text: str, font_name: str, px: int) -> tuple[Image.Image, int]:
    """Return the text as a mask, and how far below its upper edge the middle of a capital lies."""
    font = load_font(font_name, px)
    ascent, descent = font.getmetrics()
    left, _, right, _ = font.getbbox(text, anchor="ls")
    mask = Image.new("L", (max(1, right - min(0, left)), ascent + descent))
    ImageDraw.Draw(mask).text((-min(0, left), ascent), text, fill=255, font=font, anchor="ls")
    return mask, ascent - _capital(font_name, px) // 2


@lru_cache(maxsize=256)
def _capital(font_name: str, px: int) -> int:
    return -load_font(font_name, px).getbbox("H", anchor="ls")[1]


def draw_look(rng: random.Random, split: Split) -> dict[str, object]:
    """Return what carries no meaning: the style of the split, a font, a seed for papers and the like."""
    font = rng.choice(fonts(split.name, split.extra_fonts))
    return {"style": split.style, "font": font, "paint_seed": rng.getrandbits(48)}


def shade(name: str, style: str) -> Colour:
    """Return a colour by its name; another style has paler ones."""
    rgb = COLOURS[name]
    return rgb if style == "plain" else tuple((3 * channel + 255) // 4 for channel in rgb)
