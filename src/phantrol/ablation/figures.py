"""The figures of the experiment as PNG: accuracy and differences with intervals, and accuracy against what it costs."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image

from phantrol.ablation.results import ALL, Results
from phantrol.ablation.statistics import Estimate
from phantrol.ablation.variants import Variant
from phantrol.evals.canvas import BAND, INK, LINE, MUTED, Canvas, width_of
from phantrol.tables import round_ticks, short_number

PAGE = "#ffffff"
GREY, BLUE, ORANGE, GREEN = "#5d6878", "#2a62c9", "#b4560b", "#17794a"
ROW_PX, PANEL_PX, GAP_PX, MARGIN_PX = 24, 190, 26, 22
TITLE_PX, HEAD_PX, FOOT_PX = 62, 26, 52
APART = "points, paired by seed; filled dot: the 95 % interval leaves out 0; open: it does not, or there is none"

Panels = Mapping[str, Mapping[str, Estimate]]  # {title of the panel: {row: what it shows}}


def draw_figures(results: Results, folder: Path) -> list[Path]:
    """Write the figures that the results allow, and return their paths; figures of before are removed."""
    drawn: dict[str, Image.Image] = {}
    colours = {variant.name: colour_of(variant) for variant in results.variants}
    scores = {split: _scores(results, split) for split in results.splits}
    if scores:
        note = "percent, with 95 % intervals over seeds; ring: shuffled images, stroke: text-only prior"
        blind = {split: _blind(results, split) for split in results.splits}
        drawn["accuracy"] = draw_rows("Accuracy, all tasks", note, scores, colours, blind=blind)
        apart = {split: _differences(results, split, ALL) for split in results.splits}
        if any(apart.values()):
            drawn["differences"] = draw_rows(
                "Difference to the variant compared with", APART, apart, colours, zero=True
            )
        first = results.splits[0]
        families = {family: _differences(results, first, family) for family in results.families(first)[1:]}
        if any(families.values()):
            drawn["families"] = draw_rows(f"Difference by family, {first}", APART, families, colours, zero=True)
        drawn["cost"] = draw_costs(results, first, colours)
    beside = folder.with_name(f".{folder.name}.writing")
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    for name, picture in drawn.items():
        picture.save(beside / f"{name}.png", optimize=True)
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(beside, folder)
    return [folder / f"{name}.png" for name in drawn]


def draw_rows(
    title: str,
    note: str,
    panels: Panels,
    colours: Mapping[str, str],
    zero: bool = False,
    blind: Mapping[str, Mapping[str, tuple[float, float]]] | None = None,
) -> Image.Image:
    """Return panels side by side that share their rows: a dot for each mean, and a line for its interval.

    zero   mark 0, and let the axis reach from the least to the largest; otherwise it is 0 to 100
    blind  {title of the panel: {row: (with shuffled images, text-only prior)}}
    """
    names = [name for name in colours if any(name in panel for panel in panels.values())]
    shown = [found for panel in panels.values() for found in panel.values()]
    low, high = _range(shown) if zero else (0.0, 1.0)
    left = MARGIN_PX + max(width_of(name) for name in names) + 14
    width = left + len(panels) * (PANEL_PX + GAP_PX) - GAP_PX + MARGIN_PX + 10
    width = max(width, MARGIN_PX * 2 + width_of(note), MARGIN_PX * 2 + width_of(title, 17))
    top = TITLE_PX + HEAD_PX
    canvas = Canvas(width, top + len(names) * ROW_PX + FOOT_PX - 12)
    canvas.text(MARGIN_PX, 16, title, INK, 17)
    canvas.text(MARGIN_PX, 38, note, MUTED)
    bottom = top + len(names) * ROW_PX
    for index, name in enumerate(names):
        y = top + (index + 0.5) * ROW_PX
        if index % 2 == 0:
            canvas.box(MARGIN_PX - 6, y - ROW_PX / 2, width - MARGIN_PX + 6, y + ROW_PX / 2, BAND)
        canvas.text(left - 12, y - 7, name, INK, anchor="right")
    for number, (words, panel) in enumerate(panels.items()):
        start = left + number * (PANEL_PX + GAP_PX)

        def place(value: float, start: float = start) -> float:
            return start + 4 + (min(max(value, low), high) - low) / (high - low) * (PANEL_PX - 8)

        canvas.text(start + PANEL_PX / 2, TITLE_PX + 2, words, INK, anchor="middle")
        for tick in round_ticks(100 * low, 100 * high, about=4):
            is_zero = zero and tick == 0
            canvas.line(
                place(tick / 100), top, place(tick / 100), bottom, INK if is_zero else LINE, 1.4 if is_zero else 1
            )
            canvas.text(
                place(tick / 100), bottom + 6, f"{tick:+g}" if zero and tick else f"{tick:g}", MUTED, 11, "middle"
            )
        for index, name in enumerate(names):
            if name in panel:
                y = top + (index + 0.5) * ROW_PX
                shuffled, prior = (blind or {}).get(words, {}).get(name, (None, None))
                if shuffled is not None:
                    canvas.line(place(prior), y - 7, place(prior), y + 7, MUTED, 2)
                    canvas.dot(place(shuffled), y, 3.6, MUTED)
                    canvas.dot(place(shuffled), y, 2.2, PAGE)
                _mark(canvas, panel[name], place, y, colours[name], zero)
    return canvas.finished()


def draw_costs(results: Results, split: str, colours: Mapping[str, str]) -> Image.Image:
    """Return accuracy over all tasks against parameters, FLOPs of training and FLOPs of an answer."""
    found = _scores(results, split)
    axes = {"parameters": "parameters", "training_flops": "FLOPs of training", "answer_flops": "FLOPs of an answer"}
    side, gap, left, top = 300, 62, 62, TITLE_PX + 12
    legend, rows = left + len(axes) * (side + gap) - gap + 30, int(side / 17)
    wide = 36 + max(width_of(name, 12) for name in found)
    columns = -(-len(found) // rows)
    canvas = Canvas(legend + columns * wide + MARGIN_PX, top + side + FOOT_PX)
    canvas.text(MARGIN_PX, 16, f"Accuracy against what it costs, {split}, all tasks", INK, 17)
    canvas.text(MARGIN_PX, 38, "percent; bars are 95 % intervals over seeds", MUTED)
    low, high = _range(list(found.values()), around_zero=False)
    for number, (field, words) in enumerate(axes.items()):
        start = left + number * (side + gap)
        values = {name: float(getattr(results.costs[name], field)) for name in found}
        _scatter(canvas, (start, top, side), (low, high), found, values, colours)
        canvas.text(start + side / 2, top + side + 26, words, MUTED, anchor="middle")
    for index, name in enumerate(found):
        x, y = legend + index // rows * wide, top + index % rows * 17
        canvas.text(x, y, f"{index + 1}", colours[name], 12)
        canvas.text(x + 22, y, name, INK, 12)
    return canvas.finished()


def colour_of(variant: Variant) -> str:
    """Return the colour of a variant: one for each method, and one for both."""
    methods = variant.trol is not None, variant.phantom is not None
    return {(False, False): GREY, (True, False): BLUE, (False, True): ORANGE, (True, True): GREEN}[methods]


def _scatter(
    canvas: Canvas,
    place: tuple[float, float, float],
    heights: tuple[float, float],
    found: Mapping[str, Estimate],
    values: Mapping[str, float],
    colours: Mapping[str, str],
) -> None:
    start, top, side = place
    low, high = heights
    least, most = min(values.values()), max(values.values())
    room = 0.08 * (most - least) or 0.05 * most
    least, most = least - room, most + room

    def across(value: float) -> float:
        return start + (value - least) / (most - least) * side

    def up(share: float) -> float:
        return top + side - (min(max(share, low), high) - low) / (high - low) * side

    canvas.box(start, top, start + side, top + side, BAND)
    for tick in round_ticks(100 * low, 100 * high, about=5):
        canvas.line(start, up(tick / 100), start + side, up(tick / 100), LINE)
        canvas.text(start - 8, up(tick / 100) - 7, f"{tick:g}", MUTED, 11, "right")
    for tick in round_ticks(least, most, about=3):
        canvas.line(across(tick), top, across(tick), top + side, LINE)
        canvas.text(across(tick), top + side + 6, _short(tick), MUTED, 11, "middle")
    points = {name: (across(values[name]), up(score.mean)) for name, score in found.items()}
    for name, score in found.items():
        if score.half is not None:
            canvas.line(points[name][0], up(score.low), points[name][0], up(score.high), colours[name], 0.8)
    for name, point in points.items():
        canvas.dot(*point, 3.6, colours[name])
    taken: list[tuple[float, float]] = list(points.values())
    for index, (name, point) in enumerate(points.items()):
        spot = _free_spot(*point, taken, place)
        taken.append(spot)
        canvas.text(spot[0], spot[1] - 6, str(index + 1), colours[name], 11, "middle")


def _free_spot(
    x: float, y: float, taken: Sequence[tuple[float, float]], place: tuple[float, float, float]
) -> tuple[float, float]:
    """Return a place for a number near a point, as far from dots and other numbers as it gets."""
    start, top, side = place
    spots = [
        (x + across, y + down)
        for across in (11, -11, 22, -22, 33, -33)
        for down in (0, -12, 12, -24, 24)
        if start + 5 < x + across < start + side - 5 and top + 6 < y + down < top + side - 6
    ]

    def crowd(spot: tuple[float, float]) -> float:
        near = sum(max(0.0, 17 - abs(spot[0] - a)) * max(0.0, 12 - abs(spot[1] - b)) for a, b in taken)
        return near + 0.1 * (abs(spot[0] - x) + abs(spot[1] - y))

    return min(spots, key=crowd, default=(x + 11, y))


def _mark(canvas: Canvas, found: Estimate, place, y: float, colour: str, zero: bool) -> None:
    x = place(found.mean)
    if found.half is not None:
        canvas.line(place(found.low), y, place(found.high), y, colour, 2)
        for end in (found.low, found.high):
            canvas.line(place(end), y - 4, place(end), y + 4, colour, 2)
    canvas.dot(x, y, 4.5, colour)
    if zero and found.verdict not in ("higher", "lower"):
        canvas.dot(x, y, 2.6, PAGE)


def _scores(results: Results, split: str) -> dict[str, Estimate]:
    found = {variant.name: results.score(variant.name, split) for variant in results.variants}
    return {name: score for name, score in found.items() if score is not None}


def _blind(results: Results, split: str) -> dict[str, tuple[float, float]]:
    return {
        name: tuple(results.score(name, split, ALL, column).mean for column in ("shuffled", "prior"))
        for name in _scores(results, split)
    }


def _differences(results: Results, split: str, family: str) -> dict[str, Estimate]:
    found = {variant.name: results.difference(variant, split, family) for variant in results.variants}
    return {name: apart for name, apart in found.items() if apart is not None}


def _range(shown: Sequence[Estimate], around_zero: bool = True) -> tuple[float, float]:
    """Return ends of an axis that hold the means and their intervals; of shares, at most 0 to 1."""
    means = [found.mean for found in shown] + ([0.0] if around_zero else [])
    ends = [end for found in shown if found.half is not None for end in (found.low, found.high)]
    low, high = min([*means, *ends]), max([*means, *ends])
    if not around_zero:
        low, high = max(0.0, low), min(1.0, high)
    room = 0.06 * (high - low) or 0.02
    return low - room, high + room


def _short(value: float) -> str:
    if abs(value) < 1e9:
        return short_number(value)
    power = len(f"{abs(value):.0f}") - 1
    return f"{value / 10**power:.3g}e{power}"
