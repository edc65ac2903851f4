"""A row of several sequences one after another, none of which sees another: what is worked out block by block.

A block is as long as its tokens; where blocks end is known to Python, so that nothing waits for a device.

N tokens of the one row, n tokens of a block.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Blocks = Sequence[tuple[int, Tensor | None]]
"""For each block, in order: the token after its last one, and who sees whom in it: [1, 1, n, n], added to attention
scores, or None where each token sees itself and all before it."""


def split_blocks(x: Tensor, blocks: Blocks) -> tuple[Tensor, ...]:
    """Return x [1, ., N, ...] block by block.

    Raises ValueError if x is not one row, or the blocks do not end where it does.
    """
    ends = [end for end, _ in blocks]
    if x.shape[0] != 1 or ends[-1] != x.shape[2]:
        raise ValueError(
            f"blocks end at {ends[-1]} and the batch has {x.shape[0]} rows of {x.shape[2]} tokens: expected one row "
            "that ends with the last block"
        )
    return x.split([end - start for start, end in zip([0, *ends], ends, strict=False)], 2)


def blocks_of_positions(position_ids: Tensor, num_rows: int) -> Blocks | None:
    """Return the blocks of one row in which positions tell where a sequence begins, or None if each row holds one.

    position_ids  [1, N] or [B, N]: a token whose position is not the one after the last one's begins a sequence, as
                  transformers reads them where it gets neither a mask nor a cache;  num_rows  B
    Raises ValueError if several rows hold several sequences. In a graph that is being compiled each row holds one: as
    for transformers, which cannot ask there either.
    """
    if position_ids.ndim != 2 or position_ids.shape[1] < 2 or torch.compiler.is_compiling():
        return None
    begins = (position_ids.diff(dim=-1) != 1).any(dim=0).nonzero().flatten().tolist()
    if not begins:
        return None
    if num_rows > 1:
        raise ValueError(
            f"got position_ids of several sequences to a row in a batch of {num_rows} rows: expected one row that "
            "holds them all, or an attention_mask and one sequence to a row"
        )
    return [(end, None) for end in (*(last + 1 for last in begins), position_ids.shape[1])]


def additive(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """Return 0 where the bool mask [...] is True and the most negative number of `dtype` elsewhere: [...]."""
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill(~mask, torch.finfo(dtype).min)


def causal_mask(num_tokens: int, window_tokens: int | None, like: Tensor) -> Tensor:
    """Return who sees whom, [1, 1, n, n], to be added to scores: itself and the tokens before it, or so many of them.

    window_tokens  how many tokens are seen, itself included; None for all
    """
    place = torch.arange(num_tokens, device=like.device)
    seen = place <= place[:, None]
    if window_tokens is not None:
        seen &= place > place[:, None] - window_tokens
    return additive(seen[None, None], like.dtype)


def over_blocks(work: Callable[..., Tensor], blocks: Blocks, *tensors: Tensor) -> Tensor:
    """Return [1, N, ...]: what `work(mask, *parts)`, [1, n, ...], gives for each block of tensors [1, ., N, .]."""
    parts = zip(*(split_blocks(tensor, blocks) for tensor in tensors), strict=True)
    return torch.cat([work(mask, *part) for (_, mask), part in zip(blocks, parts, strict=True)], dim=1)
