"""Tiles against what the official preprocessing of the InternViT models gave: 22 sizes, and one picture's pixels."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from phantrol.models.image_processing import PhantrolImageProcessor
from phantrol.ops.images import best_tile_grid

RECORDED = json.loads((Path(__file__).parents[1] / "recorded" / "tiling.json").read_text("utf-8"))
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SAMPLES = ((0, 0, 0, 0), (0, 1, 100, 200), (1, 2, 300, 17), (2, 0, 447, 447), (2, 1, 223, 224))


@pytest.mark.parametrize("size", RECORDED["grid_cols_rows"])
def test_grids_and_tile_counts(size):
    columns, rows = best_tile_grid(*map(int, size.split("x")), tile_px=448, max_tiles=6)
    assert [columns, rows] == RECORDED["grid_cols_rows"][size]
    assert columns * rows + (columns * rows > 1) == RECORDED["num_images"][size]


def test_pixels():
    check = RECORDED["pixel_check"]
    y, x = np.mgrid[0:300, 0:640]
    channels = [(7 * x + 3 * y) % 256, (x * y // 16) % 256, ((x // 5) * 13 + y) % 256]
    picture = Image.fromarray(np.stack(channels, axis=-1).astype(np.uint8))
    tiles = PhantrolImageProcessor(448, 6, image_mean=IMAGENET_MEAN, image_std=IMAGENET_STD).tiles(picture)
    assert list(tiles.shape) == check["shape"]
    assert [tiles[i].item() for i in SAMPLES] == pytest.approx(check["samples"], abs=1e-6)
    assert tiles.mean((1, 2, 3)).tolist() == pytest.approx(check["mean"], abs=1e-6)
    assert tiles.std((1, 2, 3)).tolist() == pytest.approx(check["std"], abs=1e-6)
    without_thumbnail = PhantrolImageProcessor(448, 6, thumbnail=False).tiles(picture)
    assert len(without_thumbnail) == check["shape"][0] - 1
