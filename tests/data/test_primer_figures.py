"""Pictures of figures vary so much that few of an evaluation were seen in training."""

from __future__ import annotations

import hashlib

import pytest

from phantrol.data.primer import Curriculum, sample


def digest(split: str, index: int, task: str) -> bytes:
    drawn = sample(split, "mathematics", index, 192, Curriculum({task: 1.0}, questions=1, captions=False))
    return hashlib.sha256(drawn.picture.tobytes()).digest()


@pytest.mark.parametrize("task", ["figure_clock", "figure_area", "figure_perimeter", "figure_number_line"])
def test_few_pictures_are_the_same_as_one_of_training(task):
    trained = {digest("train", i, task) for i in range(2500)}
    seen = sum(digest(split, i, task) in trained for split in ("val", "test_para") for i in range(200))
    assert seen <= 8  # 2 in 100
