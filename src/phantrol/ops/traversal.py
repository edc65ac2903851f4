"""Layer traversal: run a decoder layer again on its own output and mix the results (TroL, arXiv:2406.12246).

B batch, N tokens, D hidden size.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from phantrol.ops.autocast import without_autocast


def traversal_ratio(first: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Return w = (tanh(first·weightᵀ + bias) + 1) / 2, how much of the next pass a token takes.  [TroL, section 3]

    first   [B, N, D]  output of the pass before
    weight  [1, D]     bias  [1]
    →       [B, N, 1]  w in (0, 1), in float32 or better

    The paper does not name the squashing function: this is the released one, which is σ(2z). It is written as it was
    released, since a sigmoid rounds elsewhere, and large hidden states carry that further than 2e-5.
    Differs: the released code computes this in float16; a ratio close to 0 or 1 deserves float32, under autocast too:
    in bfloat16, tanh of a gate's first bias is -1 exactly, and a gate of 0 has no gradient to open it.
    """
    dtype = torch.promote_types(first.dtype, torch.float32)
    with without_autocast(first):
        return 0.5 * torch.tanh(F.linear(first.to(dtype), weight.to(dtype), bias.to(dtype))) + 0.5


def mix_passes(first: Tensor, second: Tensor, ratio: Tensor) -> Tensor:
    """Return (1 - w)·first + w·second, in the dtype of `first`.                             [TroL, section 3]

    first, second  [B, N, D]  outputs of the first and of the second pass
    ratio          [B, N, 1]  w in (0, 1), one scalar per token
    """
    return ((1 - ratio) * first + ratio * second).to(first.dtype)
