"""Partial LoRA: the linears of a decoder adapt to image tokens alone (released TroL on InternLM2; InternLM-XComposer2).

W weight of a linear, A and B the two maps of its LoRA, r their rank.
"""

from __future__ import annotations

import dataclasses
import threading
from math import isfinite
from typing import Any, Literal

from torch import Tensor, nn

from phantrol.modifiers.base import ALL, LayerModifier, OwnLinear, mark_initialized, mix_in, placed_like
from phantrol.modifiers.sequence import SequenceStep

SHARING = ("q_proj", "k_proj", "v_proj")


@dataclasses.dataclass(frozen=True)
class PartialLoraConfig:
    """Options of the partial LoRA.

    layers      "all", or the indices of the layers that have it
    rank        r; released: 256
    alpha       α: what is added is α/r·B·A·x; released: 256, so that α/r = 1
    share_qkv   queries, keys and values share A, as they do where the three are one fused linear, which was released
    Raises ValueError for an option out of range.
    """

    layers: Literal["all"] | tuple[int, ...] = ALL
    rank: int = 256
    alpha: float = 256.0
    share_qkv: bool = True

    def __post_init__(self) -> None:
        if isinstance(self.rank, bool) or not isinstance(self.rank, int) or self.rank < 1:
            raise ValueError(f"PartialLoraConfig.rank is {self.rank!r}: expected 1 or more")
        if isinstance(self.alpha, bool) or not isinstance(self.alpha, (int, float)) or not isfinite(self.alpha):
            raise ValueError(f"PartialLoraConfig.alpha is {self.alpha!r}: expected a number, such as 256.0")
        if not isinstance(self.share_qkv, bool):
            raise ValueError(f"PartialLoraConfig.share_qkv is {self.share_qkv!r}: expected True or False")


class PartlyAdapted:
    """Mixed in before a linear: W·x, and on image tokens W·x + α/r·B·A·x; x [B, N, F] → [B, N, F']."""

    def forward(self, x: Tensor) -> Tensor:
        output, rows = super().forward(x), getattr(_pass, "rows", None)
        if rows is None:
            return output
        adapted = self.lora_B(rows.take(x, self.lora_A)).to(output.dtype)
        flat = output.reshape(-1, output.shape[-1])
        return flat.index_add_(0, rows.index, adapted, alpha=self.lora_scale).view(output.shape)


class ImageAdapted:
    """Mixed in before a decoder layer: its linears learn which tokens are of an image while the layer runs.

    A linear is called with x and nothing else, so the rows are put where only this thread sees them, for as long as
    the layer runs: two requests in two threads stay apart, and a checkpointed layer finds them again when it is rerun.
    """

    def forward(self, *args: Any, sequence: SequenceStep | None = None, **kwargs: Any) -> Any:
        _pass.rows = sequence.image_rows if sequence is not None else None
        try:
            return super().forward(*args, sequence=sequence, **kwargs)
        finally:
            _pass.rows = None


_pass = threading.local()  # .rows: ImageRows of the layer that runs in this thread, or None


class PartialLora(LayerModifier):
    """A LoRA on each linear of the chosen layers, for image tokens alone."""

    Config, mixin = PartialLoraConfig, ImageAdapted
    depth = 2  # attached first: it adapts the backbone's linears, not those that other modifiers bring
    image_only = True

    def check(self, layer: nn.Module) -> None:
        if any(hasattr(module, "base_layer") for module in layer.modules()):
            raise ValueError(
                f"{type(layer).__name__} has adapters of PEFT, whose own maps a partial LoRA would adapt too: expected "
                "a decoder without; graft first, then adapt"
            )
        if not any(isinstance(module, nn.Linear) for module in layer.modules()):
            raise ValueError(
                f"{type(layer).__name__} has no nn.Linear that a partial LoRA could adapt: expected a decoder whose "
                "projections are nn.Linear"
            )

    def attach(self, layer: nn.Module, layer_idx: int, text_config: Any) -> None:
        config, shared = self.config, {}
        linears = {name: module for name, module in layer.named_modules() if isinstance(module, nn.Linear)}
        for name, linear in linears.items():
            factory = {"bias": False, **placed_like(linear.weight)}
            owner, _, kind = name.rpartition(".")
            if config.share_qkv and kind in SHARING and owner in shared:
                # held without registering it again: q_proj owns it, and a checkpoint names it once
                linear.__dict__["lora_A"] = shared[owner]
            else:
                linear.lora_A = OwnLinear(linear.in_features, config.rank, **factory)
                if kind in SHARING:
                    shared[owner] = linear.lora_A
            linear.lora_B = OwnLinear(config.rank, linear.out_features, **factory)
            nn.init.zeros_(linear.lora_B.weight)  # nothing is added at the start
            linear.lora_scale = config.alpha / config.rank
            mark_initialized(linear.lora_A)
            mark_initialized(linear.lora_B)
            mix_in(linear, PartlyAdapted)


MODIFIER = PartialLora
