"""A small vision tower with a convolution stem, for models that start from nothing.

At a few million parameters a stem of overlapping 3 x 3 convolutions learns shapes several times faster than plain patches.
The blocks behind it are SigLIP's.

I tiles, S tile side in pixels, P = (S / patch_size)² patches, D hidden size.
"""

from __future__ import annotations

from torch import Tensor, nn
from transformers import AutoModel, SiglipVisionModel

from phantrol.models.configuration import StemVisionConfig


class ConvolutionStem(nn.Sequential):
    """[I, 3, S, S] → [I, D, S / patch_size, S / patch_size]."""

    def __init__(self, config: StemVisionConfig):
        halvings = config.patch_size.bit_length() - 1
        widths = [min(config.stem_channels * 2**i, config.hidden_size) for i in range(halvings)]
        layers: list[nn.Module] = []
        for size_in, size_out in zip([config.num_channels, *widths], widths, strict=False):
            layers += [nn.Conv2d(size_in, size_out, 3, stride=2, padding=1), nn.GroupNorm(1, size_out), nn.GELU()]
        super().__init__(*layers, nn.Conv2d(widths[-1], config.hidden_size, 1))

    @property
    def weight(self) -> Tensor:  # the embeddings ask their patch embedding for its dtype
        return self[0].weight


class StemVisionModel(SiglipVisionModel):
    """Pixels [I, 3, S, S] → last_hidden_state [I, P, D]."""

    config_class = StemVisionConfig

    def __init__(self, config: StemVisionConfig):
        super().__init__(config)
        embeddings = getattr(self, "vision_model", self).embeddings
        embeddings.patch_embedding = ConvolutionStem(config)
        self.post_init()


AutoModel.register(StemVisionConfig, StemVisionModel, exist_ok=True)
