"""A picture shows what its scene says: values, labels and colours are read back from the strokes that draw it."""

from __future__ import annotations

import inspect
import math
import random
from collections import defaultdict
from types import SimpleNamespace

import pytest

from phantrol.data.primer import SPLITS
from phantrol.data.primer.charts import make_chart
from phantrol.data.primer.diagrams import plan_diagram
from phantrol.data.primer.documents import plan_document
from phantrol.data.primer.figures import PLANS
from phantrol.data.primer.page import Page, shade
from phantrol.data.primer.tables import plan_cells
from phantrol.data.primer.tasks import KINDS

PX, TRAIN = 192, SPLITS["train"]
STROKES = ("write", "box", "line", "disc", "slice", "arrow", "polygon")


@pytest.fixture
def strokes(monkeypatch):
    """`strokes(scene)` returns what draws it: `.box` are all boxes in their order, `.box[0].left` is an argument."""
    seen = {}

    def recorded(name, stroke):
        def draw(*args, **options):
            given = inspect.signature(stroke).bind(*args, **options)
            given.apply_defaults()
            seen[name].append(SimpleNamespace(**given.arguments))
            stroke(*args, **options)

        return draw

    for name in STROKES:
        monkeypatch.setattr(Page, name, recorded(name, getattr(Page, name)))

    def draw(scene):
        seen.update({name: [] for name in STROKES})
        KINDS[scene.kind].draw(scene, PX)
        return SimpleNamespace(**seen)

    return draw


def on_axis(place, marks):
    """Return the value at a place of an axis, from the (place, value) of its first and its last mark."""
    (first, low), *_, (last, high) = marks
    return low + (place - first) / (last - first) * (high - low)


def marks(texts, axis):
    """Return (place, value) of the numbers at an axis: "y" is the leftmost column of numbers, "x" the lowest row."""
    numbers = [text for text in texts if text.text.isdigit()]
    edge = min(text.x for text in numbers) if axis == "y" else max(text.y for text in numbers)
    return [(getattr(text, axis), int(text.text)) for text in numbers if edge == (text.x if axis == "y" else text.y)]


def label(texts, labels, x=None, y=None):
    """Return the one of the labels that is written nearest to x, to y, or to the point."""

    def distance(text):
        return math.hypot(0 if x is None else text.x - x, 0 if y is None else text.y - y)

    return min((text for text in texts if text.text in labels), key=distance).text


def rows(texts):
    """Return what is written as lists of words, row by row."""
    found = defaultdict(list)
    for text in sorted(texts, key=lambda text: text.x):
        found[round(text.y, 3)].append(text.text)
    return [found[y] for y in sorted(found)]


# -- figures


def figures(form):
    return [PLANS[form](random.Random(f"{form} {i}"), TRAIN)[0] for i in range(20)]


def test_a_clock_shows_its_time(strokes):
    for clock in figures("clock"):
        drawn = strokes(clock)
        face = drawn.disc[0]
        hands = [hand.points for hand in drawn.line if hand.points[0] == (face.x, face.y)]
        turns = [
            math.atan2(tip[0] - face.x, face.y - tip[1]) / (2 * math.pi) % 1
            for _, tip in sorted(hands, key=lambda hand: math.dist(*hand))
        ]
        minutes = round(60 * turns[1]) % 60
        hours = round(12 * turns[0] - minutes / 60 - 1) % 12 + 1
        assert (hours, minutes) == clock.numbers
        (twelve,) = (text for text in drawn.write if text.text == "12")
        assert abs(twelve.x - face.x) < 1 and twelve.y < face.y


def test_the_arrow_of_a_number_line_points_at_its_number(strokes):
    for line in figures("number_line"):
        drawn, (first, unit, steps) = strokes(line), line.numbers
        (arrow,) = drawn.arrow
        assert on_axis(arrow.x1, [(text.x, int(text.text)) for text in drawn.write]) == pytest.approx(
            first + unit * steps
        )


