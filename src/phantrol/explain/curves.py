"""The learning curve: loss and reward accuracy over the steps of all stages, from the lines of metrics.jsonl."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from phantrol.data.rows.text_lines import split_lines
from phantrol.explain.drawing import line, path, svg, text
from phantrol.tables import round_ticks, short_number

WIDTH, HEIGHT = 720, 230
LEFT, RIGHT, TOP, BOTTOM = 46, 52, 30, 40
CURVES = {"loss": "Loss", "reward_accuracy": "Reward accuracy: how often the right answer beats the wrong one"}


def read_metrics(file: str | Path) -> list[dict[str, Any]]:
    """Return the rows of a metrics.jsonl.

    Raises ValueError, naming file and line, for a line that is no JSON object with "stage" and "step".
    """
    rows = []
    for number, content in enumerate(split_lines(Path(file).read_text("utf-8")), start=1):
        try:
            row = json.loads(content)
            rows.append({**row, "stage": str(row["stage"]), "step": int(row["step"])})
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"{file}, line {number} is broken ({type(error).__name__}: {error}): "
                "expected an object with stage and step"
            ) from None
    return rows


def curve_section(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the section with one figure for each curve that the rows have something of.

    rows  {"stage", "step", "loss", "reward_accuracy" ...}; steps count from the beginning of each stage
    """
    figures = [_figure(rows, name, caption) for name, caption in CURVES.items() if any(name in row for row in rows)]
    if not figures:
        return ""
    stages = " → ".join(escape(stage) for stage in dict.fromkeys(row["stage"] for row in rows))
    return (
        '<section id="learning"><h2>How it learnt</h2>'
        f"<p>Stages: {stages}. Each has a loss of its own, so heights compare within a stage, not between stages.</p>"
        + "".join(figures)
        + "</section>"
    )


def _figure(rows: Sequence[Mapping[str, Any]], name: str, caption: str) -> str:
    measured = {row["stage"] for row in rows if name in row}
    rows = [row for row in rows if row["stage"] in measured]
    spans = _stage_spans(rows)
    last_step = max(end for _, end in spans.values())
    points = {
        stage: [(start + row["step"], row[name]) for row in rows if row["stage"] == stage and name in row]
        for stage, (start, _) in spans.items()
    }
    values = [value for stage in points.values() for _, value in stage]
    low, high = (0.0, 1.0) if name == "reward_accuracy" else (min(0.0, *values), max(values) or 1.0)
    ticks = round_ticks(low, high * (1 if name == "reward_accuracy" else 1.05), about=4)
    high = max(high, ticks[-1])

    def place(step: float, value: float) -> tuple[float, float]:
        across, up = step / max(1, last_step), (value - low) / (high - low)
        return LEFT + across * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - up * (HEIGHT - TOP - BOTTOM)

    marks = _stages(spans, place, low, high)
    for tick in ticks:
        x, y = place(0, tick)
        marks += [line(x, y, WIDTH - RIGHT, y), text(x - 8, y + 4, f"{tick:g}", "end", "tick")]
    if name == "reward_accuracy":
        half = place(0, 0.5)[1]
        marks += [
            line(LEFT, half, WIDTH - RIGHT, half, "chance"),
            text(WIDTH - RIGHT + 5, half + 4, "chance", kind="tick"),
        ]
    for tick in round_ticks(0, last_step, about=6):
        x, y = place(tick, low)
        marks.append(text(x, y + 16, short_number(tick), "middle", "tick"))
    marks.append(text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 4, "optimiser steps", "middle", "tick"))
    for stage in points.values():
        drawn = [place(*point) for point in stage]
        if drawn:
            marks.append(path(drawn, "curve"))
            marks.append(f'<circle class="dot" cx="{drawn[-1][0]:.1f}" cy="{drawn[-1][1]:.1f}" r="3.2"/>')
    final = [(*place(*stage[-1]), stage[-1][1]) for stage in points.values() if stage][-1]
    marks.append(text(final[0] + 7, final[1] + 4, short_number(final[2]), kind="value"))
    title = f"{caption}, over {last_step} steps; at the end {short_number(final[2])}"
    return (
        f"<figure><figcaption>{escape(caption)}</figcaption>"
        f'<div class="wide">{svg(WIDTH, HEIGHT, title, marks)}</div></figure>'
    )


def _stage_spans(rows: Sequence[Mapping[str, Any]]) -> dict[str, tuple[int, int]]:
    """Return {stage: (first, last step)}, counted over all stages."""
    spans: dict[str, tuple[int, int]] = {}
    start = 0
    for stage in dict.fromkeys(row["stage"] for row in rows):
        end = start + max(row["step"] for row in rows if row["stage"] == stage)
        spans[stage] = (start, end)
        start = end
    return spans


def _stages(spans: Mapping[str, tuple[int, int]], place: Any, low: float, high: float) -> list[str]:
    marks = []
    for index, (stage, (start, end)) in enumerate(spans.items()):
        (left, bottom), (right, top) = place(start, low), place(end, high)
        if index % 2 == 0:
            size = f'width="{right - left:.1f}" height="{bottom - top:.1f}"'
            marks.append(f'<rect class="band" x="{left:.1f}" y="{top:.1f}" {size}/>')
        marks.append(text((left + right) / 2, top - 9, stage, "middle", "stage"))
    return marks
