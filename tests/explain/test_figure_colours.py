"""What a colour of the figure stands for."""

from __future__ import annotations

import pytest
import torch
from PIL import Image

from phantrol.explain.colours import heat_colour
from phantrol.explain.figure import GAP, LEFT, MARGIN, SMALL, WIDTH, _pictures, _rows_height, _token_map
from phantrol.explain.maps import Maps
from phantrol.explain.prompt import PictureTokens
from phantrol.explain.traversal import Traversal


def two_tokens(*ratios):
    """Maps of layers by two tokens, which are the halves of a white picture."""
    seen = PictureTokens(Image.new("RGB", (64, 32), "white"), torch.tensor([[0, 1]]))
    layers, ratios = tuple(range(len(ratios))), torch.tensor(ratios)
    return Maps(Traversal("What?", ratios, layers, ("a", "b"), (True, True), (seen,)), None, ())


def colours_at(image, places):
    return [channel for x, y in places for channel in image.getpixel((round(x), round(y)))]


def colours_of(*shares):
    return pytest.approx([channel for share in shares for channel in heat_colour(share)], abs=3)


def test_what_lies_over_the_picture_is_the_mean_of_the_layers():
    maps = two_tokens([0.0, 0.2], [0.2, 0.2])
    side = (WIDTH - 2 * MARGIN - 2 * GAP) // 3
    left = MARGIN + side + GAP  # of the second panel
    panels = _pictures(maps.pictures[0], maps)
    assert colours_at(panels, [(left + side / 4, side / 4), (left + 3 * side / 4, side / 4)]) == colours_of(0.5, 1)


def test_the_colours_of_a_map_go_from_0_to_its_largest():
    """As the legend says; not from the smallest."""
    maps = two_tokens([0.05, 0.1], [0.025, 0.1])
    drawn = _token_map(maps.traversal.ratios, ["one", "two"], maps)
    left, column = MARGIN + LEFT, (WIDTH - LEFT - 2 * MARGIN) / 2
    top, row = 1.6 * SMALL, _rows_height(maps.traversal.ratios) / 2
    places = [(left + column * (x + 0.5), top + row * (y + 0.5)) for y in (0, 1) for x in (0, 1)]
    assert colours_at(drawn, places) == colours_of(0.5, 1, 0.25, 1)