def test_a_curve_goes_through_its_points(strokes):
    for curve in figures("curve"):
        drawn = strokes(curve)
        xs, ys = marks(drawn.write, "x"), marks(drawn.write, "y")
        points = [(on_axis(x, xs), on_axis(y, ys)) for x, y in drawn.line[-1].points]
        assert points == [pytest.approx(point, abs=1e-6) for point in enumerate(curve.numbers)]
        assert [(disc.x, disc.y) for disc in drawn.disc] == drawn.line[-1].points


def test_sides_of_a_rectangle_have_their_own_numbers(strokes):
    for rectangle in figures("rectangle"):
        drawn, (width, height) = strokes(rectangle), rectangle.numbers
        (box,) = drawn.box
        (below,) = (text.text for text in drawn.write if text.y > box.bottom)
        (beside,) = (text.text for text in drawn.write if text.x > box.right)
        assert (int(below), int(beside)) == (width, height)
        assert (box.right - box.left > box.bottom - box.top) == (width > height)


def test_angles_of_a_triangle_are_what_is_written_at_them(strokes):
    for triangle in figures("triangle"):
        drawn = strokes(triangle)
        for text in drawn.write:
            corner, *others = sorted(drawn.polygon[0].points, key=lambda point: math.dist(point, (text.x, text.y)))
            degrees = triangle.numbers[2] if text.text == "?" else int(text.text.removesuffix("°"))
            assert angle_between(corner, *others) == pytest.approx(degrees, abs=1e-6)


def angle_between(corner, one, other):
    turns = [math.degrees(math.atan2(point[1] - corner[1], point[0] - corner[0])) for point in (one, other)]
    between = abs(turns[0] - turns[1])
    return min(between, 360 - between)


def test_an_angle_has_its_degrees(strokes):
    for angle in figures("angle"):
        (one, corner), (_, other) = (line.points for line in strokes(angle).line)
        assert angle_between(corner, one, other) == pytest.approx(angle.numbers[0], abs=1e-6)


def test_a_sum_is_written_as_it_is(strokes):
    for terms in figures("sum"):
        a, b, sign = terms.numbers
        written = "".join(text.text for text in strokes(terms).write)
        assert written.replace(" ", "").replace("=", "") == f"{a}{'+' if sign > 0 else '-'}{b}?"


# -- charts


def charts(form):
    for i in range(12):
        rng = random.Random(f"{form} {i}")
        number, series = (2, 2) if form == "grouped" else (rng.randint(3, 5), 1)
        yield make_chart(rng, TRAIN, form, *(rng.sample(range(3, 11), number) for _ in range(series)))


@pytest.mark.parametrize("form", ["bar", "grouped", "hbar"])
def test_bars_have_the_value_and_the_colour_of_their_labels(strokes, form):
    for chart in charts(form):
        drawn = strokes(chart)
        bars = [box for box in drawn.box if box.edge is not None]
        assert len(bars) == sum(map(len, chart.steps))
        legend = {}
        if chart.series:
            keys = [box for box in drawn.box if box.edge is None]
            legend = {key.fill: label(drawn.write, chart.series, key.right, key.bottom) for key in keys}
        for bar in bars:
            if form == "hbar":
                value = on_axis(bar.right, marks(drawn.write, "x"))
                item = chart.names.index(label(drawn.write, chart.names, y=(bar.top + bar.bottom) / 2))
            else:
                value = on_axis(bar.top, marks(drawn.write, "y"))
                item = chart.names.index(label(drawn.write, chart.names, x=(bar.left + bar.right) / 2))
            series = chart.series.index(legend[bar.fill]) if chart.series else 0
            assert value == pytest.approx(chart.value(series, item))
            number = series if chart.series else item % len(chart.colours)  # a plain bar chart may have one colour
            assert bar.fill == shade(chart.colours[number], chart.style)


