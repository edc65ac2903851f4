"""The few marks that figures are drawn with: SVG text and lines."""

from __future__ import annotations

from html import escape


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
