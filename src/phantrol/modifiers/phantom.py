"""Phantom: enlarge the head dimension inside attention by what the anchor's heads say (arXiv:2409.14713).

B batch, N new tokens, T cached tokens, d head size, H query heads, K key/value heads. The anchor is the first real
token of each row. Keys and values are enlarged once, when a token enters the cache: [k | η·y_k] and [v | η·y_v].
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from phantrol.modifiers.base import ALL, LayerModifier, OwnLinear, mark_initialized
from phantrol.modifiers.enlarged_cache import ANCHOR, EnlargedCache
from phantrol.modifiers.sequence import SequenceStep
from phantrol.ops.phantom import (
    anchor_memory,
    attend_anchor_heads,
    attend_anchors_of_blocks,
    merge_halves,
    scale_term,
)

PREFIX = "phantom_"  # of the attention function that wraps another one
BLOCKS = "blocks_"  # of one that stands between the two, for rows of several sequences
PART_TOKENS, TOKENS_IN_PARTS = 128, 1024  # of a prompt, attended to at once on a CPU; of longer ones nothing is gained


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
        if isinstance(self.eta, bool) or not isinstance(self.eta, (int, float)):
            raise ValueError(f"PhantomConfig.eta is {self.eta!r}: expected a number, such as 1.0")
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


def phantom_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    backend: str,
    phantom: EnlargedCache | None = None,
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:
    """Attend over enlarged heads with any backend, and merge the two halves.                   [Phantom, eq. 2 and 3]

    query        [B, H, N, d]   key, value  [B, K, T, 2d], already enlarged, or [B, K, 1, d], waiting for their query
    attention →  [B, N, H, d]

        P = softmax((Q·Kᵀ + η²·y_Q·y_Kᵀ)·scale + mask),  h1 = P·V,  h2 = h1 + η·P·y_V,  w = σ(g1(h1) - g2(h2))
        out = w·h1 + (1 - w)·h2

    The scale is the backbone's own, 1/√d for most: the paper's λ = √2 undoes the doubled size.
    Without `phantom` (a layer that has none, or another model with the same configuration) this is the backend itself.

    Raises ValueError if the layer's own class keeps `phantom` from an attention that has the parameters for it.
    """
    base = backend_function(module, backend)
    if phantom is None:
        if hasattr(module, "phantom"):
            raise _refusal(module)
        return base(module, query, key, value, attention_mask, **kwargs)
    size, dimension = query.shape[-1], module.phantom
    query, key, value = phantom.enlarge(query, key, value)

    def attend(values: Tensor) -> tuple[Tensor, Tensor | None]:
        if not module.training and backend.removeprefix(BLOCKS) == "sdpa" and kwargs.get("blocks") is None:
            if query.shape[2] == 1:
                return _attend_grouped(query, key, values, attention_mask, kwargs.get("scaling")), None
            causal = attention_mask is None and kwargs.get("is_causal", getattr(module, "is_causal", True))
            short = query.shape[2] == key.shape[2] <= TOKENS_IN_PARTS
            if causal and short and query.device.type == "cpu":
                return _attend_in_parts(query, key, values, kwargs.get("scaling")), None
        return base(module, query, key, values, attention_mask, **kwargs)

    if dimension.exact:
        halves, weights = attend(value)
    else:  # fused attention wants values as wide as keys
        (first, weights), (term, _) = attend(value[..., :size]), attend(value[..., size:])
        halves = torch.cat([first, term], dim=-1)
    first, term = halves.chunk(2, dim=-1)
    if phantom.joint_gates is None:
        before = dimension.gate_1(first)  # in this order: who listens to the gates compares h2 with h1
        score = dimension.gate_2(first + term) - before
    else:
        score = F.linear(halves, *phantom.joint_gates)
    return merge_halves(first, term, score), weights


def _attend_grouped(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float | None) -> Tensor:
    """query [B, H, N, d], key [B, K, T, d], value [B, K, T, dv], mask [B, 1, N, T] → [B, N, H, dv].

    The queries that share a key/value head stand as rows of one product, so no head is repeated: a step of decoding
    costs with doubled heads what the backbone's costs with its own.
    """
    rows, heads, tokens, size = query.shape
    grouped = query.reshape(rows, key.shape[1], -1, size)
    if mask is not None and tokens > 1:
        mask = mask.repeat(1, 1, heads // key.shape[1], 1)
    attended = F.scaled_dot_product_attention(grouped, key, value, attn_mask=mask, scale=scale)
    return attended.reshape(rows, heads, tokens, value.shape[-1]).transpose(1, 2)


def _attend_in_parts(query: Tensor, key: Tensor, value: Tensor, scale: float | None) -> Tensor:
    """A prompt from its first token on, [B, ., N, .] as in `_attend_grouped`, where each token sees those up to itself.

    On a CPU alone: so few tokens at a time, with the queries that share a key/value head in one product, fill its
    caches better than torch's own causal attention does, which takes up to a third longer.
    """
    parts = []
    for part in query.split(PART_TOKENS, dim=2):
        start, tokens = sum(done.shape[1] for done in parts), part.shape[2]
        seen = slice(0, start + tokens)
        mask = query.new_full((tokens, start + tokens), -torch.inf).triu(start + 1)[None, None]
        parts.append(_attend_grouped(part, key[:, :, seen], value[:, :, seen], mask, scale))
    return torch.cat(parts, dim=1)


def backend_function(module: nn.Module, backend: str) -> Any:
    """Return the attention function that a backend means for an attention module: "eager" is each family's own."""
    return ALL_ATTENTION_FUNCTIONS.get(backend) or sys.modules[_family(module)].eager_attention_forward


