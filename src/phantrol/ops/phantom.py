"""The phantom dimension: each head of a token looks at the heads of the anchor (Phantom, arXiv:2409.14713).

B batch, N tokens, d head size, H heads of the states at hand (query heads, or key/value heads before they are
repeated), A heads of the anchor. The anchor is the first real token of a row, the paper's <sos>.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def anchor_memory(
    anchor: Tensor, key_weight: Tensor, value_weight: Tensor, output_weight: Tensor
) -> tuple[Tensor, Tensor]:
    """Return what other tokens need of the anchor: gelu(s·Wkᵀ) and gelu(s·Wvᵀ)·Woᵀ.          [Phantom, eq. 1]

    anchor  [..., A, d]  states of the anchor, one row per head; key_weight, value_weight, output_weight  [d, d]
    →       keys [..., A, d], values [..., A, d]

    Differs: the released code multiplies by Wo what each token has gathered. A sum of products is the product of the
    sum, so here Wo meets the A heads of the anchor once, and not every head of every token.
    """
    values = F.linear(F.gelu(F.linear(anchor, value_weight)), output_weight)
    return F.gelu(F.linear(anchor, key_weight)), values


def attend_anchor_heads(
    states: Tensor, keys: Tensor, values: Tensor, query_weight: Tensor, visible: Tensor | None = None
) -> Tensor:
    """Return y = gelu(Σ_a softmax_a(gelu(Wq x)·k_a / √d) v_a).                                [Phantom, eq. 1]

    states        [B, H, N, d]  queries, keys or values of the tokens, keys after rotation
    keys, values  [B, A, d]     from `anchor_memory`; of several anchors, the heads of all of them
    visible       [B, N, A]     False where a token must not look, and True somewhere for each token; None: everywhere
    →             [B, H, N, d]

    The softmax runs over the anchor's heads, not over tokens: so the released code does, and the paper does not say.
    Differs: works on key/value heads before they are repeated; repeating the anchor's heads repeats equal terms on
    both sides of the softmax's fraction, so the result is the same and the work is H/Hkv times less.
    """
    batch, heads, tokens, size = states.shape
    queries = _gelu(F.linear(states, query_weight)).reshape(batch, heads * tokens, size)
    wide = torch.promote_types(states.dtype, torch.float32)  # a product of large states overflows float16
    # the few heads of the anchor first: a softmax over a short last axis is several times slower on a CPU
    scores = torch.matmul(keys.to(wide) * size**-0.5, queries.to(wide).transpose(1, 2))  # [B, A, H·N]
    if visible is not None:
        hidden = ~visible.transpose(1, 2)[:, :, None].expand(-1, -1, heads, -1)
        scores = scores.masked_fill(hidden.reshape(scores.shape), -torch.inf)
    shares = torch.softmax(scores, dim=1).to(states.dtype)
    return _gelu(torch.matmul(shares.transpose(1, 2), values)).reshape(batch, heads, tokens, size)


def scale_term(term: Tensor, eta: float | Tensor) -> Tensor:
    """Return η·term; `term` itself where η is the number 1, as it is by default."""
    return term if isinstance(eta, float) and eta == 1 else eta * term


def merge_halves(first: Tensor, term: Tensor, first_score: Tensor, second_score: Tensor) -> Tensor:
    """Return w·h1 + (1 - w)·h2 = h1 + (1 - w)·term, with w = σ(g1(h1) - g2(h2)).              [Phantom, eq. 3]

    first, term                [..., d]  h1 = P·V and η·P·y_V, so that h2 = h1 + term
    first_score, second_score  [..., 1]  g1(h1) and g2(h2), one score per token and head
    →                          [..., d]

    Differs: the released code divides exponentials, which overflow; the sigmoid is the same function and does not.
    """
    return torch.addcmul(first, torch.sigmoid(second_score - first_score), term)


def _gelu(fresh: Tensor) -> Tensor:
    """gelu of a tensor nobody else holds: in place where no gradient is wanted, which saves a third of its time."""
    return F.gelu(fresh) if torch.is_grad_enabled() else torch.ops.aten.gelu_(fresh)
