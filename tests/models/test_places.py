"""Where on its tile a feature lies: the order of patches, and the ramp that tells it."""

from __future__ import annotations

import pytest
import torch

from phantrol.models.projector import GridPositions
from phantrol.ops.images import join_patches


def test_places_are_told_row_by_row_from_minus_one_to_one():
    positions = GridPositions(3, 2, rms=1.0)
    with torch.no_grad():
        positions.directions.copy_(torch.eye(2))  # then a feature is its own (x, y)
    places = positions(torch.zeros(2, 9, 2))
    assert torch.equal(places[0], places[1])
    assert places[0].tolist() == [[x, y] for y in (-1.0, 0.0, 1.0) for x in (-1.0, 0.0, 1.0)]


def test_patches_of_a_convolutional_network_are_read_row_by_row():
    state = torch.arange(2 * 4 * 3 * 3).view(2, 4, 3, 3)  # [I, D, h, w]
    joined = join_patches(state, 9)
    for row in range(3):
        for column in range(3):
            assert torch.equal(joined[:, 3 * row + column], state[:, :, row, column])


def test_tokens_before_the_patches_are_left_out():
    state = torch.arange(2 * 6 * 3).view(2, 6, 3)
    assert torch.equal(join_patches(state, 4), state[:, 2:])
    with pytest.raises(ValueError, match="gives 6 tokens a tile, expected 7"):
        join_patches(state, 7)
