"""The figure of several results: a radar over benchmarks, and bars with intervals; published numbers are pale."""

from __future__ import annotations

from collections.abc import Sequence
from math import cos, floor, pi, sin
from pathlib import Path

from phantrol.evals.canvas import BAND, INK, LINE, MUTED, Canvas, width_of
from phantrol.evals.tables import Cell, Results, TableRow, number_of, to_latex, to_markdown
from phantrol.tables import round_ticks
from phantrol.whole_files import write_text, written_whole

OURS = ("#2a62c9", "#b4560b", "#17794a", "#8b3fa8", "#a3243b", "#0f7f8c")
PAPERS = {"TroL": ("#9db8ea", "#b5c9ef", "#cddaf5"), "Phantom": ("#e0b48c", "#e9c5a4", "#f0d4bb", "#f6e3d2")}
MARGIN, TITLE, ROW, PANEL, GAP = 22, 62, 20, 168, 26
RADAR, AXES = 430, 3  # side of the radar; fewer benchmarks make none
PANELS = 4  # side by side
RINGS = 5  # about so many
SUFFIXES = (".md", ".tex", ".png")


def check_name(path: Path) -> None:
    """Raise ValueError for a name whose end is none of SUFFIXES."""
    if path.suffix not in SUFFIXES:
        raise ValueError(f"--out {path}: expected a name that ends in .md, .tex or .png")


def write_table(found: Results, path: Path) -> None:
    """Write Markdown, LaTeX or a figure, as the end of the name says. Raises ValueError for another one."""
    check_name(path)
    if path.suffix == ".png":
        write_figure(found, path)
    else:
        write_text(path, (to_markdown if path.suffix == ".md" else to_latex)(found))


