"""The few marks that figures are drawn with: SVG text, axes with round numbers, and lines."""

from __future__ import annotations

from html import escape
from math import floor, log10


def text(x: float, y: float, words: str, anchor: str = "start", kind: str = "label", turn: float = 0) -> str:
    """Return words at a place; kind is a class of the style sheet; turn in degrees."""
    rotate = f' transform="rotate({turn:g} {x:.1f} {y:.1f})"' if turn else ""
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{rotate}>{escape(words)}</text>'


def line(x1: float, y1: float, x2: float, y2: float, kind: str = "grid") -> str:
    return f'<line class="{kind}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def path(points: list[tuple[float, float]], kind: str) -> str:
    steps = " ".join(f"{'L' if index else 'M'}{x:.1f} {y:.1f}" for index, (x, y) in enumerate(points))
    return f'<path class="{kind}" d="{steps}"/>'


def svg(width: float, height: float, title: str, marks: list[str]) -> str:
    """Return a figure that takes the width of its place; `title` is what a screen reader says."""
    return (
        f'<svg viewBox="0 0 {width:.0f} {height:.0f}" role="img" aria-label="{escape(title, quote=True)}">'
        + "".join(marks)
        + "</svg>"
    )


def round_ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Return round numbers from `low` to `high`: steps of 1, 2 or 5 times a power of ten."""
    span = high - low
    if span <= 0:
        return [low]
    power = 10 ** floor(log10(span / about))
    step = next(factor * power for factor in (1, 2, 5, 10) if span / (factor * power) <= about)
    first = floor(low / step)
    ticks = [(first + index) * step for index in range(2 * about + 3)]
    return [round(tick, 12) for tick in ticks if low - 1e-9 * span <= tick <= high + 1e-9 * span]


def short_number(value: float) -> str:
    """Return at most three significant digits: 1500 → "1.5k", 0.00034 → "0.00034"."""
    if abs(value) >= 1e6:
        return f"{value / 1e6:.3g}M"
    if abs(value) >= 1e3:
        return f"{value / 1e3:.3g}k"
    return f"{value:.2g}" if abs(value) < 0.1 else f"{value:.3g}"
