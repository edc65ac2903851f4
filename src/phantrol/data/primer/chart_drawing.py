"""From a chart to a picture."""

from __future__ import annotations

import math
import random
from typing import TYPE_CHECKING

from PIL import Image

from phantrol.data.primer.page import FAINT, INK, PAPERS, Colour, Page, shade

if TYPE_CHECKING:
    from phantrol.data.primer.charts import Chart

TOP = 10  # steps from the axis to its end
LETTERS = 0.054  # of the side: the height of letters


def draw_chart(chart: Chart, size_px: int) -> Image.Image:
    """Return the chart as an RGB picture of size_px by size_px."""
    rng = random.Random(chart.paint_seed)
    page = Page(size_px, rng.choice(PAPERS[chart.style]), chart.font, smooth=chart.form in ("line", "pie"))
    _FORMS[chart.form](page, chart, [shade(name, chart.style) for name in chart.colours])
    page.write(0.5 * size_px, 0.055 * size_px, chart.title, 1.15 * LETTERS * size_px, anchor="m")
    return page.image


def _draw_upright(page: Page, chart: Chart, colours: list[Colour]) -> None:
    side, letters = page.size_px, LETTERS * page.size_px
    left, right, top, bottom = 0.15 * side, 0.97 * side, (0.24 if chart.series else 0.16) * side, 0.85 * side
    _draw_levels(page, chart, left, right, top, bottom)
    slot = (right - left) / len(chart.names)
    width = 0.66 * slot / len(chart.steps)
    for i in range(len(chart.names)):
        middle = left + (i + 0.5) * slot
        for s, row in enumerate(chart.steps):
            x = middle + (s - len(chart.steps) / 2) * width
            y = bottom - row[i] / TOP * (bottom - top)
            page.box(x, y, x + width - 1, bottom, colours[s if chart.series else i % len(colours)], INK)
            if chart.printed:
                text = str(chart.value(s, i))
                px = page.fit([text], 0.9 * letters, width * (0.98 if chart.series else 1.5))
                page.write(x + width / 2, y - 0.55 * letters, text, px, anchor="m")
        _write_name(page, chart, i, middle, bottom, slot)
    _draw_line(page, (left, bottom), (right, bottom))
    if chart.series:
        _draw_legend(page, chart.series, colours, left)


def _draw_lying(page: Page, chart: Chart, colours: list[Colour]) -> None:
    side, letters = page.size_px, LETTERS * page.size_px
    names = max(page.width_of(name, letters) for name in chart.names)
    left, right, top, bottom = names + 0.05 * side, 0.93 * side, 0.12 * side, 0.89 * side
    for step in range(0, TOP + 1, 2):
        x = left + step / TOP * (right - left)
        _draw_line(page, (x, top), (x, bottom), FAINT)
        page.write(x, bottom + 0.8 * letters, str(step * chart.unit), 0.9 * letters, anchor="m")
    slot = (bottom - top) / len(chart.names)
    for i, name in enumerate(chart.names):
        middle = top + (i + 0.5) * slot
        x = left + chart.steps[0][i] / TOP * (right - left)
        page.box(left, middle - 0.33 * slot, x, middle + 0.33 * slot, colours[i % len(colours)], INK)
        page.write(left - 0.02 * side, middle, name, letters, anchor="r")
        if chart.printed:
            text = str(chart.value(0, i))
            if x + 0.015 * side + page.width_of(text, 0.9 * letters) < side:
                page.write(x + 0.015 * side, middle, text, 0.9 * letters)
            else:
                inside = (255, 255, 255) if sum(colours[i % len(colours)]) < 380 else INK
                page.write(x - 0.015 * side, middle, text, 0.9 * letters, inside, anchor="r")
    _draw_line(page, (left, top), (left, bottom))