def write_figure(found: Results, path: Path) -> None:
    """Write the figure as a PNG. Raises ValueError if there is nothing to draw."""
    rows = [row for row in found.rows if row.cells]
    if not any(not row.published for row in rows):
        raise ValueError("there is no score to draw: expected results with at least one")
    colours = _colours(rows)
    columns = {name: title for name, title in found.columns.items() if any(name in row.cells for row in rows)}
    radar = len([name for name in columns if any(name in row.cells for row in rows if not row.published)]) >= AXES
    names = max(width_of(_name(row)) for row in rows) + 16
    per_line = min(PANELS if len(columns) <= 3 * PANELS else PANELS + 1, len(columns))
    bars_width = names + per_line * (PANEL + GAP) - GAP
    lines = -(-len(columns) // per_line)
    bars_height = lines * ((len(rows) + 1) * ROW + 30)
    radar_width = RADAR + 190 if radar else 0
    remarks = _remarks(found)
    width = MARGIN * 2 + radar_width + max(bars_width, 330)
    note = "dark: measured, with 95 % intervals" + ("; pale: published by the papers" if found.sources else "")
    width = max(width, MARGIN * 2 + width_of(note), *(MARGIN * 2 + width_of(remark, 11) for remark in remarks))
    height = TITLE + max(bars_height, RADAR + 30 if radar else 0) + 16 * len(remarks) + MARGIN
    canvas = Canvas(width, height)
    canvas.text(
        MARGIN, 16, "Results on " + ("one benchmark" if len(columns) == 1 else f"{len(columns)} benchmarks"), INK, 17
    )
    canvas.text(MARGIN, 38, note, MUTED)
    if radar:
        _draw_radar(canvas, MARGIN, TITLE, columns, rows, colours)
    _draw_bars(canvas, (MARGIN + radar_width, TITLE), names, per_line, columns, rows, colours)
    for index, remark in enumerate(remarks):
        canvas.text(MARGIN, height - MARGIN / 2 - 16 * (len(remarks) - index), remark, MUTED, 11)
    with written_whole(path) as beside:
        canvas.finished().save(beside, "PNG", optimize=True)


def _draw_bars(
    canvas: Canvas,
    place: tuple[float, float],
    names: float,
    per_line: int,
    columns: dict[str, str],
    rows: Sequence[TableRow],
    colours: dict[int, str],
) -> None:
    """Draw a panel for each benchmark, and the names of the rows once a line."""
    for number, (column, title) in enumerate(columns.items()):
        top = place[1] + number // per_line * ((len(rows) + 1) * ROW + 30)
        left = place[0] + names + number % per_line * (PANEL + GAP)
        most = max(row.cells[column].scale for row in rows if column in row.cells)
        canvas.text(left, top, title, INK)
        if most > 100:
            canvas.text(left + PANEL, top + 1, f"of {most:.0f}", MUTED, 11, "right")
        for index, row in enumerate(rows):
            y = top + 22 + index * ROW
            if number % per_line == 0:
                canvas.text(place[0] + names - 10, y - 0.5, _name(row), MUTED if row.published else INK, 12, "right")
            canvas.box(left, y, left + PANEL, y + ROW - 6, BAND)
            if column in row.cells:
                _bar(canvas, left, y, row.cells[column], colours[index], row.published)
            else:
                canvas.text(left + 5, y + 0.5, "-", MUTED, 11)


def _bar(canvas: Canvas, left: float, y: float, cell: Cell, colour: str, published: bool) -> None:
    end = left + min(1.0, max(0.0, cell.share)) * PANEL
    canvas.box(left, y, end, y + ROW - 6, colour)
    edge = end
    if cell.low is not None and cell.high is not None:
        low, high = (left + min(1.0, max(0.0, each / cell.scale)) * PANEL for each in (cell.low, cell.high))
        middle = y + (ROW - 6) / 2
        canvas.line(low, middle, high, middle, INK, 1.4)
        for x in (low, high):
            canvas.line(x, middle - 3.5, x, middle + 3.5, INK, 1.4)
        edge = max(end, high)
    words = number_of(cell)
    if edge + width_of(words, 11) + 6 < left + PANEL:
        canvas.text(edge + 5, y + 0.5, words, INK, 11)
    else:  # no room behind the bar: before the interval
        inner = end if cell.low is None else left + max(0.0, cell.low / cell.scale) * PANEL
        canvas.text(inner - 5, y + 0.5, words, INK if published else "#ffffff", 11, "right")


def _draw_radar(
    canvas: Canvas, x: float, y: float, columns: dict[str, str], rows: Sequence[TableRow], colours: dict[int, str]
) -> None:
    """Draw one axis a benchmark; the middle is not 0 where all scores are far from it, and the rings say so."""
    axes = list(columns)
    shares = [cell.share for row in rows for cell in row.cells.values()]
    low = floor(10 * max(0.0, min(shares) - 0.02)) / 10
    high = max(1.0, max(shares))
    cx, cy, radius = x + RADAR / 2 + 70, y + RADAR / 2 + 8, RADAR / 2 - 34

    def point(axis: int, share: float) -> tuple[float, float]:
        angle, away = 2 * pi * axis / len(axes), radius * (share - low) / (high - low)
        return cx + away * sin(angle), cy - away * cos(angle)

    rings = [tick / 100 for tick in round_ticks(100 * low, 100 * high, RINGS)]
    for share in rings:
        corners = [point(axis, share) for axis in range(len(axes))]
        _outline(canvas, corners, LINE, 1)
    for axis, name in enumerate(axes):
        canvas.line(cx, cy, *point(axis, high), LINE)
        tip_x, tip_y = point(axis, high + 0.06 * (high - low))
        side = sin(2 * pi * axis / len(axes))
        canvas.text(
            tip_x, tip_y - 8, columns[name], INK, 12, "middle" if abs(side) < 0.1 else "left" if side > 0 else "right"
        )
    for index in sorted(range(len(rows)), key=lambda index: not rows[index].published):  # ours above the papers'
        row = rows[index]
        corners = [point(axis, row.cells[name].share) if name in row.cells else None for axis, name in enumerate(axes)]
        _outline(canvas, corners, colours[index], 1.6 if row.published else 2.6)
        if not row.published:
            for corner in corners:
                if corner is not None:
                    canvas.dot(*corner, 3.4, colours[index])
    for share in rings:
        canvas.text(cx + 4, point(0, share)[1] - 6, f"{100 * share:.0f}", MUTED, 10)


def _outline(canvas: Canvas, corners: Sequence[tuple[float, float] | None], colour: str, width: float) -> None:
    """Draw lines between neighbours; where a corner is missing there is a gap."""
    for index, corner in enumerate(corners):
        following = corners[(index + 1) % len(corners)]
        if corner is not None and following is not None:
            canvas.line(*corner, *following, colour, width)


def _colours(rows: Sequence[TableRow]) -> dict[int, str]:
    found, ours, theirs = {}, 0, dict.fromkeys(PAPERS, 0)
    for index, row in enumerate(rows):
        if row.published:
            paper = row.how.removeprefix("published: ")
            found[index] = PAPERS[paper][theirs[paper] % len(PAPERS[paper])]
            theirs[paper] += 1
        else:
            found[index] = OURS[ours % len(OURS)]
            ours += 1
    return found


def _name(row: TableRow) -> str:
    if row.published:
        return f"{row.name}, published"
    return row.name if row.how == "–" else f"{row.name}, {row.how}"


def _remarks(found: Results) -> list[str]:
    return [*found.footnotes, *(f"Published, not measured here: {source}." for source in found.sources)]
