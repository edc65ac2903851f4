"""Words in a picture: a font that knows the characters, lines that fit, text that stands upright."""

from __future__ import annotations

from bisect import bisect_right
from functools import lru_cache

from PIL import Image, ImageDraw, ImageFont

# Pillow's own font knows Latin letters; where a question needs others, one of these usually lies on the machine
OTHERS = ("DejaVuSans.ttf", "NotoSans-Regular.ttf", "NotoSansCJK-Regular.ttc", "Arial Unicode.ttf", "Arial.ttf")
UNKNOWN = "\uffff"  # never a character: drawn as what a font has for those that it does not know
INK, MUTED = (23, 32, 43), (96, 108, 124)


def write(
    canvas: Image.Image,
    place: tuple[float, float],
    words: str,
    size_px: int,
    colour: tuple[int, int, int] = INK,
    anchor: str = "ls",
) -> None:
    """Draw one line of words; `anchor` as Pillow's: l, m or r, and s for the base line, m for the middle."""
    font = font_for(words, size_px)
    ImageDraw.Draw(canvas).text(place, _known(words), font=font, fill=colour, anchor=anchor)


def write_upright(canvas: Image.Image, place: tuple[float, float], words: str, size_px: int) -> None:
    """Draw words turned a quarter to the left; they end at `place`, the middle of their line."""
    strip = Image.new("L", (max(1, round(width(words, size_px))) + 4, 2 * size_px), 0)
    font = font_for(words, size_px)
    ImageDraw.Draw(strip).text((2, size_px), _known(words), font=font, fill=255, anchor="lm")
    strip = strip.transpose(Image.Transpose.ROTATE_90)
    x, y = place
    canvas.paste(MUTED, (round(x - size_px), round(y)), strip)


def width(words: str, size_px: int) -> float:
    """How wide a line is, in pixels."""
    return font_for(words, size_px).getlength(_known(words))


def wrap(words: str, size_px: int, room_px: float, max_lines: int) -> list[str]:
    """Return lines that fit; what is too much ends in three dots."""
    lines: list[str] = []
    for word in words[: int(max_lines * room_px)].split():  # no letter is thinner than a pixel
        for piece in _cut(word, size_px, room_px):
            if lines and width(f"{lines[-1]} {piece}", size_px) <= room_px:
                lines[-1] = f"{lines[-1]} {piece}"
            else:
                lines.append(piece)
        if len(lines) > max_lines:
            return [*lines[: max_lines - 1], lines[max_lines - 1][:-3].rstrip() + "..."]
    return lines


def _cut(word: str, size_px: int, room_px: float) -> list[str]:
    """Cut a word without spaces where a line ends; each piece has one character at least."""
    pieces = []
    while word:
        count = bisect_right(range(1, len(word) + 1), room_px, key=lambda n: width(word[:n], size_px))
        pieces.append(word[: max(1, count)])
        word = word[len(pieces[-1]) :]
    return pieces


def font_for(words: str, size_px: int) -> ImageFont.FreeTypeFont:
    """Return Pillow's own font, or the first other one that knows more of these characters."""
    return _load(_name_for(words), size_px)


def _name_for(words: str) -> str:
    """The name of a font, "" for Pillow's own."""
    characters = {c for c in words if not _knows("", c)}
    if not characters:
        return ""
    missing = {name: sum(not _knows(name, c) for c in characters) for name in ("", *_installed())}
    return min(missing, key=lambda name: missing[name])


@lru_cache(maxsize=1)
def _installed() -> tuple[str, ...]:
    found = []
    for name in OTHERS:
        try:
            ImageFont.truetype(name, 16)
        except OSError:
            continue
        found.append(name)
    return tuple(found)


@lru_cache(maxsize=64)
def _load(name: str, size_px: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(name, size_px) if name else ImageFont.load_default(size_px)


@lru_cache(maxsize=4096)
def _knows(name: str, character: str) -> bool:
    return character.isspace() or _shape(name, character) != _shape(name, UNKNOWN)


def _shape(name: str, character: str) -> bytes:
    mask = _load(name, 16).getmask(character)
    return repr(mask.size).encode() + bytes(mask)


def unknown(words: str) -> str:
    """Return the characters, each once, for which a question mark is drawn, since no font here knows them."""
    name = _name_for(words)
    return "".join(dict.fromkeys(c for c in words if not _knows(name, c)))


def _known(words: str) -> str:
    lost = unknown(words)
    return "".join("?" if c in lost else c for c in words)
