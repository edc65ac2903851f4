"""The maps of one prompt as a figure to print: `write_figure` draws a PNG of one column's width at 300 dpi.

R rows of a map (layers, or passes of layers), N tokens of the prompt, H x W the grid of one picture's tokens.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from unicodedata import category

import numpy as np
from PIL import Image, ImageDraw
from torch import Tensor
from torch.nn.functional import adaptive_max_pool1d

from phantrol.explain.colours import heat_image
from phantrol.explain.lettering import INK, MUTED, unknown, width, wrap, write, write_upright
from phantrol.explain.maps import Maps
from phantrol.explain.prompt import PictureTokens
from phantrol.explain.traversal_figure import THINNEST_PX, draw_overlay, runs, shown
from phantrol.tables import short_number
from phantrol.whole_files import written_whole

_log = logging.getLogger("phantrol")
WIDTH, MARGIN, GAP = 2000, 70, 40  # pixels, as all sizes here
DPI = 300
TITLE, LABEL, SMALL = 46, 34, 26
LEFT = 150  # room for the names of the rows
LINE = (214, 220, 228)
READABLE = 22  # a column so wide has room for its token, written upright
LONGEST_TOKEN = 24  # characters

TRAVERSAL_TITLE = "Where it looked twice"
TRAVERSAL_WORDS = "w, the share of the second pass that a token keeps"
PHANTOM_TITLE = "What the phantom adds"
PHANTOM_WORDS = "rms of the phantom term, beside the rms of what a head says without it"


def write_figure(path: str | Path, maps: Maps, answer: str = "") -> None:
    """Write the figure as PNG, whole or not at all; its folder is made.

    answer  what the model said, for the heading; a warning names the characters that no font here can draw
    Raises ValueError if the file is not called .png.
    """
    path = Path(path)
    if path.suffix.lower() != ".png":
        raise ValueError(f"the figure {path}: expected a name that ends in .png")
    with written_whole(path) as beside:
        draw_figure(maps, answer).save(beside, "PNG", dpi=(DPI, DPI), optimize=True)
    lost = "".join(dict.fromkeys(unknown(maps.prompt.question) + unknown(answer)))  # each is a line of its own font
    lost = "".join(c for c in lost if category(c) not in ("Cc", "Cf", "Cs"))  # what no font draws is none to install
    if lost:
        _log.warning("%s has ? for %s: no font here knows them; install one, such as Noto Sans CJK", path, lost[:40])


def draw_figure(maps: Maps, answer: str = "") -> Image.Image:
    """Return heading, pictures with both maps laid over them, and the maps of each layer and token."""
    blocks = [_heading(maps.prompt.question, answer)]
    blocks += [_pictures(found, maps) for found in maps.pictures]
    if maps.traversal is not None:
        names = [f"layer {layer}" for layer in maps.traversal.layers]
        blocks.append(_title(TRAVERSAL_TITLE, TRAVERSAL_WORDS, float(maps.traversal.ratios.max())))
        blocks.append(_token_map(maps.traversal.ratios, names, maps))
    if maps.phantom is not None:
        twice = any(number for _, number in maps.phantom.rows)
        names = [f"{i}, pass {number + 1}" if twice else f"layer {i}" for i, number in maps.phantom.rows]
        by_token, by_head = maps.phantom.by_token(), maps.phantom.by_head()
        blocks.append(_title(PHANTOM_TITLE, f"{PHANTOM_WORDS}; mean of the heads", float(by_token.max())))
        blocks.append(_token_map(by_token, names, maps))
        blocks.append(_title("", "the same by head, mean of the tokens", float(by_head.max())))
        blocks.append(_head_map(by_head, names))
    blocks += [_note(note) for note in maps.notes]
    figure = Image.new("RGB", (WIDTH, sum(block.height for block in blocks) + 2 * MARGIN), "white")
    top = MARGIN
    for block in blocks:
        figure.paste(block, (0, top))
        top += block.height
    return figure


def _block(height: float) -> Image.Image:
    return Image.new("RGB", (WIDTH, round(height)), "white")


def _heading(question: str, answer: str) -> Image.Image:
    room = WIDTH - 2 * MARGIN
    asked = wrap(question, TITLE, room, 3)
    said = wrap(f"The model says: {answer}", LABEL, room, 3) if answer else []
    canvas = _block(len(asked) * 1.3 * TITLE + len(said) * 1.4 * LABEL + GAP)
    y = 0.0
    for line in asked:
        y += 1.3 * TITLE
        write(canvas, (MARGIN, y - 0.3 * TITLE), line, TITLE)
    for line in said:
        y += 1.4 * LABEL
        write(canvas, (MARGIN, y - 0.3 * LABEL), line, LABEL, MUTED)
    return canvas


def _pictures(found: PictureTokens, maps: Maps) -> Image.Image:
    """The picture, and each map laid over it, all to the same size."""
    side = (WIDTH - 2 * MARGIN - 2 * GAP) // 3
    scale = side / max(found.picture.size)
    size = tuple(max(THINNEST_PX, round(length * scale)) for length in found.picture.size)
    panels = [(found.picture.resize(size, Image.Resampling.LANCZOS), "the picture")]
    values = []
    if maps.traversal is not None:
        values.append((TRAVERSAL_TITLE, maps.traversal.ratios))
    if maps.phantom is not None:
        values.append((PHANTOM_TITLE, maps.phantom.by_token()))
    for title, rows in values:
        grid = rows[:, found.positions].mean(0)
        high = float(grid.max())  # of this picture: a single word may lie far above all of it
        words = f"{title.lower()}: 0 to {short_number(high)}" + (", mean of the layers" if len(rows) > 1 else "")
        panels.append((draw_overlay(found.picture, grid, 0.0, high, side), words))
    captions = [wrap(words, SMALL, side, 2) for _, words in panels]
    canvas = _block(2 + size[1] + 2 * LABEL + (max(map(len, captions)) - 1) * 1.3 * SMALL + GAP)
    for index, ((picture, _), lines) in enumerate(zip(panels, captions, strict=True)):
        left = MARGIN + index * (side + GAP)
        canvas.paste(picture, (left, 1))
        ImageDraw.Draw(canvas).rectangle((left - 1, 0, left + picture.width, picture.height + 1), outline=LINE)
        for number, line in enumerate(lines):
            write(canvas, (left, 2 + size[1] + (1.4 + 1.3 * number) * SMALL), line, SMALL, MUTED)
    return canvas


def _title(words: str, caption: str, high: float) -> Image.Image:
    """A title with its caption on the left, and the colours from 0 to `high` on the right."""
    bar = 340
    lines = wrap(caption, SMALL, WIDTH - 2 * MARGIN - bar - GAP, 2)
    canvas = _block((1.3 * LABEL if words else 0) + len(lines) * 1.3 * SMALL + 1.8 * SMALL)
    y = LABEL if words else 0
    write(canvas, (MARGIN, y), words, LABEL)
    for index, line in enumerate(lines):
        write(canvas, (MARGIN, y + (1.3 * index + 1.3) * SMALL), line, SMALL, MUTED)
    left, top = WIDTH - MARGIN - bar, 4
    ramp = heat_image(np.linspace(0, 1, bar)[None], 0.0, 1.0).resize((bar, 20), Image.Resampling.NEAREST)
    canvas.paste(ramp, (left, top))
    for share, anchor in ((0.0, "ls"), (0.5, "ms"), (1.0, "rs")):
        write(canvas, (left + share * bar, top + 20 + 1.1 * SMALL), short_number(share * high), SMALL, MUTED, anchor)
    return canvas


def _token_map(values: Tensor, names: Sequence[str], maps: Maps) -> Image.Image:
    """Rows by tokens [R, N], with the names of the rows and the texts of the tokens, where there is room."""
    tokens, flags = maps.prompt.tokens, maps.prompt.is_image
    room, column = WIDTH - LEFT - 2 * MARGIN, (WIDTH - LEFT - 2 * MARGIN) / len(tokens)
    words = ["" if flag else shown(token)[:LONGEST_TOKEN] for token, flag in zip(tokens, flags, strict=True)]
    readable = column >= READABLE
    below = 16 + max((width(word, SMALL) for word in words), default=0) if readable else 12
    canvas = _block(1.6 * SMALL + _rows_height(values) + max(below, 12) + GAP)
    _paste_rows(canvas, values, names, 1.6 * SMALL, room)
    bottom = 1.6 * SMALL + _rows_height(values)
    draw, left = ImageDraw.Draw(canvas), MARGIN + LEFT
    for start, end, is_image in runs(flags):
        a, b = left + start * column, left + end * column
        label = f"{end - start} image tokens" if is_image else "text"
        draw.line((a + 2, 1.2 * SMALL + 6, b - 3, 1.2 * SMALL + 6), fill=MUTED, width=2)
        if b - a > width(label, SMALL):
            write(canvas, ((a + b) / 2, SMALL - 2), label, SMALL, MUTED, "ms")
        for index in range(start, end):
            if readable and not is_image:
                write_upright(canvas, (left + (index + 0.5) * column, bottom + 10), words[index], SMALL)
    return canvas


def _head_map(values: Tensor, names: Sequence[str]) -> Image.Image:
    """Rows by heads [R, H]."""
    column = min(90.0, (WIDTH - LEFT - 2 * MARGIN) / values.shape[1])
    canvas = _block(_rows_height(values) + 1.6 * SMALL + GAP)
    _paste_rows(canvas, values, names, 0, column * values.shape[1])
    every = -(-60 // int(column + 1))
    for head in range(0, values.shape[1], every):
        x = MARGIN + LEFT + (head + 0.5) * column
        write(canvas, (x, _rows_height(values) + 1.4 * SMALL), str(head), SMALL, MUTED, "ms")
    write(canvas, (MARGIN, _rows_height(values) + 1.4 * SMALL), "head", SMALL, MUTED)
    return canvas


def _rows_height(values: Tensor) -> int:
    return round(len(values) * min(60.0, max(14.0, 700 / len(values))))


def _paste_rows(canvas: Image.Image, values: Tensor, names: Sequence[str], top: float, room: float) -> None:
    height, pixels = _rows_height(values), round(room)
    columns = adaptive_max_pool1d(values, pixels) if values.shape[1] > pixels else values  # the largest that share one
    heat = heat_image(columns.numpy(), 0.0, float(values.max()))
    canvas.paste(heat.resize((pixels, height), Image.Resampling.NEAREST), (MARGIN + LEFT, round(top)))
    row = height / len(values)
    for index in range(0, len(values), -(-32 // int(row))):  # only as many names as do not touch
        write(canvas, (MARGIN, top + (index + 0.5) * row), names[index], SMALL, INK, "lm")


def _note(words: str) -> Image.Image:
    canvas = _block(1.6 * LABEL)
    write(canvas, (MARGIN, 1.1 * LABEL), words, LABEL, MUTED)
    return canvas
