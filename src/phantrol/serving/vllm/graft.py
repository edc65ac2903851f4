"""The graft on a decoder that vLLM has rebuilt: the same mixins and parameters as in training, other attention."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from vllm.model_executor.layers.attention import Attention

from phantrol.modifiers.base import mix_in, modifier_of
from phantrol.modifiers.phantom import Phantom
from phantrol.modifiers.sequence import SequenceStep
from phantrol.serving.vllm.attention import NAME, PassAttention
from phantrol.serving.vllm.phantom import ServedPhantom


class ServedLayer:
    """Innermost mixin of each decoder layer, where training has `GraftedLayer`: tells attention which pass this is."""

    def forward(self, *args: Any, sequence: SequenceStep | None = None, **kwargs: Any) -> Any:
        return super().forward(*args, pass_index=0 if sequence is None else sequence.pass_index, **kwargs)


def graft_served(decoder: nn.Module, modifiers: list[Any]) -> bool:
    """Put modifiers on the layers of a decoder whose attention modules hold vLLM's `attn`.

    Return whether heads are wider now. Raises ValueError if a layer is none that the modifiers can be put on.
    """
    layers = list(decoder.layers)
    grafts = sorted((modifier_of(config, len(layers)) for config in modifiers), key=lambda modifier: modifier.depth)
    for layer_idx, layer in enumerate(layers):
        _check(layer, layer_idx)
        mix_in(layer, ServedLayer)
        enlarged, num_passes = False, 1
        for modifier in reversed(grafts):
            if layer_idx not in modifier.layers:
                continue
            modifier.attach(layer, layer_idx, decoder.config)
            if isinstance(modifier, Phantom):
                enlarged = True
            else:
                mix_in(layer, modifier.mixin)
                num_passes = modifier.passes(layer_idx)
        _give_passes(layer.self_attn, num_passes, enlarged)
    decoder.config._attn_implementation = NAME
    return any(isinstance(modifier, Phantom) for modifier in grafts)


def _give_passes(attention: nn.Module, num_passes: int, enlarged: bool) -> None:
    """Exchange an attention module's one vLLM attention for one of each pass."""
    first = attention.attn
    passes = []
    for index in range(num_passes):
        phantom = None
        if enlarged:
            phantom = ServedPhantom(attention.phantom, first.head_size, first.num_heads, first.num_kv_heads)
        prefix = first.layer_name if index == 0 else f"{first.layer_name}_pass_{index + 1}"
        passes.append(PassAttention(first, prefix, phantom))
    del attention.attn
    attention.attention_passes = nn.ModuleList(passes)


def _check(layer: nn.Module, layer_idx: int) -> None:
    attention = getattr(getattr(layer, "self_attn", None), "attn", None)
    if type(attention) is not Attention or attention.has_sink or "forward" in layer.__dict__:
        raise ValueError(
            f"layer {layer_idx} is a {type(layer).__name__} with {type(attention).__name__}: expected one with plain "
            "causal attention as its `self_attn`; `phantrol serve` serves such a decoder as it is"
        )


def served_device(decoder: nn.Module) -> torch.device:
    return next(decoder.parameters()).device
