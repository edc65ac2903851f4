"""Figures of traversal: a heat map of layers by tokens, and the same laid over the picture.

L layers that traverse, N tokens of the prompt, H x W the grid of one picture's tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import numpy as np
from PIL import Image, ImageChops
from torch import Tensor

from phantrol.explain.colours import data_uri, heat_image
from phantrol.explain.drawing import line, svg, text
from phantrol.explain.traversal import Traversal, stretch_layers
from phantrol.tables import short_number

OVERLAY_PX = 224
THINNEST_PX = 8  # of a side: the map of a picture that is one line can still be seen
SHADE = 0.45  # how much the darkest of the picture darkens the colours over it
WIDTH, LEFT, RIGHT = 760, 66, 122
READABLE_PX = 9.0  # a column so wide has room for its token, written upright


def heat_map(traversal: Traversal, stretched: bool = False) -> str:
    """Return layers by tokens as SVG with labelled axes.

    stretched  False: raw w, from 0 to the largest of the figure, one scale for all layers
               True: each layer stretched to its own range, which is written beside it
    """
    ratios = stretch_layers(traversal.ratios) if stretched else traversal.ratios
    high = 1.0 if stretched else float(ratios.max())
    layers, tokens = ratios.shape
    row_px = min(28.0, max(7.0, 260 / layers))
    column_px = (WIDTH - LEFT - RIGHT) / tokens
    top, bottom = 26.0, 26.0 + layers * row_px
    picture = data_uri(heat_image(ratios.numpy(), 0.0, high))
    marks = [
        f'<image href="{picture}" x="{LEFT}" y="{top}" width="{WIDTH - LEFT - RIGHT}" height="{bottom - top}" '
        'preserveAspectRatio="none" style="image-rendering:pixelated"/>'
    ]
    marks += _layer_labels(traversal, top, row_px)
    readable = column_px >= READABLE_PX
    for start, end, is_image in runs(traversal.is_image):
        left, right = LEFT + start * column_px, LEFT + end * column_px
        if is_image or not readable:
            words = f"{end - start} image tokens" if is_image else "text"
            marks += [line(left + 1, top - 5, right - 1, top - 5, "bracket")]
            if right - left > 6.2 * len(words) or is_image:
                marks.append(text((left + right) / 2, top - 10, words, "middle", "tick"))
        else:
            marks += [
                text(
                    LEFT + (index + 0.5) * column_px + 3.5,
                    bottom + 7,
                    shown(traversal.tokens[index]),
                    "end",
                    "token",
                    -90,
                )
                for index in range(start, end)
            ]
    room = 8 + 6.0 * max((len(shown(t)) for t in traversal.tokens), default=0) if readable else 4
    height = bottom + room + 16
    marks.append(text((LEFT + WIDTH - RIGHT) / 2, height - 3, "tokens of the prompt, in order", "middle", "tick"))
    what = "each layer stretched to its own range" if stretched else f"raw w, 0 to {short_number(high)}"
    return svg(WIDTH, height, f"Traversal ratio of {layers} layers by {tokens} tokens; {what}", marks)


def draw_overlay(picture: Image.Image, grid: Tensor, low: float, high: float, size_px: int = OVERLAY_PX) -> Image.Image:
    """Return the colours of a picture's ratios [H, W], with the picture as shade in them; its longer side is `size_px`.

    Where the picture is brightest, the colours are exactly those of the legend.
    """
    scale = size_px / max(picture.size)
    size = tuple(max(THINNEST_PX, round(side * scale)) for side in picture.size)
    light = picture.convert("L").resize(size, Image.Resampling.BICUBIC)
    darkest, brightest = light.getextrema()
    darker = 255 * SHADE / max(1, brightest - darkest)
    shade = light.point(lambda value: 255 - darker * (brightest - value)).convert("RGB")
    heat = heat_image(grid.numpy(), low, high).resize(size, Image.Resampling.NEAREST)
    return ImageChops.multiply(heat, shade)


def legend(low: float, high: float, words: str) -> str:
    """Return a bar of the colours with numbers at its ends and middle, in HTML."""
    ramp = data_uri(heat_image(np.linspace(0, 1, 128)[None], 0.0, 1.0))
    numbers = "".join(f"<span>{short_number(value)}</span>" for value in (low, (low + high) / 2, high))
    return (
        f'<div class="ramp"><span class="ramp-words">{escape(words)}</span><div><img src="{ramp}" alt="">'
        f'<div class="ramp-numbers">{numbers}</div></div></div>'
    )


def traversal_section(traversals: Sequence[Traversal]) -> str:
    """Return the section with a map for each prompt, raw first, stretched on demand."""
    if not traversals:
        return ""
    return (
        '<section id="traversal"><h2>Where it looks twice</h2>'
        "<p>A layer that traverses runs a second time on its own output, and each token keeps a share <var>w</var> of "
        "the second pass: <var>y</var> = (1 − <var>w</var>)·L(<var>x</var>) + <var>w</var>·L(L(<var>x</var>)). "
        "Light is a token that takes much of its second look, dark is one that keeps its first.</p>"
        + "".join(_figure(traversal) for traversal in traversals)
        + "</section>"
    )


def _figure(traversal: Traversal) -> str:
    high = float(traversal.ratios.max())
    return (
        f'<figure class="traversal"><figcaption>{escape(traversal.question)}</figcaption>'
        + legend(0.0, high, "w, raw")
        + _pictures(traversal, traversal.ratios, high)
        + f'<div class="wide">{heat_map(traversal)}</div>'
        + "<details><summary>Each layer stretched to its own range</summary>"
        "<p>This shows which tokens a layer prefers, and hides how much it traverses at all; "
        "the numbers beside the rows say that.</p>"
        + legend(0.0, 1.0, "from a layer's least w to its largest")
        + _pictures(traversal, stretch_layers(traversal.ratios), 1.0)
        + f'<div class="wide">{heat_map(traversal, stretched=True)}</div></details></figure>'
    )


def _pictures(traversal: Traversal, ratios: Tensor, high: float) -> str:
    """The picture, the mean over layers upon it, and each layer for itself."""
    cells = []
    for found in traversal.pictures:
        grid = ratios[:, found.positions]  # [L, H, W]
        plain = found.picture.copy()
        plain.thumbnail((OVERLAY_PX, OVERLAY_PX))
        cells.append(_cell(plain, "the picture", "big"))
        several = len(traversal.layers) > 1
        words = "mean of the layers" if several else f"layer {traversal.layers[0]}"
        cells.append(_cell(draw_overlay(found.picture, grid.mean(0), 0.0, high), words, "big"))
        if several:
            cells += [
                _cell(draw_overlay(found.picture, layer, 0.0, high, OVERLAY_PX // 2), f"layer {index}", "")
                for index, layer in zip(traversal.layers, grid, strict=True)
            ]
    return f'<div class="multiples">{"".join(cells)}</div>' if cells else ""


def _cell(picture: Image.Image, words: str, kind: str) -> str:
    image = f'<img src="{data_uri(picture)}" alt="{escape(words)}">'
    return f'<div class="multiple {kind}">{image}<span>{escape(words)}</span></div>'


def _layer_labels(traversal: Traversal, top: float, row_px: float) -> list[str]:
    every = max(1, -(-11 // int(row_px)))  # write only as many as do not touch
    marks = []
    for row, layer in enumerate(traversal.layers):
        if row % every:
            continue
        y = top + (row + 0.5) * row_px + 4
        low, high = float(traversal.ratios[row].min()), float(traversal.ratios[row].max())
        marks.append(text(LEFT - 8, y, f"layer {layer}", "end", "tick"))
        marks.append(text(WIDTH - RIGHT + 8, y, f"{low:.2g} – {high:.2g}", kind="tick"))
    return [*marks, text(WIDTH - RIGHT + 8, top - 10, "least – largest w", kind="tick")]


def runs(flags: Sequence[bool]) -> list[tuple[int, int, bool]]:
    """Return (start, end, flag) of each run of equal flags."""
    starts = [index for index in range(len(flags)) if index == 0 or flags[index] != flags[index - 1]]
    return [(start, end, flags[start]) for start, end in zip(starts, [*starts[1:], len(flags)], strict=True)]


def shown(token: str) -> str:
    return token.strip().replace("\n", "⏎") or "␣"
