"""Some rows of each task, drawn by chance in whole groups, in one reading that keeps no more than it may need."""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

from phantrol.evals.benchmark import Row

R = TypeVar("R", bound=Row)


def draw(rows: Iterable[R], limit: int, seed: int, group_of: Callable[[R], str]) -> list[R]:
    """Return at most `limit` rows of each task, in their order; of each task one group at least, however large.

    Each group has its rank by chance, and groups are taken by rank. Those that can no longer be taken are forgotten as
    rows are read, pictures and all.
    """
    tasks: dict[str, _Task[R]] = {}
    for index, row in enumerate(rows):
        tasks.setdefault(row.task, _Task(limit)).add(index, row, group_of(row), seed)
    drawn = [pair for task in tasks.values() for pair in task.taken()]
    return [row for _, row in sorted(drawn, key=lambda pair: pair[0])]


class _Task(Generic[R]):
    def __init__(self, limit: int):
        self.limit, self.size = limit, 0
        self.groups: dict[str, list[tuple[int, R]]] = {}
        self.forgotten: set[str] = set()
        self.last: list[tuple[float, str]] = []  # a heap: the group of the highest rank first

    def add(self, index: int, row: R, group: str, seed: int) -> None:
        if group in self.forgotten:
            return
        if group not in self.groups:
            self.groups[group] = []
            heapq.heappush(self.last, (-random.Random(f"{seed}/{group}").random(), group))
        self.groups[group].append((index, row))
        self.size += 1
        while len(self.last) > 1 and self.size - len(self.groups[self.last[0][1]]) >= self.limit:
            _, dropped = heapq.heappop(self.last)
            self.forgotten.add(dropped)
            self.size -= len(self.groups.pop(dropped))

    def taken(self) -> list[tuple[int, R]]:
        found: list[tuple[int, R]] = []
        for _, group in sorted(self.last, reverse=True):
            if found and len(found) + len(self.groups[group]) > self.limit:
                break
            found += self.groups[group]
        return found