def use_phantom_attention(config: Any) -> None:
    """Wrap whichever attention function the decoder is set to; also after `set_attn_implementation`."""
    own = config._attn_implementation or "eager"
    if own.startswith(PREFIX) and own in ALL_ATTENTION_FUNCTIONS:
        return
    backend = own.removeprefix(PREFIX)  # it has the prefix already where another process pickled the model
    name = PREFIX + backend
    if name not in ALL_ATTENTION_FUNCTIONS:

        def wrapped(*args: Any, **kwargs: Any) -> tuple[Tensor, Tensor | None]:
            return phantom_attention(*args, backend=backend, **kwargs)

        AttentionInterface.register(name, wrapped)
        AttentionMaskInterface.register(name, ALL_MASK_ATTENTION_FUNCTIONS[backend])
    config._attn_implementation = name


def _family(module: nn.Module) -> str:
    """The module of the model family that an attention class comes from, where its eager attention stands."""
    for base in type(module).__mro__:
        if hasattr(sys.modules[base.__module__], "eager_attention_forward"):
            return base.__module__
    raise _refusal(module)


def _refusal(module: nn.Module) -> ValueError:
    return ValueError(
        f"Phantom cannot enlarge {type(module).__name__}: expected a layer whose self_attn goes through transformers' "
        "AttentionInterface, once, and has a head_dim; name layers of such attention, PhantomConfig(layers=(...)), "
        "graft another decoder, such as Llama or Qwen, or leave Phantom out"
    )


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
            raise _refusal(attention)
        return output


class Phantom(LayerModifier):
    Config, mixin = PhantomConfig, Enlarged

    def attach(self, layer: nn.Module, layer_idx: int, text_config: Any) -> None:
        like = next(layer.self_attn.parameters())
        dtype = like.dtype if like.is_floating_point() else torch.get_default_dtype()
        head_dim = layer.self_attn.head_dim
        layer.self_attn.phantom = PhantomDimension(self.config, head_dim, device=like.device, dtype=dtype)
        mark_initialized(layer.self_attn.phantom)

    def check(self, layer: nn.Module) -> None:
        attention = getattr(layer, "self_attn", None)
        if not hasattr(attention, "head_dim"):
            raise _refusal(layer if attention is None else attention)
        _family(attention)

    def memories(self, layer_idx: int) -> tuple[str, ...]:
        if layer_idx not in self.layers:
            return ()
        return (ANCHOR,)

    @property
    def anchor_span(self) -> int:
        return 1 + (self.config.anchors - 1) * self.config.anchor_stride

    def prepare(self, decoder: nn.Module) -> None:
        use_phantom_attention(decoder.config)


MODIFIER = Phantom
