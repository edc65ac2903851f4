"""Tables: a cell, the row of a value, the row with the highest or lowest value, the sum of a column."""

from __future__ import annotations

import random
from dataclasses import dataclass

from PIL import Image

from phantrol.data.primer.asking import Draft, Sitting, Task
from phantrol.data.primer.kinds import Kind, stage_page
from phantrol.data.primer.page import FAINT, INK, PAPERS, Page, draw_look
from phantrol.data.primer.splits import Split
from phantrol.data.primer.wordings import Template, frame
from phantrol.data.primer.words import CITIES, COLUMNS, PEOPLE, allowed

VALUES = range(1, 100)
SMALL, SUMS = range(1, 25), range(20, 51)  # of columns that are summed
LOOKS = ("grid", "stripes", "rules")
HEADS = ((40, 70, 120), (90, 60, 110), (40, 100, 80), (70, 70, 76))


@dataclass(frozen=True)
class Table:
    """Rows and columns have names; `values[row][column]`. All values of a column differ."""

    look: str
    corner: str
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    values: tuple[tuple[int, ...], ...]
    style: str
    font: str
    paint_seed: int
    kind: str = "tables"

    def column(self, column: int) -> list[int]:
        return [row[column] for row in self.values]


def make_table(rng: random.Random, split: Split, columns: list[list[int]]) -> Table:
    names, corner = rng.choice(((PEOPLE, "Name"), (CITIES, "City")))
    return Table(
        rng.choice(LOOKS),
        corner,
        tuple(rng.sample(allowed(names, split), len(columns[0]))),
        tuple(rng.sample(allowed(COLUMNS, split), len(columns))),
        tuple(zip(*columns, strict=True)),
        **draw_look(rng, split),
    )


def plan_cells(rng: random.Random, split: Split) -> tuple[Table, None]:
    rows, columns = _numbers(rng, split)
    return make_table(rng, split, [rng.sample(VALUES, rows) for _ in range(columns)]), None


def plan_sum(rng: random.Random, split: Split) -> tuple[Table, tuple]:
    """The sum is drawn first, then different values that make it up."""
    rows, columns = _numbers(rng, split)
    rows = min(rows, 4)
    total = rng.choice(SUMS)
    while True:
        summed = rng.sample(SMALL, rows - 1)
        last = total - sum(summed)
        if last in SMALL and last not in summed:
            break
    values = [[*summed, last]] + [rng.sample(VALUES, rows) for _ in range(columns - 1)]
    order = rng.sample(range(columns), columns)
    return make_table(rng, split, [values[i] for i in order]), ("table_sum", order.index(0))


def _numbers(rng: random.Random, split: Split) -> tuple[int, int]:
    return (rng.randint(6, 8), 3) if split.more else (rng.randint(3, 5), rng.randint(1, 3))


# -- questions


def ask_cell(sitting: Sitting) -> Draft | None:
    table, done = sitting.scene, sitting.asked.get("table_cell", ())
    cells = [(r, c) for r, c in _fair_cells(sitting) if (r, c) not in done]
    if not cells:
        return None
    row, column = sitting.rng.choice(cells)
    near = [table.values[r][column] for r in range(len(table.rows))] + list(table.values[row])
    slots = {"row": table.rows[row], "column": table.columns[column]}
    pool = tuple(map(str, VALUES))
    return Draft("table_cell", slots, str(table.values[row][column]), pool, (row, column), tuple(map(str, near)))


def ask_lookup(sitting: Sitting) -> Draft | None:
    table, done = sitting.scene, sitting.asked.get("table_lookup", ())
    cells = [(r, c) for r, c in _fair_cells(sitting) if (r, c) not in done]
    if not cells:
        return None
    row, column = sitting.rng.choice(cells)
    slots = {"value": str(table.values[row][column]), "column": table.columns[column]}
    return Draft("table_lookup", slots, table.rows[row], _names(sitting), (row, column), near=table.rows)


def ask_extreme(sitting: Sitting) -> Draft | None:
    table, rng, done = sitting.scene, sitting.rng, sitting.asked.get("table_extreme", ())
    choices = [(c, side) for c in range(len(table.columns)) for side in ("highest", "lowest") if (c, side) not in done]
    if not choices:
        return None
    column, side = rng.choice(choices)
    values = table.column(column)
    row = values.index(max(values) if side == "highest" else min(values))
    slots = {"side": side, "column": table.columns[column]}
    return Draft("table_extreme", slots, table.rows[row], _names(sitting), (column, side), near=table.rows)


