"""The fonts that Primer writes with: which ones a split may use, and how they are loaded.

Aileron comes with Pillow, Cousine and Tinos beside this file (see fonts.txt), so that pictures are the same everywhere.
More of them, for `test_style` alone and only if asked for, come from the packages of the extra `phantrol[fonts]`.
"""

from __future__ import annotations

from functools import lru_cache
from importlib.metadata import entry_points
from importlib.resources import files
from importlib.resources.abc import Traversable

from PIL import ImageFont

CHARACTERS = "".join(map(chr, range(32, 127))) + "°"  # what all of them can write
BUNDLED = ("cousine", "tinos")
TRAINING = ("aileron", "cousine")
HELD_OUT = ("tinos",)
# Of what the packages of the extra offer; some have a dozen weights of one family, of which one is enough.
EXTRA = ("Roboto", "SourceSerifPro", "SourceSansPro", "Caladea")


def fonts(split: str, extra: bool = False) -> tuple[str, ...]:
    """Return the names of a split's fonts: one sans serif and one of fixed width, or for `test_style` others.

    extra  add those of the packages of `phantrol[fonts]` to the fonts of `test_style`
    Raises ValueError if the extra is asked for and not installed.
    """
    if split != "test_style":
        return TRAINING
    if not extra:
        return HELD_OUT
    missing = [name for name in EXTRA if name not in _installed()]
    if missing:
        raise ValueError(f"the fonts {', '.join(missing)} are not installed: pip install 'phantrol[fonts]'")
    return HELD_OUT + EXTRA


@lru_cache(maxsize=256)
def load_font(name: str, size_px: int) -> ImageFont.FreeTypeFont:
    """Return a font at a size. It is shared: do not change it.

    The basic layout is asked for by name, because not every build of Pillow has the other one.
    Raises ValueError for a name that `fonts` never gave.
    """
    if name == "aileron":
        return _with_basic_layout(ImageFont.load_default(size_px), size_px)
    if name in BUNDLED:
        with font_path(name).open("rb") as file:
            return ImageFont.truetype(file, size_px, layout_engine=ImageFont.Layout.BASIC)
    if name not in _installed():
        raise ValueError(f"unknown font {name!r}: use one of {', '.join((*TRAINING, *HELD_OUT, *_installed()))}")
    return ImageFont.truetype(_installed()[name], size_px, layout_engine=ImageFont.Layout.BASIC)


def font_path(name: str) -> Traversable:
    return files("phantrol.data.primer") / f"font_{name}.ttf"


def _with_basic_layout(font: ImageFont.FreeTypeFont, size_px: int) -> ImageFont.FreeTypeFont:
    font.path.seek(0)  # Pillow hands its own font out as an open file
    return ImageFont.truetype(font.path, size_px, layout_engine=ImageFont.Layout.BASIC)


@lru_cache(maxsize=1)
def _installed() -> dict[str, str]:
    """Return {name: file} of the extra's fonts that are there: such packages announce their files as an entry point."""
    found: dict[str, str] = {}
    for entry in entry_points(group="fonts_ttf"):
        found |= {name: str(path) for name, path in entry.load().items() if name in EXTRA}
    return found
