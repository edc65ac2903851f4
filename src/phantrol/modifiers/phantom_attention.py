"""The attention function of Phantom: it attends over enlarged heads with any backend, and merges the two halves.

B batch, N new tokens, T cached tokens, d head size, H query heads, K key/value heads, dv size of a value.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from phantrol.modifiers.enlarged_cache import EnlargedCache
from phantrol.ops.phantom import merge_halves

PREFIX = "phantom_"  # of the attention function that wraps another one
BLOCKS = "blocks_"  # of one that stands between the two, for rows of several sequences
ASKING_MORE = ("blocks", "position_bias", "softcap", "s_aux")  # of attention than a mask and a scale
PART_TOKENS, TOKENS_IN_PARTS = 128, 1024  # of a prompt, attended to at once on a CPU; of longer ones nothing is gained


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
    Differs: the released code stores v + η·y as the second half of a value and attends over it; here η·y stands alone,
    since in bfloat16 v + η·y is v.
    Without `phantom` (a layer that has none, or another model with the same configuration) this is the backend itself.

    Raises ValueError if the layer's own class keeps `phantom` from an attention that has the parameters for it.
    """
    base = backend_function(module, backend)
    if phantom is None:
        if hasattr(module, "phantom"):
            raise refusal(module)
        return base(module, query, key, value, attention_mask, **kwargs)
    size, dimension = query.shape[-1], module.phantom
    query, key, value = phantom.enlarge(query, key, value)

    def attend(values: Tensor) -> tuple[Tensor, Tensor | None]:
        is_plain = backend.removeprefix(BLOCKS) == "sdpa" and all(kwargs.get(name) is None for name in ASKING_MORE)
        is_shared = attention_mask is None or attention_mask.shape[1] == 1  # by all heads
        if is_plain and is_shared and not module.training:
            if query.shape[2] == 1:
                return _attend_grouped(query, key, values, attention_mask, kwargs.get("scaling")), None
            causal = attention_mask is None and kwargs.get("is_causal", getattr(module, "is_causal", True))
            short = query.shape[2] == key.shape[2] <= TOKENS_IN_PARTS
            if causal and short and query.device.type == "cpu":
                return _attend_in_parts(query, key, values, kwargs.get("scaling")), None
        return base(module, query, key, values, attention_mask, **kwargs)

    drops = not dimension.exact and module.training and kwargs.get("dropout")
    if drops:  # in one call, for both halves are of the same shares
        query, key = F.pad(query, (0, size)), F.pad(key, (0, size))
    if dimension.exact or drops:
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
    return ALL_ATTENTION_FUNCTIONS.get(backend) or sys.modules[attention_family(module)].eager_attention_forward


def use_phantom_attention(config: Any) -> None:
    """Wrap whichever attention function the decoder is set to; also after `set_attn_implementation`."""
    own = config._attn_implementation or "eager"
    if own.startswith(PREFIX) and own in ALL_ATTENTION_FUNCTIONS:
        return
    backend = own.removeprefix(PREFIX)  # it has the prefix already where another process pickled the model
    # likewise, after rows of several sequences
    if backend.startswith(BLOCKS) and backend not in ALL_ATTENTION_FUNCTIONS:
        backend = backend.removeprefix(BLOCKS)
    config._attn_implementation = put_around(PREFIX, phantom_attention, backend)


def put_around(prefix: str, function: Callable[..., Any], backend: str) -> str:
    """Register an attention function that takes the name of the one it stands around as `backend`, with that one's
    masks. Return its own name: the prefix and the backend's."""
    name = prefix + backend
    if name not in ALL_ATTENTION_FUNCTIONS:
        AttentionInterface.register(name, partial(function, backend=backend))
        AttentionMaskInterface.register(name, ALL_MASK_ATTENTION_FUNCTIONS[backend])
    return name


def attention_family(module: nn.Module) -> str:
    """Return the module of the model family that an attention class comes from, where its eager attention stands.

    Raises ValueError if it comes from none.
    """
    for base in type(module).__mro__:
        if hasattr(sys.modules[base.__module__], "eager_attention_forward"):
            return base.__module__
    raise refusal(module)


def refusal(module: nn.Module) -> ValueError:
    """Return the error of an attention, or of a layer without one, that cannot be enlarged."""
    return ValueError(
        f"Phantom cannot enlarge {type(module).__name__}: expected a layer whose self_attn goes through transformers' "
        "AttentionInterface, once, and has a head_dim; name layers of such attention, PhantomConfig(layers=(...)), "
        "graft another decoder, such as Llama or Qwen, or leave Phantom out"
    )
