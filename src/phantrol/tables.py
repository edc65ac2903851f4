"""How tables, numbers and errors look in a terminal, for all floors."""

from __future__ import annotations

from math import floor, log10
from typing import Any

from rich.table import Column, Table


def number_table(first: str, *others: str, **options: Any) -> Table:
    """Return an empty table whose first column is of words; what stands in the others stands right, as numbers do."""
    return Table(first, *(Column(name, justify="right") for name in others), **options)


def counted(number: int, thing: str) -> str:
    """Return "1 tile", "7 tiles"."""
    return f"{number} {thing}" + ("" if number == 1 else "s")


def first_line(error: object) -> str:
    """Return what an error says, in one line: its first one, or if it says nothing, its type."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def in_bytes(number: int) -> str:
    """Return "512.0 MiB", "7.20 GiB"."""
    return f"{number / 2**30:.2f} GiB" if number >= 2**30 else f"{number / 2**20:.1f} MiB"


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
