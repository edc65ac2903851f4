"""From a figure of mathematics to a picture."""

from __future__ import annotations

import math
import random
from typing import TYPE_CHECKING

from PIL import Image

from phantrol.data.primer.page import FAINT, INK, PAPERS, Colour, Page, shade

if TYPE_CHECKING:
    from phantrol.data.primer.figures import Figure

LETTERS = 0.07  # of the side
PENCILS = ("red", "green", "blue", "purple", "black")
FILLS: tuple[Colour, ...] = ((222, 234, 250), (226, 242, 222), (252, 236, 214), (244, 224, 236))


def draw_figure(figure: Figure, size_px: int) -> Image.Image:
    """Return the figure as an RGB picture of size_px by size_px."""
    rng = random.Random(figure.paint_seed)
    page = Page(size_px, rng.choice(PAPERS[figure.style]), figure.font, smooth=figure.form not in ("sum", "rectangle"))
    _FORMS[figure.form](page, figure.numbers, rng, shade(rng.choice(PENCILS), figure.style))
    return page.image


def _draw_rectangle(page: Page, numbers: tuple[int, ...], rng: random.Random, colour: Colour) -> None:
    side, (width, height) = page.size_px, numbers
    scale = rng.uniform(0.46, 0.68) * side / max(width, height)
    across, down = max(width * scale, 0.12 * side), max(height * scale, 0.12 * side)
    left = rng.uniform(0.04 * side, 0.83 * side - across)  # what is left of the side is for the numbers
    top = rng.uniform(0.04 * side, 0.88 * side - down)
    page.box(left, top, left + across, top + down, rng.choice(FILLS), colour)
    page.write(left + across / 2, top + down + 0.06 * side, str(width), LETTERS * side, anchor="m")
    page.write(left + across + 0.03 * side, top + down / 2, str(height), LETTERS * side)


def _draw_triangle(page: Page, numbers: tuple[int, ...], rng: random.Random, colour: Colour) -> None:
    """Lay it on its first side, fit it in, and write each angle inside, near its corner."""
    side, (a, b, _) = page.size_px, numbers
    height = 1 / (1 / math.tan(math.radians(a)) + 1 / math.tan(math.radians(b)))
    foot = height / math.tan(math.radians(a))
    points = [(0.0, 0.0), (1.0, 0.0), (foot, -height)]
    turn = math.radians(rng.uniform(-20, 20))
    points = [(x * math.cos(turn) - y * math.sin(turn), x * math.sin(turn) + y * math.cos(turn)) for x, y in points]
    lows = [min(point[axis] for point in points) for axis in (0, 1)]
    spans = [max(point[axis] for point in points) - lows[axis] for axis in (0, 1)]
    scale = 0.66 * side / max(spans)
    points = [
        tuple(side / 2 + (point[axis] - lows[axis] - spans[axis] / 2) * scale for axis in (0, 1)) for point in points
    ]
    page.polygon(points, rng.choice(FILLS))
    page.line([*points, points[0], points[1]], colour, 0.011 * side)
    page.settle()
    centre = [sum(point[axis] for point in points) / 3 for axis in (0, 1)]
    for (x, y), text in zip(points, (f"{a}°", f"{b}°", "?"), strict=True):
        dx, dy = x - centre[0], y - centre[1]
        away = (
            (0.07 if text == "?" else 0.095) * side / math.hypot(dx, dy)
        )  # outside of the corner, away from the middle
        page.write(x + dx * away, y + dy * away, text, 0.9 * LETTERS * side, anchor="m")


def _draw_clock(page: Page, numbers: tuple[int, ...], rng: random.Random, colour: Colour) -> None:
    side, (hours, minutes) = page.size_px, numbers
    radius = rng.uniform(0.36, 0.46) * side
    x, y = (rng.uniform(0.02 * side + radius, 0.98 * side - radius) for _ in range(2))

    def at(turn: float, part: float) -> tuple[float, float]:
        """Return the point at so much of a turn from 12, and of the radius from the middle."""
        angle = 2 * math.pi * turn
        return x + part * radius * math.sin(angle), y - part * radius * math.cos(angle)

    page.disc(x, y, radius, (255, 255, 255), colour)
    for hour in range(12):
        page.line([at(hour / 12, part) for part in (0.92, 0.99)], INK, 0.008 * side)
    for turn, length, width in (
        ((hours % 12 + minutes / 60) / 12, 0.48, 0.026),
        (minutes / 60, 0.74, 0.014),
    ):
        page.line([(x, y), at(turn, length)], INK, width * side)
    page.disc(x, y, 0.022 * side, INK)
    page.settle()
    for hour in range(1, 13):
        page.write(*at(hour / 12, 0.81), str(hour), 2 * LETTERS * radius, anchor="m")