def _draw_points(page: Page, chart: Chart, colours: list[Colour]) -> None:
    side, letters = page.size_px, LETTERS * page.size_px
    left, right, top, bottom = 0.15 * side, 0.97 * side, 0.18 * side, 0.85 * side
    slot = (right - left) / len(chart.names)
    points = [(left + (i + 0.5) * slot, bottom - step / TOP * (bottom - top)) for i, step in enumerate(chart.steps[0])]
    for step in range(0, TOP + 1, 2):  # under the line, so already at twice the size
        y = bottom - step / TOP * (bottom - top)
        page.line([(left, y), (right, y)], FAINT)
    page.line(points, colours[0], 0.012 * side)
    for x, y in points:
        page.disc(x, y, 0.017 * side, colours[0])
    page.settle()
    _write_levels(page, chart, left, top, bottom)
    for i, (x, y) in enumerate(points):
        _write_name(page, chart, i, x, bottom, slot)
        if chart.printed:
            row = chart.steps[0]
            rises = [j for j in (i - 1, i + 1) if 0 <= j < len(row) and row[j] > row[i]]
            valley = len(rises) == 2  # the line leaves upwards on both sides: write below
            across = 0 if valley else sum(0.5 * letters * (i - j) for j in rises)
            text = str(chart.value(0, i))
            page.write(x + across, y + (0.85 if valley else -1.05) * letters, text, 0.9 * letters, anchor="m")
    _draw_line(page, (left, bottom), (right, bottom))


def _draw_pie(page: Page, chart: Chart, colours: list[Colour]) -> None:
    side, letters = page.size_px, LETTERS * page.size_px
    x, y, radius = 0.36 * side, 0.56 * side, 0.245 * side
    row, angle, labels = chart.steps[0], -90.0, []
    for i, step in enumerate(row):
        turn = 360 * step / sum(row)
        page.slice(x, y, radius, angle, angle + turn, colours[i])
        middle = math.radians(angle + turn / 2)
        labels.append((x + 1.2 * radius * math.cos(middle), y + 1.2 * radius * math.sin(middle)))
        angle += turn
    page.settle()
    for i, (at_x, at_y) in enumerate(labels):
        page.write(at_x, at_y, str(chart.value(0, i)), 0.95 * letters, anchor="m")
    pitch = min(1.7 * letters, 0.75 * side / len(row))
    for i, name in enumerate(chart.names):
        at_y = y + (i - (len(row) - 1) / 2) * pitch
        page.box(0.73 * side, at_y - 0.4 * letters, 0.73 * side + 0.8 * letters, at_y + 0.4 * letters, colours[i])
        page.write(0.73 * side + 1.2 * letters, at_y, name, page.fit([name], letters, 0.2 * side))


def _draw_levels(page: Page, chart: Chart, left: float, right: float, top: float, bottom: float) -> None:
    for step in range(0, TOP + 1, 2):
        y = bottom - step / TOP * (bottom - top)
        _draw_line(page, (left, y), (right, y), FAINT)
    _write_levels(page, chart, left, top, bottom)


def _write_levels(page: Page, chart: Chart, left: float, top: float, bottom: float) -> None:
    letters = 0.9 * LETTERS * page.size_px
    for step in range(0, TOP + 1, 2):
        y = bottom - step / TOP * (bottom - top)
        page.write(left - 0.02 * page.size_px, y, str(step * chart.unit), letters, anchor="r")


def _write_name(page: Page, chart: Chart, i: int, x: float, bottom: float, slot: float) -> None:
    """Write a category below the axis, every second one a line lower if they would touch."""
    letters = LETTERS * page.size_px
    crowded = max(page.width_of(name, letters) for name in chart.names) > 0.92 * slot
    page.write(x, bottom + (0.95 + (1.15 if crowded and i % 2 else 0)) * letters, chart.names[i], letters, anchor="m")


def _draw_legend(page: Page, names: tuple[str, ...], colours: list[Colour], left: float) -> None:
    letters, y, x = LETTERS * page.size_px, 0.14 * page.size_px, left
    for name, colour in zip(names, colours, strict=True):
        page.box(x, y - 0.4 * letters, x + 0.8 * letters, y + 0.4 * letters, colour)
        page.write(x + 1.1 * letters, y, name, letters)
        x += 2.2 * letters + page.width_of(name, letters)


def _draw_line(page: Page, start: tuple[float, float], end: tuple[float, float], colour: Colour = INK) -> None:
    (x0, y0), (x1, y1) = start, end
    page.box(x0, y0, x1, y1, colour)


_FORMS = {
    "bar": _draw_upright,
    "grouped": _draw_upright,
    "hbar": _draw_lying,
    "line": _draw_points,
    "pie": _draw_pie,
}
