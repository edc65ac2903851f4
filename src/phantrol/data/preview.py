"""A contact sheet: pictures of Primer with what is asked about them, what is right, and what is not."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from PIL import Image, ImageDraw

from phantrol.data.primer.curriculum import work_out
from phantrol.data.primer.fonts import load_font
from phantrol.data.primer.generator import Turn, sample
from phantrol.data.sources.primer import PrimerSource
from phantrol.folder_beside import folder_beside

TEXT_PX, LINE_PX, TITLE_PX, GAP_PX = 13, 17, 34, 14
NARROWEST_PX = 190  # of a column, so that questions have room beside small pictures
COLUMNS = 4
INK, QUIET, RIGHT, WRONG, VAGUE = "#202020", "#8a8a8a", "#0a6b2b", "#a3201a", "#8a6100"

Line = tuple[str, str]  # text, colour


def write_preview(source: PrimerSource, out: Path, count: int = 4) -> Path:
    """Write a contact sheet of `count` pictures of each family as a PNG, whole or not at all. Return its path.

    Raises ValueError for a count below 1, a name that does not end in .png, and a place that cannot be written.
    """
    if count < 1:
        raise ValueError(f"count must be at least 1, got {count}")
    if out.suffix.lower() != ".png" or out.is_dir():
        raise ValueError(f"{out} cannot be the contact sheet: expected the name of a .png file")
    with folder_beside(out) as beside:
        draw_preview(source, count).save(beside / out.name, "PNG")
        os.replace(beside / out.name, out)
    return out


def draw_preview(source: PrimerSource, count: int = 4) -> Image.Image:
    """Return the contact sheet: for each family a title and `count` pictures, each with its lead question."""
    families = work_out(source.curriculum, source.split, source.size_px).families
    rows = [row for family in families for row in _rows_of(source, family, count)]
    width = max(row.width for row in rows)
    sheet = Image.new("RGB", (width, sum(row.height for row in rows)), "white")
    top = 0
    for row in rows:
        sheet.paste(row, (0, top))
        top += row.height
    return sheet


def _rows_of(source: PrimerSource, family: str, count: int) -> Iterator[Image.Image]:
    one_question = replace(source.curriculum, questions=1, captions=family == "captions")
    cells = []
    for index in range(source.start, source.start + count):
        drawn = sample(source.split, family, index, source.size_px, one_question)
        cells.append((drawn.picture, drawn.turns[0]))
    columns = min(COLUMNS, count)
    where = f"{source.split}, {source.size_px} px      + right   - incorrect   ~ ambiguous"
    yield _title(f"{family}   ", where, columns * _cell_width(source.size_px) + GAP_PX)
    for first in range(0, count, columns):
        yield _row(cells[first : first + columns], source.size_px, columns)


def _row(cells: list[tuple[Image.Image | None, Turn]], size_px: int, columns: int) -> Image.Image:
    wide = _cell_width(size_px)
    texts = [_lines(turn, wide - GAP_PX) for _, turn in cells]
    pictures_px = size_px if any(picture is not None for picture, _ in cells) else 0
    height = pictures_px + max(map(len, texts)) * LINE_PX + 2 * GAP_PX
    row = Image.new("RGB", (columns * wide + GAP_PX, height), "white")
    pen = ImageDraw.Draw(row)
    for column, ((picture, _), lines) in enumerate(zip(cells, texts, strict=True)):
        left = GAP_PX + column * wide
        if picture is not None:
            row.paste(picture, (left, 0))
            pen.rectangle((left - 1, -1, left + size_px, size_px), outline="#d0d0d0")
        for i, (text, colour) in enumerate(lines):
            pen.text((left, pictures_px + 6 + i * LINE_PX), text, colour, load_font("aileron", TEXT_PX))
    return row


def _lines(turn: Turn, width_px: int) -> list[Line]:
    """Return the question, the right answer, and the wrong ones, broken into lines that fit."""
    said = [(turn.task, QUIET), (turn.question, INK), (f"+ {turn.answer}", RIGHT)]
    marks = {"incorrect": ("-", WRONG), "ambiguous": ("~", VAGUE)}
    for rejected in turn.rejected:
        mark, colour = marks[rejected.kind]
        said.append((f"{mark} {rejected.text}", colour))
    return [(line, colour) for text, colour in said for line in _broken(text, width_px)]


def _broken(text: str, width_px: int) -> Iterator[str]:
    font = load_font("aileron", TEXT_PX)
    for paragraph in text.split("\n"):
        line = ""
        for word in paragraph.split(" "):
            longer = f"{line} {word}" if line else word
            if line and font.getlength(longer) > width_px:
                yield line
                longer = word
            line = longer
        yield line


def _title(name: str, where: str, width_px: int) -> Image.Image:
    title = Image.new("RGB", (width_px, TITLE_PX), "white")
    pen = ImageDraw.Draw(title)
    pen.line((GAP_PX, 4, width_px - GAP_PX, 4), fill="#d0d0d0")
    bold = load_font("aileron", 16)
    pen.text((GAP_PX, 10), name, INK, bold)
    pen.text((GAP_PX + bold.getlength(name), 12), where, QUIET, load_font("aileron", TEXT_PX))
    return title


def _cell_width(size_px: int) -> int:
    return max(size_px, NARROWEST_PX) + GAP_PX