def _draw_number_line(page: Page, numbers: tuple[int, ...], rng: random.Random, colour: Colour) -> None:
    """The first, the middle and the last of 11 marks have their numbers, but for the one that the arrow points at."""
    side, (first, unit, steps) = page.size_px, numbers
    left, right, y = 0.08 * side, 0.92 * side, rng.uniform(0.5, 0.7) * side
    at = [left + i / 10 * (right - left) for i in range(11)]
    page.line([(left, y), (right, y)], INK, 0.01 * side)
    for i, x in enumerate(at):
        half = (0.03 if i % 5 == 0 else 0.018) * side
        page.line([(x, y - half), (x, y + half)], INK, 0.008 * side)
    page.arrow(at[steps], y - 0.26 * side, at[steps], y - 0.045 * side, colour, 0.014 * side, 0.055 * side)
    page.settle()
    for i in (0, 5, 10):
        if i != steps:
            page.write(at[i], y + 0.085 * side, str(first + i * unit), 0.9 * LETTERS * side, anchor="m")


def _draw_curve(page: Page, numbers: tuple[int, ...], rng: random.Random, colour: Colour) -> None:
    side = page.size_px
    left, right, top, bottom = 0.13 * side, 0.92 * side, 0.14 * side, 0.87 * side
    step_x, step_y = (right - left) / len(numbers), (bottom - top) / 10
    for i in range(11):
        page.line([(left, bottom - i * step_y), (right, bottom - i * step_y)], FAINT)
    for i in range(len(numbers)):
        page.line([(left + i * step_x, top), (left + i * step_x, bottom)], FAINT)
    page.line([(left, top - 0.03 * side), (left, bottom), (right + 0.02 * side, bottom)], INK, 0.009 * side)
    points = [(left + i * step_x, bottom - value * step_y) for i, value in enumerate(numbers)]
    page.line(points, colour, 0.014 * side)
    for x, y in points:
        page.disc(x, y, 0.017 * side, colour)
    page.settle()
    letters = 0.75 * LETTERS * side
    for i in range(0, 11, 2):
        page.write(left - 0.025 * side, bottom - i * step_y, str(i), letters, anchor="r")
    for i in range(len(numbers)):
        page.write(left + i * step_x, bottom + 0.055 * side, str(i), letters, anchor="m")
    page.write(right + 0.05 * side, bottom, "x", LETTERS * side, anchor="m")
    page.write(left, top - 0.075 * side, "y", LETTERS * side, anchor="m")


def _draw_sum(page: Page, numbers: tuple[int, ...], rng: random.Random, colour: Colour) -> None:
    side, (a, b, sign) = page.size_px, numbers
    operator = "+" if sign == 1 else "-"
    letters, y = rng.uniform(0.09, 0.14) * side, rng.uniform(0.35, 0.6) * side
    if rng.random() < 0.5:
        page.write(side / 2, y, f"{a} {operator} {b} = ?", letters, colour, anchor="m")
        return
    x = 0.62 * side
    page.write(x, y - 1.3 * letters, str(a), letters, colour, anchor="r")
    page.write(x, y, f"{operator} {b}", letters, colour, anchor="r")
    page.box(x - 3.2 * letters, y + 0.75 * letters, x + 0.2 * letters, y + 0.75 * letters, colour)
    page.write(x, y + 1.5 * letters, "?", letters, colour, anchor="r")


def _draw_angle(page: Page, numbers: tuple[int, ...], rng: random.Random, colour: Colour) -> None:
    side, (degrees,) = page.size_px, numbers
    start = rng.uniform(0, 360)
    ends = [(math.cos(math.radians(a)), math.sin(math.radians(a))) for a in (start, start + degrees)]
    xs, ys = ([0.0, *(end[axis] for end in ends)] for axis in (0, 1))
    length = 0.8 * side / max(1.25, max(xs) - min(xs), max(ys) - min(ys))
    x, y = ((side - (min(places) + max(places)) * length) / 2 for places in (xs, ys))
    page.arc(x, y, 0.14 * side, start, start + degrees, INK, 0.009 * side)
    page.line([(x + ends[0][0] * length, y + ends[0][1] * length), (x, y)], colour, 0.014 * side)
    page.line([(x, y), (x + ends[1][0] * length, y + ends[1][1] * length)], colour, 0.014 * side)
    page.settle()


_FORMS = {
    "rectangle": _draw_rectangle,
    "triangle": _draw_triangle,
    "clock": _draw_clock,
    "number_line": _draw_number_line,
    "curve": _draw_curve,
    "sum": _draw_sum,
    "angle": _draw_angle,
}
