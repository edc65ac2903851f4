"""The drawings of sprites: from the bundled sheets, a WebP picture a style, or from a folder of stamps."""

from __future__ import annotations

from functools import lru_cache
from importlib.resources import files
from importlib.resources.abc import Traversable

from PIL import Image

from phantrol.data.primer.sprite_names import SPRITES
from phantrol.data.primer.stamps import open_stamp

CELL_PX = 96
COLUMNS = 20
SHEETS = ("noto", "twemoji")

_CELL_OF = {name: i for i, name in enumerate(SPRITES)}


def sheet_path(style: str) -> Traversable:
    return files("phantrol.data.primer") / f"sprites_{style}.webp"


@lru_cache(maxsize=2048)
def sprite(sheet: str, name: str, size_px: int) -> Image.Image:
    """Return the sprite as an RGBA picture of size_px by size_px. It is shared: do not write on it.

    sheet  one of SHEETS, or the folder of stamps that the name is from
    """
    if sheet not in SHEETS:
        return open_stamp(sheet, name, size_px)
    column, row = _CELL_OF[name] % COLUMNS, _CELL_OF[name] // COLUMNS
    box = (column * CELL_PX, row * CELL_PX, (column + 1) * CELL_PX, (row + 1) * CELL_PX)
    return _sheet(sheet).crop(box).resize((size_px, size_px), Image.Resampling.BICUBIC)


@lru_cache(maxsize=len(SHEETS))
def _sheet(style: str) -> Image.Image:
    with sheet_path(style).open("rb") as file:
        return Image.open(file).convert("RGBA")
