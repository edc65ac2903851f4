"""The text-only prior: how far one gets by knowing the training texts and never looking at a picture or a model."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence

from phantrol.evals.benchmark import Row, question_text

Mask = Callable[[str], str]  # question → its form, as `Benchmark.mask`


class TextPrior:
    """Tables of the most frequent answer: of the question as it stands; else of its masked form; else of its task."""

    def __init__(self, rows: Iterable[Row], mask: Mask):
        self._mask = mask
        self._tables: list[dict[tuple[str, str], Counter[str]]] = [defaultdict(Counter) for _ in range(3)]
        for row in rows:
            for table, key in zip(self._tables, self._keys(row), strict=True):
                table[key][row.answer] += 1

    def answer(self, row: Row) -> str:
        """Return the prior's answer, or "" if it has learnt nothing about this task."""
        for table, key in zip(self._tables, self._keys(row), strict=True):
            if key in table:
                counts = table[key]
                return max(sorted(counts), key=counts.__getitem__)  # of equally frequent ones the first in the alphabet
        return ""

    def _keys(self, row: Row) -> tuple[tuple[str, str], ...]:
        question = question_text(row)
        return (row.task, question), (row.task, self._mask(question)), (row.task, "")


def answer_by_halves(rows: Sequence[Row], mask: Mask, groups: Sequence[Hashable]) -> list[str]:
    """Return the prior's answers where there are no training texts: of each task's groups, either half learns from the
    other; a task of one group has no teacher, and its answers are empty.

    groups  of the rows, as `Benchmark.group_of`: a question and its twin with the other answer stay in one half
    Leaving out one row at a time would be worse than it looks: where answers are balanced, the rest always favours a
    wrong one. So it does where a row learns from its twin.
    """
    order = list(dict.fromkeys(groups))
    random.Random(0).shuffle(order)
    task_of = {group: row.task for row, group in zip(rows, groups, strict=True)}
    order.sort(key=task_of.__getitem__)  # half of each task's groups, so that a task of few is not without a teacher
    halves = set(order[::2]), set(order[1::2])
    priors = [
        TextPrior((row for row, group in zip(rows, groups, strict=True) if group in half), mask) for half in halves
    ]
    return [priors[group in halves[0]].answer(row) for row, group in zip(rows, groups, strict=True)]
