"""Which rows may share a batch where the longest one decides the rotary angles of all, so that none changes with its
company: only rows of the same factors (`models/longrope.py`)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any

from phantrol.models.longrope import switch_lengths
from phantrol.models.processing import Encoding


def alike(model: Any, rows: Sequence[Encoding], num_new_tokens: int = 0) -> list[list[Encoding]]:
    """Cut rows, in their order, where neighbours cannot share a batch while each is answered with up to so many tokens.

    Rows share one if all stay before a switch, if all begin beyond it, or if they are equally long and come to it
    together.
    """
    switches = switch_lengths(model.config)

    def kind(row: Encoding) -> list[int]:
        return [min(max(len(row.input_ids), switch - num_new_tokens), switch + 1) for switch in switches]

    return [list(group) for _, group in groupby(rows, kind)]
