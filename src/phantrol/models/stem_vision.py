"""A small vision tower with a convolution stem, for models that start from nothing.

At a few million parameters a stem of overlapping convolutions learns shapes several times faster than plain patches.

I tiles, S tile side in pixels, g patches along a side, P = g², D hidden size.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModel, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput
from transformers.models.siglip.modeling_siglip import SiglipEncoderLayer

from phantrol.models.configuration import StemVisionConfig

GROUPS = 8  # of the stem's normalisation


class StemVisionModel(PreTrainedModel):
    """Convolutions, then SigLIP's blocks if the configuration asks for any: pixels [I, 3, S, S] → [I, P, D]."""

    config_class = StemVisionConfig
    main_input_name = "pixel_values"
    input_modalities = ("image",)
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _no_split_modules = ["SiglipEncoderLayer"]

    def __init__(self, config: StemVisionConfig):
        super().__init__(config)
        layers: list[nn.Module] = []
        channels = config.num_channels
        for size, kernel, stride, padding in config.stem:
            convolution = nn.Conv2d(channels, size, kernel, stride, padding, bias=False)
            # the library's draw, 0.02 for all, fades the pixels away over several layers
            nn.init.kaiming_normal_(convolution.weight, nonlinearity="relu")
            convolution._is_hf_initialized = True
            layers += [convolution, nn.GroupNorm(GROUPS if size % GROUPS == 0 else 1, size), nn.GELU()]
            channels = size
        self.stem = nn.Sequential(*layers)
        if config.num_hidden_layers:
            self.positions = nn.Parameter(0.02 * torch.randn(config.grid**2, config.hidden_size))
        self.layers = nn.ModuleList(SiglipEncoderLayer(config) for _ in range(config.num_hidden_layers))
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.post_init()

    def forward(self, pixel_values: Tensor, **kwargs: Any) -> BaseModelOutput:
        """[I, 3, S, S] → last_hidden_state [I, P, D], row by row."""
        states = self.stem(pixel_values).flatten(2).transpose(1, 2)
        if self.layers:
            states = states + self.positions
        for layer in self.layers:
            states = layer(states, attention_mask=None)
        return BaseModelOutput(last_hidden_state=self.norm(states))


AutoModel.register(StemVisionConfig, StemVisionModel, exist_ok=True)
