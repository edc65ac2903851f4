"""A folder of stamps as Tux Paint has them: pictures, and beside each a .txt file that says what it shows.

The stamps are under the GPL and are not part of phantrol: they are read where they lie, `apt install
tuxpaint-stamps-default` puts them into /usr/share/tuxpaint/stamps.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from PIL import Image

from phantrol.data.primer.vocabulary import COLOURS, SHAPES

TUXPAINT = "/usr/share/tuxpaint/stamps"
# top folder -> kind; what is in other folders is a "thing"
KINDS = {
    "animals": "animal", "food": "food", "vehicles": "vehicle", "plants": "plant", "clothes": "clothing",
    "tools": "tool",
}  # fmt: skip
LEFT_OUT = ("symbols", "people", "sports")  # letters, flags, persons, and what persons do
NAME = re.compile(r"(?:(?:an?|the|some) )?([a-z]+)[.!]?")


@dataclass(frozen=True)
class Stamp:
    kind: str
    path: Path


@lru_cache(maxsize=8)
def read_stamps(folder: str) -> dict[str, Stamp]:
    """Return the stamps of a folder whose name is one word ("A frog.", not "A singing dinosaur."), by name.

    Of stamps with one name the first counts. Colors and shapes are no names, since questions use such words otherwise.
    Raises ValueError if there is no such folder.
    """
    root = Path(folder)
    if not root.is_dir():
        hint = ": apt install tuxpaint-stamps-default" if folder == TUXPAINT else ""
        raise ValueError(f"no folder of sprites at {folder}{hint or ': expected one with PNG and .txt files'}")
    found: dict[str, Stamp] = {}
    for path in sorted(root.rglob("*.png")):
        top = path.relative_to(root).parts[0]
        name = _name(path.with_suffix(".txt")) if top not in LEFT_OUT else None
        if name is not None and name not in found:
            found[name] = Stamp(KINDS.get(top, "thing"), path)
    return found


def open_stamp(folder: str, name: str, size_px: int) -> Image.Image:
    """Return the stamp without empty margins, as RGBA, centred in a square of size_px.

    Raises ValueError if the picture cannot be read.
    """
    path = read_stamps(folder)[name].path
    try:
        with Image.open(path) as file:
            drawing = file.convert("RGBA")
        return fit(drawing, size_px)
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} is not a picture that can be used ({error}): mend or remove it") from error


def fit(drawing: Image.Image, size_px: int) -> Image.Image:
    """Return the RGBA drawing without its empty margins, scaled to fill a square of `size_px` and centred in it.

    Raises ValueError if nothing in it is opaque.
    """
    box = drawing.getchannel("A").getbbox()
    if box is None:
        raise ValueError("an empty drawing: nothing in it is opaque")
    drawing = drawing.crop(box)
    scale = size_px / max(drawing.size)
    drawing = drawing.resize([max(1, round(side * scale)) for side in drawing.size], Image.Resampling.LANCZOS)
    square = Image.new("RGBA", (size_px, size_px))
    square.paste(drawing, ((size_px - drawing.width) // 2, (size_px - drawing.height) // 2))
    return square


def _name(text_file: Path) -> str | None:
    """Return "flamingo" of "A flamingo.", or None if the sentence is a longer one."""
    if not text_file.is_file():
        return None
    lines = text_file.read_text("utf-8", errors="replace").splitlines()
    found = NAME.fullmatch(lines[0].strip().lower()) if lines else None
    return found[1] if found and found[1] not in (*COLOURS, *SHAPES) else None
