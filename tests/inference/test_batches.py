"""Prompts of like length share a batch: what is padded is work for nothing."""

from __future__ import annotations

import torch

from phantrol.inference.batches import in_batches
from phantrol.models.processing import Encoding

BATCH_SIZE = 4


def batches_of(lengths: list[list[int]], batch_size: int = BATCH_SIZE) -> list[set[int]]:
    """Return the positions of each batch; lengths has those of the prompts of each position."""
    batches: list[set[int]] = []

    def work(prompts: list[list[Encoding]]) -> list[list[int]]:
        batches.append({prompt[0].input_ids[0] for prompt in prompts})
        return [[len(each.input_ids) for each in group] for group in prompts]

    def read(index: int) -> list[Encoding]:
        return [Encoding([index] * length, [False] * length) for length in lengths[index]]

    assert dict(in_batches(len(lengths), read, work, batch_size)) == dict(enumerate(lengths))  # each gets its own
    return batches


def test_prompts_of_like_length_share_a_batch():
    """Four prompts are read at first, then eight, sixteen, and so on: those are sorted together."""
    first, second = [7, 2, 9, 4], [30, 3, 28, 5, 26, 1, 24, 6]
    third = [50, 11, 41, 20, 51, 12, 42, 21, 52, 13, 43, 22, 53, 14, 44, 23]
    lengths = [*first, *second, *third]
    found = [{lengths[index] for index in batch} for batch in batches_of([[length] for length in lengths])]
    assert found[0] == {2, 4, 7, 9}
    assert sorted(map(sorted, found[1:3])) == [[1, 3, 5, 6], [24, 26, 28, 30]]
    assert sorted(map(sorted, found[3:])) == [[11, 12, 13, 14], [20, 21, 22, 23], [41, 42, 43, 44], [50, 51, 52, 53]]


def test_no_more_pixels_are_read_ahead_than_fit(monkeypatch):
    """One picture is more than that here: then only one batch is read while another is at work."""
    monkeypatch.setattr("phantrol.inference.batches.AHEAD_BYTES", 1)
    read, most = [], []

    def work(prompts: list[list[Encoding]]) -> list[int]:
        most.append(len(read))
        assert len(prompts) == BATCH_SIZE  # none is cut short
        return [0] * len(prompts)

    def look(index: int) -> list[Encoding]:
        read.append(index)
        return [Encoding([0], [False], torch.zeros(1))]

    assert len(dict(in_batches(40, look, work, BATCH_SIZE))) == 40
    assert all(count <= BATCH_SIZE * (number + 2) for number, count in enumerate(most))


def test_the_longest_of_several_prompts_counts():
    lengths = [[1], [1, 1], [1], [1], [5, 90], [80, 1], [6], [7], [8, 8], [1, 70], [9], [60]]
    assert sorted(map(sorted, batches_of(lengths)[1:])) == [[4, 5, 9, 11], [6, 7, 8, 10]]
