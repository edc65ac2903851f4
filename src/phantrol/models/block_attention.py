"""Attention over a row of several sequences: each block attends to itself alone, with whatever backend is chosen.

Nothing of size [N, N] is made: the work is the sum over the blocks, n² each, and a row has no padding at all.

B batch, N tokens of the row, n tokens of a block, H query heads, K key/value heads, d head size.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS

from phantrol.modifiers.phantom_attention import BLOCKS, PREFIX, backend_function, put_around
from phantrol.ops.blocks import Blocks, causal_mask, over_blocks

_ATTENDING = {"full_attention", "sliding_attention"}


def block_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    backend: str,
    blocks: Blocks | None = None,
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:
    """query [1, H, N, d], key and value [1, K, N, d] → [1, N, H, d]; without `blocks`, the backend itself."""
    base = backend_function(module, backend)
    if blocks is None:
        return base(module, query, key, value, attention_mask, **kwargs)
    window = kwargs.get("sliding_window")

    def attend(mask: Tensor | None, *states: Tensor) -> Tensor:
        num_tokens = states[0].shape[2]
        narrow = window if window is not None and window < num_tokens else None
        if mask is None and "flash" not in backend and (narrow or backend != "sdpa"):
            mask = causal_mask(num_tokens, narrow, states[0])  # sdpa alone is causal by itself where it gets no mask
        return base(module, *states, mask, **kwargs)[0]

    return over_blocks(attend, blocks, query, key, value), None


def use_block_attention(decoder: nn.Module) -> None:
    """Wrap whichever attention function the decoder is set to; it stays the same for batches without blocks.

    Raises ValueError for a decoder in which a sequence could look into the one before it.
    """
    config = decoder.config
    own = config._attn_implementation or "eager"
    backend = own.removeprefix(PREFIX)
    if backend.startswith(BLOCKS):
        return
    others = sorted(set(getattr(config, "layer_types", None) or ()) - _ATTENDING)
    if others or not getattr(decoder, "_supports_attention_backend", False):
        what = f"layers of {', '.join(others)}" if others else "an attention of its own"
        raise ValueError(
            f"{type(decoder).__name__} has {what}: a row of several sequences needs attention alone, through "
            "transformers' AttentionInterface; train with padding_free=False"
        )
    if "flex" in backend:
        raise ValueError(f"got {backend} for a row of several sequences, expected sdpa, eager or flash attention")
    # a grafted decoder puts its own around it before it runs
    config._attn_implementation = put_around(BLOCKS, block_attention, backend)


for _backend in ("eager", "sdpa", "flash_attention_2", "flash_attention_3", "flash_attention_4"):
    if _backend in ALL_MASK_ATTENTION_FUNCTIONS:  # of those that transformers knows: a pickled model may name it here
        put_around(BLOCKS, block_attention, _backend)


def no_mask(like: Tensor) -> Tensor:
    """Return a mask that adds nothing, [1, 1, 1, 1]: transformers then makes none of its own, which would be [N, N]."""
    return torch.zeros(1, 1, 1, 1, dtype=like.dtype, device=like.device)
