"""Mathematics with a figure: rectangles, triangles, clocks, number lines, curves, written sums, angles."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from phantrol.data.primer.asking import Draft, Sitting, Task
from phantrol.data.primer.figure_drawing import draw_figure
from phantrol.data.primer.kinds import Kind, stage_page
from phantrol.data.primer.page import draw_look
from phantrol.data.primer.splits import Split
from phantrol.data.primer.wordings import Template, frame

SIDES = range(2, 13)
CORNERS = range(20, 125, 5)  # degrees of the angle that is asked for
LEAST_CORNER = 20
ANGLES = {"acute": range(20, 71), "right": range(90, 91), "obtuse": range(110, 161)}
HEIGHTS = range(11)  # of a curve
SUMS = range(20, 100)
LINE_STEPS = 10  # of a number line
LINE_UNITS = (1, 2, 5, 10)


@dataclass(frozen=True)
class Figure:
    """form and numbers, which mean:

    rectangle  width, height                 triangle  the three angles; the last is asked for
    clock      hours 1 to 12, minutes        number_line  first number, unit, steps to the mark
    curve      y at x = 0, 1, 2 ...          sum  two numbers, and +1 or -1 for the sign
    angle      degrees
    """

    form: str
    numbers: tuple[int, ...]
    style: str
    font: str
    paint_seed: int
    kind: str = "figures"


def _plan(form: str, draw: Callable[[random.Random], tuple[int, ...]]):
    def plan(rng: random.Random, split: Split) -> tuple[Figure, None]:
        return Figure(form, draw(rng), **draw_look(rng, split)), None

    return plan


def _draw_sides(rng: random.Random) -> tuple[int, ...]:
    return tuple(rng.sample(SIDES, 2))


def _draw_corners(rng: random.Random) -> tuple[int, ...]:
    asked = rng.choice(CORNERS)
    first = rng.randrange(LEAST_CORNER, 180 - asked - LEAST_CORNER + 1, 5)
    return first, 180 - asked - first, asked


def _draw_mark(rng: random.Random) -> tuple[int, ...]:
    unit = rng.choice(LINE_UNITS)
    return unit * rng.randint(0, 5) * 2, unit, rng.randint(1, LINE_STEPS - 1)


def _draw_curve(rng: random.Random) -> tuple[int, ...]:
    return tuple(rng.choice(HEIGHTS) for _ in range(rng.randint(5, 8)))


def _draw_terms(rng: random.Random) -> tuple[int, ...]:
    result, sign = rng.choice(SUMS), rng.choice((1, -1))
    term = rng.randint(2, result - 2) if sign == 1 else rng.randint(2, 60)
    return (result - term, term, 1) if sign == 1 else (result + term, term, -1)


def _draw_angle(rng: random.Random) -> tuple[int, ...]:
    return (rng.choice(ANGLES[rng.choice(tuple(ANGLES))]),)


# -- questions: each asks about one form of figure; near answers come from the same figures, as likely as the right one


def ask_area(sitting: Sitting) -> Draft | None:
    return _ask(sitting, "figure_area", "rectangle", lambda n: n[0] * n[1], _AREAS)


def ask_perimeter(sitting: Sitting) -> Draft | None:
    return _ask(sitting, "figure_perimeter", "rectangle", lambda n: 2 * (n[0] + n[1]), _PERIMETERS)


def ask_corner(sitting: Sitting) -> Draft | None:
    return _ask(sitting, "figure_corner", "triangle", lambda n: n[2], tuple(map(str, CORNERS)))


def ask_clock(sitting: Sitting) -> Draft | None:
    return _ask(sitting, "figure_clock", "clock", lambda n: f"{n[0]}:{n[1]:02d}", _TIMES)


def ask_mark(sitting: Sitting) -> Draft | None:
    """Every number on the line is as likely, so the pool is what the lines drawn so can show."""
    return _ask(sitting, "figure_number_line", "number_line", lambda n: n[0] + n[1] * n[2], _MARKS)


def ask_curve(sitting: Sitting) -> Draft | None:
    figure, done = sitting.scene, sitting.asked.get("figure_curve", ())
    if figure.form != "curve" or len(done) == len(figure.numbers):
        return None
    x = sitting.rng.choice([x for x in range(len(figure.numbers)) if x not in done])
    pool, near = tuple(map(str, HEIGHTS)), tuple(map(str, figure.numbers))
    return Draft("figure_curve", {"x": str(x)}, str(figure.numbers[x]), pool, x, near)


def ask_sum(sitting: Sitting) -> Draft | None:
    return _ask(sitting, "figure_sum", "sum", lambda n: n[0] + n[1] * n[2], tuple(map(str, SUMS)))


def ask_angle(sitting: Sitting) -> Draft | None:
    return _ask(sitting, "figure_angle", "angle", lambda n: _kind_of_angle(n[0]), tuple(ANGLES))


def _ask(sitting: Sitting, task: str, form: str, answer: Callable, pool: tuple[str, ...]) -> Draft | None:
    figure = sitting.scene
    if figure.form != form or sitting.asked.get(task):
        return None
    return Draft(task, {}, str(answer(figure.numbers)), pool, task)


def _kind_of_angle(degrees: int) -> str:
    return "right" if degrees == 90 else "acute" if degrees < 90 else "obtuse"


_AREAS = tuple(str(a * b) for a in SIDES for b in SIDES if a != b)
_PERIMETERS = tuple(str(2 * (a + b)) for a in SIDES for b in SIDES if a != b)
_TIMES = tuple(f"{hours}:{minutes:02d}" for hours in range(1, 13) for minutes in range(0, 60, 5))
_MARKS = tuple(
    str(unit * (2 * start + steps)) for unit in LINE_UNITS for start in range(6) for steps in range(1, LINE_STEPS)
)
PLANS: dict[str, Callable] = {
    "rectangle": _plan("rectangle", _draw_sides),
    "triangle": _plan("triangle", _draw_corners),
    "clock": _plan("clock", lambda rng: (rng.randint(1, 12), rng.randrange(0, 60, 5))),
    "number_line": _plan("number_line", _draw_mark),
    "curve": _plan("curve", _draw_curve),
    "sum": _plan("sum", _draw_terms),
    "angle": _plan("angle", _draw_angle),
}


def _task(ask: Callable[[Sitting], Draft | None], form: str, answer: str) -> Task:
    return Task("mathematics", ask, {"figures": PLANS[form]}, answer, weight=0.2)


KIND = Kind(stage_page, draw_figure)
TASKS = {
    "figure_area": _task(ask_area, "rectangle", "number"),
    "figure_perimeter": _task(ask_perimeter, "rectangle", "number"),
    "figure_corner": _task(ask_corner, "triangle", "number"),
    "figure_clock": _task(ask_clock, "clock", "short"),
    "figure_number_line": _task(ask_mark, "number_line", "number"),
    "figure_curve": _task(ask_curve, "curve", "number"),
    "figure_sum": _task(ask_sum, "sum", "number"),
    "figure_angle": _task(ask_angle, "angle", "short"),
}
WORDINGS: dict[str, Template] = {
    "figure_area": frame("the area of the rectangle", more=("How large is the area of the rectangle?",)),
    "figure_perimeter": frame("the perimeter of the rectangle", more=("How long is the line around the rectangle?",)),
    "figure_corner": frame("the angle with the question mark", more=("How many degrees has the third angle?",)),
    "figure_clock": frame("the time on the clock", more=("What time is it?", "What time does the clock show?")),
    "figure_number_line": frame("the number at the arrow", more=("What number does the arrow point to?",)),
    "figure_curve": frame("y at x = {x}", "the value of y for x = {x}", more=("How high is the line at x = {x}?",)),
    "figure_sum": frame("the result", "the number that is missing", more=("What stands for the question mark?",)),
    "figure_angle": (
        (
            "Is the angle acute, right or obtuse?",
            "Is the angle obtuse, right or acute?",
            "What kind of angle is this?",
            "Which kind of angle is this?",
            "Name the kind of the angle.",
            "Is this an acute, a right or an obtuse angle?",
        ),
        ("In the image, what kind of angle is this?", "Name the kind of this angle, acute, right or obtuse."),
    ),
}
