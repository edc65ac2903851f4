"""How tables, numbers and errors look in a terminal, for all floors."""

from __future__ import annotations

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
