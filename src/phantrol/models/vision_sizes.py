"""What a vision tower gives for a tile: how many channels, and how many patches along a side."""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoModel


def vision_size(vision_config: Any) -> int:
    """Return the channels of a vision tower's last hidden state.

    Raises ValueError if the configuration does not say.
    """
    for name in ("hidden_size", "hidden_sizes", "embed_dim"):
        size = getattr(vision_config, name, None)
        if size:
            return size if isinstance(size, int) else size[-1]
    raise ValueError(f"{type(vision_config).__name__} has no hidden_size: expected the configuration of a vision tower")


@torch.no_grad()
def measure_grid(vision_config: Any, image_px: int) -> int:
    """Return how many patches lie along one side of a tile, by running the vision tower on shapes alone.

    Raises ValueError if the tower takes no pictures of this size, or its patches form no square: where they come as a
    grid, by its sides; where they come in a row, behind class and register tokens, by the sides of one patch.
    """
    with torch.device("meta"):
        tower = AutoModel.from_config(vision_config).eval()
        try:
            states = tower(torch.empty(1, 3, image_px, image_px)).last_hidden_state
        except (RuntimeError, TypeError, ValueError) as error:
            raise ValueError(f"{type(tower).__name__} takes no pictures of {image_px} px: {error}") from None
    sides = states.shape[-2:] if states.ndim == 4 else getattr(vision_config, "patch_size", None)
    if isinstance(sides, list | tuple) and len(set(sides[-2:])) > 1:
        what = "a grid of" if states.ndim == 4 else "pixels of a patch,"
        raise ValueError(
            f"{type(tower).__name__} at {image_px} px: got {what} {sides[-2]} x {sides[-1]}, expected a square, as "
            "tiles are cut; use another vision tower"
        )
    if states.ndim == 4:
        return states.shape[-1]
    return int(states.shape[1] ** 0.5)  # class and register tokens are fewer than one more row of patches
