"""Charts: bars, lying bars, lines, pies and groups of bars, with questions about what they say.

A value is a number of steps, 1 to 10, times the unit of the scale. The steps are drawn first, for the answer.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from phantrol.data.primer.asking import Draft, Sitting, Task
from phantrol.data.primer.chart_drawing import draw_chart
from phantrol.data.primer.kinds import Kind, stage_page
from phantrol.data.primer.page import MARKERS, draw_look
from phantrol.data.primer.splits import Split
from phantrol.data.primer.wordings import Template, frame
from phantrol.data.primer.words import CITIES, PEOPLE, SERIES, TITLES, allowed

FORMS = ("bar", "hbar", "line", "pie", "grouped")
UNITS, UNSEEN_UNITS = (1, 2, 5, 10, 20), (3, 4, 50)
STEPS = range(1, 11)
SLICES = range(3, 11)  # thinner slices of a pie could not be labelled
PRINTED_SHARE = 0.5  # of the charts say their values in digits
ONE_COLOUR_SHARE = 0.3  # of the bars have all the same colour
DIFFERENCES, SUMS = range(1, 7), range(7, 16)
MOST_ABOVE = 4


@dataclass(frozen=True)
class Chart:
    """What a chart says.

    names    categories;  series  () or the two series of a grouped chart
    steps    of each series, the values of the categories in units;  unit  what a step stands for
    colours  of the categories (or one for all), of the series in a grouped chart
    printed  whether values are written, besides being drawn
    """

    form: str
    title: str
    names: tuple[str, ...]
    series: tuple[str, ...]
    steps: tuple[tuple[int, ...], ...]
    unit: int
    colours: tuple[str, ...]
    printed: bool
    style: str
    font: str
    paint_seed: int
    kind: str = "charts"

    def value(self, series: int, item: int) -> int:
        return self.steps[series][item] * self.unit

    def phrase(self, series: int, item: int) -> str:
        """Return what the value is of: "Tom", or "Tom in East"."""
        return self.names[item] + (f" in {self.series[series]}" if self.series else "")


# -- charts


def make_chart(rng: random.Random, split: Split, form: str, *steps: list[int]) -> Chart:
    """Make a chart of these steps, one list for each series."""
    number = len(steps[0])
    names = rng.sample(allowed(rng.choice((PEOPLE, CITIES)), split), number)
    series = rng.sample(allowed(SERIES, split), len(steps)) if form == "grouped" else ()
    one = form == "line" or (form in ("bar", "hbar") and rng.random() < ONE_COLOUR_SHARE)
    colours = rng.sample(MARKERS, len(steps) if series else 1 if one else number)
    unit = rng.choice(UNSEEN_UNITS if split.unseen else UNITS)
    cramped = form == "grouped" and number > 3 and unit >= 10  # three digits are wider than such a bar
    return Chart(
        form,
        rng.choice(allowed(TITLES, split)),
        tuple(names),
        tuple(series),
        tuple(map(tuple, steps)),
        unit,
        tuple(colours),
        form == "pie" or (rng.random() < PRINTED_SHARE and not cramped),
        **draw_look(rng, split),
    )


def steps_of(form: str) -> range:
    return SLICES if form == "pie" else STEPS


def draw_number(rng: random.Random, split: Split, form: str) -> int:
    if form == "grouped":
        return rng.randint(4, 5) if split.more else rng.randint(2, 3)
    return rng.randint(6, 7) if split.more else rng.randint(3, 5)


def plan_values(rng: random.Random, split: Split, forms: tuple[str, ...] = FORMS) -> tuple[Chart, None]:
    """All values differ, and each is as likely as any other."""
    form = rng.choice(forms)
    number = draw_number(rng, split, form)
    steps = [rng.sample(steps_of(form), number) for _ in range(2 if form == "grouped" else 1)]
    return make_chart(rng, split, form, *steps), None


def plan_colours(rng: random.Random, split: Split) -> tuple[Chart, None]:
    while True:
        chart, focus = plan_values(rng, split, ("bar", "hbar", "pie", "grouped"))
        if len(chart.colours) > 1:
            return chart, focus


def plan_two(rng: random.Random, split: Split, name: str, answers: range, sign: int) -> tuple[Chart, tuple]:
    """The difference (sign -1) or the sum of two values is drawn first."""
    form = rng.choice(("bar", "hbar", "line", "pie"))
    allowed_steps = steps_of(form)
    answer = rng.choice(answers)
    pair = rng.choice([(a, b) for a in allowed_steps for b in allowed_steps if a != b and a + sign * b == answer])
    rest = [step for step in allowed_steps if step not in pair]
    steps = [*pair, *rng.sample(rest, draw_number(rng, split, form) - 2)]
    order = rng.sample(range(len(steps)), len(steps))
    chart = make_chart(rng, split, form, [steps[i] for i in order])
    return chart, (name, order.index(0), order.index(1))


def plan_difference(rng: random.Random, split: Split) -> tuple[Chart, tuple]:
    return plan_two(rng, split, "chart_difference", DIFFERENCES, -1)


def plan_sum(rng: random.Random, split: Split) -> tuple[Chart, tuple]:
    return plan_two(rng, split, "chart_sum", SUMS, 1)


def plan_above(rng: random.Random, split: Split) -> tuple[Chart, tuple]:
    """How many lie above is drawn apart from the threshold, so that the threshold in the question says nothing."""
    form, above = rng.choice(("bar", "hbar", "line")), rng.randint(0, MOST_ABOVE)
    limit = rng.randint(4, 6)
    below = rng.randint(max(0, 3 - above), 3)
    steps = rng.sample(range(limit + 1, 11), above) + rng.sample(range(1, limit), below)
    rng.shuffle(steps)
    return make_chart(rng, split, form, steps), ("chart_above", limit, above)


# -- questions


def ask_value(sitting: Sitting) -> Draft | None:
    chart, done = sitting.scene, sitting.asked.get("chart_value", ())
    cells = [(s, i) for s, row in enumerate(chart.steps) for i in range(len(row)) if (s, i) not in done]
    if not cells or (sitting.asked and sitting.focus):  # charts made for a sum and the like have uneven values
        return None
    at = sitting.rng.choice(cells)
    values = [chart.value(s, i) for s, row in enumerate(chart.steps) for i in range(len(row))]
    slots = {"item": chart.phrase(*at)}
    return _number("chart_value", slots, chart.value(*at), steps_of(chart.form), chart.unit, at, values)


def ask_extreme(sitting: Sitting) -> Draft | None:
    chart, rng, done = sitting.scene, sitting.rng, sitting.asked.get("chart_extreme", ())
    choices = [(s, side) for s in range(len(chart.steps)) for side in ("highest", "lowest") if (s, side) not in done]
    if not choices:
        return None
    series, side = rng.choice(choices)
    row = chart.steps[series]
    name = chart.names[row.index(max(row) if side == "highest" else min(row))]
    scope = f" in {chart.series[series]}" if chart.series else ""
    pool = _names_like(chart.names[0], sitting.split)
    return Draft("chart_extreme", {"side": side, "scope": scope}, name, pool, (series, side), near=chart.names)


def ask_difference(sitting: Sitting) -> Draft | None:
    return _ask_two(sitting, "chart_difference", DIFFERENCES, -1)


def ask_sum(sitting: Sitting) -> Draft | None:
    return _ask_two(sitting, "chart_sum", SUMS, 1)


def ask_above(sitting: Sitting) -> Draft | None:
    planned = sitting.lead("chart_above")
    if planned is None:
        return None
    limit, above = planned
    slots = {"limit": str(limit * sitting.scene.unit)}
    return Draft("chart_above", slots, str(above), tuple(map(str, range(MOST_ABOVE + 1))), "above")


def ask_colour(sitting: Sitting) -> Draft | None:
    """Ask for the colour of a name, or for the name of a colour."""
    chart, rng, done = sitting.scene, sitting.rng, sitting.asked.get("chart_colour", ())
    labels = chart.series or chart.names
    left = [i for i in range(len(labels)) if i not in done]
    if len(chart.colours) == 1 or not left:
        return None
    i = rng.choice(left)
    if rng.random() < 0.5:
        return Draft("chart_colour", {"item": labels[i]}, chart.colours[i], MARKERS, i, near=chart.colours)
    pool = _names_like(labels[0], sitting.split)
    return Draft("chart_coloured", {"colour": chart.colours[i]}, labels[i], pool, i, near=labels)


def _ask_two(sitting: Sitting, name: str, answers: range, sign: int) -> Draft | None:
    planned = sitting.lead(name)
    if planned is None:
        return None
    chart = sitting.scene
    a, b = (chart.value(0, i) for i in planned)
    both = [chart.names[i] for i in planned]
    sitting.rng.shuffle(both)
    return _number(name, {"a": both[0], "b": both[1]}, a + sign * b, answers, chart.unit, name, ())


def _number(name: str, slots: dict, value: int, steps: range, unit: int, key: object, near) -> Draft:
    pool = tuple(str(step * unit) for step in steps)
    return Draft(name, slots, str(value), pool, key, near=tuple(map(str, near)))


def _names_like(name: str, split: Split) -> tuple[str, ...]:
    return next(allowed(words, split) for words in (PEOPLE, CITIES, SERIES) if name in words)


KIND = Kind(stage_page, draw_chart)
_CHARTS = {"charts": plan_values}
TASKS = {
    "chart_value": Task("charts", ask_value, _CHARTS, "number", weight=0.5),
    "chart_extreme": Task("charts", ask_extreme, _CHARTS, weight=0.4),
    "chart_difference": Task("charts", ask_difference, {"charts": plan_difference}, "number", weight=0.2),
    "chart_sum": Task("charts", ask_sum, {"charts": plan_sum}, "number", weight=0.2),
    "chart_above": Task("charts", ask_above, {"charts": plan_above}, "number", weight=0.2),
    "chart_colour": Task("charts", ask_colour, {"charts": plan_colours}, weight=0.3),
}
WORDINGS: dict[str, Template] = {
    "chart_value": frame("the value of {item}", "the number of {item}", more=("Which value does {item} have?",)),
    "chart_extreme": (
        (
            "Who or what has the {side} value{scope}?",
            "Which one has the {side} value{scope}?",
            "Which name has the {side} value{scope}?",
            "Name the one with the {side} value{scope}.",
            "What is the name of the {side} value{scope}?",
            "Where is the value the {side}{scope}?",
        ),
        ("What has the {side} value{scope}?", "Name the {side} one{scope}."),
    ),
    "chart_difference": frame(
        "the difference between {a} and {b}",
        "the difference of the values of {a} and {b}",
        more=("By how much do {a} and {b} differ?",),
    ),
    "chart_sum": frame(
        "the sum of {a} and {b}", "the sum of the values of {a} and {b}", more=("How many are {a} and {b} together?",)
    ),
    "chart_above": (
        (
            "How many values are above {limit}?",
            "How many values are larger than {limit}?",
            "How many of the values are above {limit}?",
            "Count the values above {limit}.",
            "What is the number of values above {limit}?",
            "How many values are there above {limit}?",
        ),
        ("In the image, how many values are above {limit}?", "Count the values that are larger than {limit}."),
    ),
    "chart_colour": frame("the color of {item}", "the color that stands for {item}", more=("Which color has {item}?",)),
    "chart_coloured": (
        (
            "What is {colour}?",
            "Which one is {colour}?",
            "Which name is {colour}?",
            "What does {colour} stand for?",
            "Which name does {colour} stand for?",
            "Name the one that is {colour}.",
        ),
        ("In the image, what is {colour}?", "Name what {colour} stands for."),
    ),
}
