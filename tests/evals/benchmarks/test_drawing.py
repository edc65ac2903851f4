"""Which rows a limit takes."""

from __future__ import annotations

import random
import weakref
from collections import Counter

import pytest

from phantrol.evals.benchmark import Row
from phantrol.evals.drawing import draw


def rows_of(sizes, task="task"):
    """One group for each size; its rows are spread over the file."""
    names = [name for name, size in enumerate(sizes) for _ in range(size)]
    random.Random(0).shuffle(names)
    return [Row(str(index), task, [], str(name)) for index, name in enumerate(names)]


def taken(rows, limit, seed=0):
    return draw(rows, limit, seed, lambda row: row.answer)


@pytest.mark.parametrize("limit", [1, 2, 5, 9, 30])
@pytest.mark.parametrize("sizes", [(1,) * 12, (2,) * 7, (3, 1, 1, 4, 2, 1, 5), (20, 1, 1)])
def test_whole_groups_up_to_the_limit(sizes, limit):
    rows = rows_of(sizes)
    for seed in range(8):
        drawn = taken(rows, limit, seed)
        counts = Counter(row.answer for row in drawn)
        assert counts and all(count == sizes[int(name)] for name, count in counts.items())
        assert len(drawn) <= limit or len(counts) == 1
        assert drawn == sorted(drawn, key=lambda row: int(row.id))
        if limit >= len(rows):
            assert drawn == rows
        elif len(set(sizes)) == 1:
            assert len(drawn) == max(limit // sizes[0] * sizes[0], sizes[0])


def test_every_group_has_its_chance():
    rows = rows_of((1,) * 10)
    counts = Counter(row.answer for seed in range(400) for row in taken(rows, 3, seed))
    assert set(counts) == {str(name) for name in range(10)}
    assert all(abs(count - 120) < 4 * (400 * 0.3 * 0.7) ** 0.5 for count in counts.values())
    assert taken(rows, 3, 5) == taken(rows, 3, 5)


def test_tasks_have_a_limit_each():
    rows = [row for pair in zip(rows_of((1,) * 6, "a"), rows_of((1,) * 6, "b"), strict=True) for row in pair]
    assert Counter(row.task for row in taken(rows, 4)) == {"a": 4, "b": 4}


def test_what_is_not_drawn_is_forgotten():
    """However long the file: what is held while it is read is little more than what is drawn."""

    class Picture:
        pass

    alive: weakref.WeakSet = weakref.WeakSet()
    held = []

    def rows():
        for index in range(600):
            picture = Picture()
            alive.add(picture)
            held.append(len(alive))
            yield Row(str(index), f"task {index % 2}", [{"picture": picture}], str(index // 4))

    assert len(draw(rows(), 10, 0, lambda row: row.answer)) == 20
    assert max(held) < 30
