"""Phantom: enlarge the head dimension inside attention by what the anchor's heads say (arXiv:2409.14713).

B batch, N new tokens, T cached tokens, d head size, H query heads, K key/value heads. The anchor is the first real
token of each row. Keys and values are enlarged once, when a token enters the cache: [k | η·y_k] and [v | η·y_v].
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from math import isfinite
from typing import Any, Literal

import torch
from torch import Tensor, nn

from phantrol.modifiers.base import ALL, LayerModifier, OwnLinear, mark_initialized, placed_like
from phantrol.modifiers.enlarged_cache import ANCHOR, EnlargedCache
from phantrol.modifiers.layer_kinds import finds_keys, sharing_keys
from phantrol.modifiers.phantom_attention import attention_family, refusal, use_phantom_attention
from phantrol.modifiers.sequence import SequenceStep
from phantrol.ops.phantom import (
    anchor_memory,
    attend_anchor_heads,
    attend_anchors_of_blocks,
    scale_term,
)


@dataclasses.dataclass(frozen=True)
class PhantomConfig:
    """Options of the phantom dimension.

    layers     "all", or the indices of the layers that have it
    eta        η, the size of the phantom term at the start: 1e-4 in the released code
    train_eta  η is one trainable number per layer; released: fixed
    logits     "exact": queries and keys are enlarged too; the cache takes twice the plain one
               "drop": only values are, which leaves out a term of size η² in the logits, below float32 at the released
               η = 1e-4; the cache takes 1.5 times the plain one
    anchors    so many tokens are anchors: the first of a row, and each anchor_stride-th after it. A token looks at the
               heads of those that do not come after it, in one softmax. Paper and released code: the first alone
    init       "identity": the phantom term is 0 at the start and the backbone as it was, with gradients that are not 0
               "random": normal weights, as released
    Raises ValueError for an option out of range.
    """

    layers: Literal["all"] | tuple[int, ...] = ALL
    eta: float = 1.0
    train_eta: bool = False
    logits: Literal["exact", "drop"] = "exact"
    init: Literal["identity", "random"] = "identity"
    anchors: int = 1
    anchor_stride: int = 1

    def __post_init__(self) -> None:
        for name, allowed in (("logits", ("exact", "drop")), ("init", ("identity", "random"))):
            if getattr(self, name) not in allowed:
                raise ValueError(f"PhantomConfig.{name} is {getattr(self, name)!r}: expected {' or '.join(allowed)}")
        if isinstance(self.eta, bool) or not isinstance(self.eta, (int, float)) or not isfinite(self.eta):
            raise ValueError(f"PhantomConfig.eta is {self.eta!r}: expected a number, such as 1.0")
        if not isinstance(self.train_eta, bool):
            raise ValueError(f"PhantomConfig.train_eta is {self.train_eta!r}: expected True or False")
        for name in ("anchors", "anchor_stride"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"PhantomConfig.{name} is {value!r}: expected a whole number, at least 1")


class AnchorAttention(nn.Module):
    """states [B, H, N, d] → y [B, H, N, d], what the heads of the anchor say to each head of each token.

    Four linear maps of head size without bias, shared by all heads.                            [Phantom, eq. 1]
    Unlike gates they stay nn.Linear: who names q_proj to PEFT means these as well.
    """

    def __init__(self, head_dim: int, zero_output: bool, **factory: Any):
        super().__init__()
        self.q_proj, self.k_proj, self.v_proj, self.o_proj = (
            nn.Linear(head_dim, head_dim, bias=False, **factory) for _ in range(4)
        )
        if zero_output:  # then y = gelu(0) = 0, where the slope of gelu is 1/2: nothing said, but able to learn
            nn.init.zeros_(self.o_proj.weight)

    def forward(self, states: Tensor, memory: tuple[Tensor, Tensor], visible: Tensor | None = None) -> Tensor:
        return attend_anchor_heads(states, *memory, self.query_weight(states), visible)

    def of_blocks(self, states: Tensor, memory: tuple[Tensor, Tensor], num_tokens: Sequence[int]) -> Tensor:
        return attend_anchors_of_blocks(states, *memory, self.query_weight(states), num_tokens)

    def remember(self, anchor: Tensor) -> tuple[Tensor, Tensor]:
        return anchor_memory(anchor, *(_weight(part, anchor) for part in (self.k_proj, self.v_proj, self.o_proj)))

    def query_weight(self, states: Tensor) -> Tensor:
        return _weight(self.q_proj, states)


def _weight(linear: nn.Module, like: Tensor) -> Tensor:
    """Return W of x → x·Wᵀ, [d, d]. Where an adapter stands before it, or its weight lies elsewhere until it is called
    (offloaded by a device map), of what it makes of each direction."""
    if type(linear) is nn.Linear and linear.weight.is_meta == like.is_meta:
        return linear.weight
    return linear(torch.eye(like.shape[-1], dtype=like.dtype, device=like.device)).T


class PhantomDimension(nn.Module):
    """The parameters that one attention module gains: three anchor attentions, two gates, and η if it is trained."""

    def __init__(self, config: PhantomConfig, head_dim: int, **factory: Any):
        super().__init__()
        identity = config.init == "identity"
        self.value = AnchorAttention(head_dim, zero_output=identity, **factory)
        if config.logits == "exact":
            # of a product of two zeros neither factor would ever learn: only the query's half starts at zero
            self.query = AnchorAttention(head_dim, zero_output=identity, **factory)
            self.key = AnchorAttention(head_dim, zero_output=False, **factory)
        self.gate_1, self.gate_2 = OwnLinear(head_dim, 1, **factory), OwnLinear(head_dim, 1, **factory)
        self.exact, self.anchors, self.anchor_stride = config.logits == "exact", config.anchors, config.anchor_stride
        if config.train_eta:
            self.eta = nn.Parameter(torch.full((1,), config.eta, **factory))
        else:
            self.eta = config.eta

    def forward(self, term: Tensor) -> Tensor:
        return scale_term(term, self.eta)


class Enlarged:
    """Mixed in before a decoder layer: its attention sees enlarged queries, keys and values."""

    def forward(
        self,
        hidden_states: Tensor,
        *args: Any,
        past_key_values: Any = None,
        sequence: SequenceStep | None = None,
        **kwargs: Any,
    ) -> Any:
        attention, step = self.self_attn, sequence or SequenceStep()
        if step.anchor_index is None and past_key_values is None:
            first = torch.zeros(hidden_states.shape[0], dtype=torch.long, device=hidden_states.device)
            step = dataclasses.replace(step, anchor_index=first)
        # Gemma 3n and 4: of some layers the keys and values go to others, as they leave the cache
        keys_go_on = getattr(attention, "store_full_length_kv", False)
        cache = EnlargedCache(attention.phantom, past_key_values, attention.layer_idx, step, keys_go_on)
        output = super().forward(hidden_states, *args, past_key_values=cache, sequence=step, phantom=cache, **kwargs)
        if cache.entered != 1:  # never: it goes past `phantom_attention`; twice, with other values: DiffLlama
            raise refusal(attention)
        return output


class Phantom(LayerModifier):
    """The phantom dimension: attention of the chosen layers has enlarged heads, and remembers what anchors say."""

    Config, mixin = PhantomConfig, Enlarged

    def attach(self, layer: nn.Module, layer_idx: int, text_config: Any) -> None:
        factory = placed_like(next(layer.self_attn.parameters()))
        layer.self_attn.phantom = PhantomDimension(self.config, layer.self_attn.head_dim, **factory)
        mark_initialized(layer.self_attn.phantom)

    def check(self, layer: nn.Module) -> None:
        attention = getattr(layer, "self_attn", None)
        if not hasattr(attention, "head_dim"):
            raise refusal(layer if attention is None else attention)
        attention_family(attention)

    def check_decoder(self, layers: nn.ModuleList) -> None:
        found = [index for index, layer in enumerate(layers) if finds_keys(layer)]
        if found:  # it asks for the attention function by its name, which a graft changes in all layers
            raise ValueError(
                f"Phantom cannot enlarge {type(layers[found[0]]).__name__}: layers {found} find their keys by an "
                "index, expected attention to all; graft another decoder, such as Llama or Qwen, or leave Phantom out"
            )
        for group in sharing_keys(layers):
            if 0 < len(set(group) & set(self.layers)) < len(group):
                raise ValueError(
                    f"PhantomConfig.layers is {self.config.layers}: expected all or none of {group}, which attend to "
                    "the same keys and values, since these are enlarged once"
                )

    def memories(self, layer_idx: int) -> tuple[str, ...]:
        return (ANCHOR,) if layer_idx in self.layers else ()

    @property
    def anchor_span(self) -> int:
        return 1 + (self.config.anchors - 1) * self.config.anchor_stride

    def prepare(self, decoder: nn.Module) -> None:
        use_phantom_attention(decoder.config)


MODIFIER = Phantom
