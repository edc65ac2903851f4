"""From features of the vision tower to the space of word embeddings: what they say, and where on their tile they lie.

I tiles, L image tokens of a tile, Dv channels of the vision tower, s unshuffle factor, D hidden size of the decoder.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from phantrol.models.configuration import PhantrolConfig


class Projector(nn.Module):
    """[I, L, s²·Dv] → [I, L, D]: optional LayerNorm, linear, GELU, linear, and optionally a given size."""

    def __init__(self, config: PhantrolConfig, vision_size: int):
        super().__init__()
        size_in, size_out = vision_size * config.unshuffle**2, config.text_config.hidden_size
        self.norm = nn.LayerNorm(size_in) if config.projector_norm else nn.Identity()
        self.linear_1, self.linear_2 = nn.Linear(size_in, size_out), nn.Linear(size_out, size_out)
        self.rms = config.feature_rms

    def forward(self, features: Tensor) -> Tensor:
        features = self.linear_2(nn.functional.gelu(self.linear_1(self.norm(features))))
        return features if self.rms is None else self.rms * nn.functional.rms_norm(features, features.shape[-1:])


class GridPositions(nn.Module):
    """Where on its tile a feature lies: [I, L, D] plus x·a + y·b, with x and y from -1 to 1 and two learnt directions.

    A ramp, and not an embedding for each row and column: left of and above are then one linear reading away, while free
    embeddings, which share nothing between places, never learnt them in the same time (LOG.md).
    """

    def __init__(self, side: int, size: int, rms: float):
        super().__init__()
        self.side = side
        self.directions = nn.Parameter(rms * torch.randn(2, size))

    def forward(self, features: Tensor) -> Tensor:
        ramp = torch.linspace(-1, 1, self.side, device=features.device, dtype=features.dtype)
        places = torch.cartesian_prod(ramp, ramp).flip(-1)  # row by row: (x, y)
        return features + places @ self.directions.to(features.dtype)