def ask_sum(sitting: Sitting) -> Draft | None:
    planned = sitting.lead("table_sum")
    if planned is None:
        return None
    (column,) = planned
    total = sum(sitting.scene.column(column))
    return Draft("table_sum", {"column": sitting.scene.columns[column]}, str(total), tuple(map(str, SUMS)), "table_sum")


def _fair_cells(sitting: Sitting) -> list[tuple[int, int]]:
    """Return the cells whose values are as likely as any; those of a column made for its sum are not."""
    summed = sitting.focus[-1] if sitting.asked and sitting.focus and sitting.focus[0] == "table_sum" else None
    table = sitting.scene
    return [(r, c) for r in range(len(table.rows)) for c in range(len(table.columns)) if c != summed]


def _names(sitting: Sitting) -> tuple[str, ...]:
    return allowed(PEOPLE if sitting.scene.corner == "Name" else CITIES, sitting.split)


# -- drawing


def draw_table(table: Table, size_px: int) -> Image.Image:
    """Return the table as an RGB picture of size_px by size_px: a grid, stripes, or rules alone."""
    rng = random.Random(table.paint_seed)
    page = Page(size_px, rng.choice(PAPERS[table.style]), table.font)
    rows, columns = len(table.rows) + 1, len(table.columns) + 1
    pitch = min(0.13, 0.92 / rows) * size_px
    width = min(0.32, 0.94 / columns) * size_px
    texts = (table.corner, *table.columns, *table.rows)
    letters = page.fit(texts, min(0.062 * size_px, 0.62 * pitch), 0.86 * width)
    left = (size_px - columns * width) * rng.uniform(0.3, 0.7)
    top = (size_px - rows * pitch) * rng.uniform(0.3, 0.7)
    right, bottom = left + columns * width, top + rows * pitch
    head = rng.choice(HEADS)
    stripe = tuple(channel - 18 for channel in page.paper)
    if table.look == "stripes":
        for i in range(2, rows, 2):
            page.box(left, top + i * pitch, right, top + (i + 1) * pitch, stripe)
    if table.look != "rules":
        page.box(left, top, right, top + pitch, head)
    if table.look == "grid":
        for i in range(rows + 1):
            page.box(left, top + i * pitch, right, top + i * pitch, INK)
        for i in range(columns + 1):
            page.box(left + i * width, top, left + i * width, bottom, INK)
    if table.look == "rules":
        for i, colour in ((0, INK), (1, INK), *((i, FAINT) for i in range(2, rows)), (rows, INK)):
            page.box(left, top + i * pitch, right, top + i * pitch, colour)
    lines = [(table.corner, *table.columns), *zip(table.rows, *zip(*table.values, strict=True), strict=True)]
    for i, row in enumerate(lines):
        colour = (255, 255, 255) if i == 0 and table.look != "rules" else INK
        for j, text in enumerate(row):
            y = top + (i + 0.5) * pitch
            if j == 0:
                page.write(left + 0.06 * width, y, text, letters, colour)
            else:
                page.write(left + (j + 0.94) * width, y, str(text), letters, colour, anchor="r")
    return page.image


KIND = Kind(stage_page, draw_table)
_TABLES = {"tables": plan_cells}
TASKS = {
    "table_cell": Task("tables", ask_cell, _TABLES, "number", weight=0.5),
    "table_lookup": Task("tables", ask_lookup, _TABLES, weight=0.3),
    "table_extreme": Task("tables", ask_extreme, _TABLES, weight=0.4),
    "table_sum": Task("tables", ask_sum, {"tables": plan_sum}, "number", weight=0.3),
}
WORDINGS: dict[str, Template] = {
    "table_cell": frame(
        "the {column} of {row}", "the value of {row} for {column}", more=("Which {column} does {row} have?",)
    ),
    "table_lookup": (
        (
            "Which one has {value} for {column}?",
            "Whose {column} is {value}?",
            "Who or what has a {column} of {value}?",
            "Which row has {value} for {column}?",
            "Name the row whose {column} is {value}.",
            "For which row is the {column} {value}?",
        ),
        ("In the image, whose {column} is {value}?", "Name the one whose {column} is {value}."),
    ),
    "table_extreme": (
        (
            "Which one has the {side} {column}?",
            "Who or what has the {side} {column}?",
            "Whose {column} is the {side}?",
            "Which row has the {side} {column}?",
            "Name the row with the {side} {column}.",
            "For which row is the {column} the {side}?",
        ),
        ("In the image, whose {column} is the {side}?", "Name the one with the {side} {column}."),
    ),
    "table_sum": frame(
        "the sum of the column {column}",
        "the sum of all values of {column}",
        more=("What do the {column} values add up to?",),
    ),
}