def test_a_line_chart_has_a_point_at_each_value(strokes):
    for chart in charts("line"):
        drawn = strokes(chart)
        found = {
            label(drawn.write, chart.names, x=disc.x): on_axis(disc.y, marks(drawn.write, "y")) for disc in drawn.disc
        }
        assert found == {name: pytest.approx(chart.value(0, i)) for i, name in enumerate(chart.names)}


def test_slices_have_the_share_the_number_and_the_colour_of_their_labels(strokes):
    for chart in charts("pie"):
        drawn = strokes(chart)
        legend = {box.fill: label(drawn.write, chart.names, box.right, (box.top + box.bottom) / 2) for box in drawn.box}
        values = [chart.value(0, i) for i in range(len(chart.names))]
        assert len(drawn.slice) == len(values)
        for part in drawn.slice:
            item, middle = chart.names.index(legend[part.fill]), math.radians((part.start + part.end) / 2)
            assert (part.end - part.start) / 360 * sum(values) == pytest.approx(values[item])
            x, y = part.x + part.radius * math.cos(middle), part.y + part.radius * math.sin(middle)
            assert label(drawn.write, set(map(str, values)), x, y) == str(values[item])
            assert part.fill == shade(chart.colours[item], chart.style)


@pytest.mark.parametrize("form", ["bar", "grouped", "hbar", "line"])
def test_printed_values_stand_at_their_labels(strokes, form):
    printed = [chart for chart in charts(form) if chart.printed]
    assert printed
    for chart in printed:
        drawn = strokes(chart)
        axis = "x" if form == "hbar" else "y"
        numbers = [text for text in drawn.write if text.text.isdigit()]
        values = numbers[:]
        for place, value in marks(drawn.write, axis):
            values.remove(next(text for text in numbers if (getattr(text, axis), int(text.text)) == (place, value)))
        found = defaultdict(list)
        for text in sorted(values, key=lambda text: text.x):
            place = {"y": text.y} if form == "hbar" else {"x": text.x}
            found[label(drawn.write, chart.names, **place)].append(int(text.text))
        assert found == {
            name: [chart.value(series, i) for series in range(len(chart.steps))] for i, name in enumerate(chart.names)
        }


# -- pages


def test_each_value_of_a_table_is_in_its_cell(strokes):
    for i in range(12):
        table, _ = plan_cells(random.Random(i), TRAIN)
        cells = [[name, *map(str, values)] for name, values in zip(table.rows, table.values, strict=True)]
        assert rows(strokes(table).write) == [[table.corner, *table.columns], *cells]


@pytest.mark.parametrize("form", ["receipt", "form", "letter"])
def test_a_document_has_its_fields_its_prices_and_their_total(strokes, form):
    for i in range(12):
        document, _ = plan_document(random.Random(i), TRAIN, form)
        if form == "form" and not document.fields:
            continue  # nothing can be asked of it, so no sample has one
        expected = {document.title, *(f"{key}: {value}" for key, value in document.fields)}
        expected |= {f"{name} {cents / 100:.2f}" for name, cents in document.items}
        if document.date:
            expected.add(document.date)
        if form == "receipt":
            expected.add(f"TOTAL {sum(cents for _, cents in document.items) / 100:.2f}")
        assert expected <= {" ".join(row) for row in rows(strokes(document).write)}


def test_arrows_of_a_diagram_lead_from_node_to_node(strokes):
    for i in range(30):
        diagram, _ = plan_diagram(random.Random(i), TRAIN)
        drawn = strokes(diagram)
        places = {text.text: (text.x, text.y) for text in drawn.write}
        if diagram.sprites:
            places = {name: (x * PX, y * PX) for name, (x, y) in zip(diagram.names, diagram.places, strict=True)}
        for arrow, edge in zip(drawn.arrow, diagram.edges, strict=True):
            a, b = (places[diagram.names[node]] for node in edge)
            tail, head = (arrow.x0, arrow.y0), (arrow.x1, arrow.y1)
            # from a to its tail to its head to b is no way round
            assert math.dist(a, tail) + math.dist(tail, head) + math.dist(head, b) == pytest.approx(math.dist(a, b))
