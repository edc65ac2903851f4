"""The phantom dimension: each head of a token looks at the heads of the anchor (Phantom, arXiv:2409.14713).

B batch, N tokens, d head size, H heads of the states at hand (query heads, or key/value heads before they are
repeated), A heads of the anchor. The anchor is the first real token of a row, the paper's <sos>.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from phantrol.ops.autocast import without_autocast


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
    # token by token, as projections lay them out: no copy
    queries = _gelu(F.linear(states.transpose(1, 2), query_weight)).reshape(batch, tokens * heads, size)
    wide = torch.promote_types(states.dtype, torch.float32)  # a product of large states overflows float16
    # the few heads of the anchor first: a softmax over a short last axis is several times slower on a CPU
    with without_autocast(states):
        scores = torch.matmul(keys.to(wide) * size**-0.5, queries.to(wide).mT)  # [B, A, N·H]
    if visible is not None:
        hidden = ~visible.mT[..., None].expand(-1, -1, -1, heads)
        scores = scores.masked_fill(hidden.reshape(scores.shape), -torch.inf)
    shares = torch.softmax(scores, dim=1).to(states.dtype)
    return _gelu(torch.matmul(shares.mT, values)).reshape(batch, tokens, heads, size).transpose(1, 2)


def attend_kinds_at_once(states: Tensor, keys: Tensor, values: Tensor, query_weights: Tensor, own: Tensor) -> Tensor:
    """`attend_anchor_heads` of one token's values, keys and queries together, in as few operations as of one of them.

    states         [B, S, ..., d]  of S kinds, each with as many heads, h: those of keys and values are repeated
    keys, values   [B, A, d]       of the anchor's heads of all kinds
    query_weights  [S, d, d]
    own            [A, S·h]        0 where a head of the anchor and one of the token are of a kind, -∞ elsewhere
    →              [B, S, ..., d]
    """
    batch, kinds, size = *states.shape[:2], states.shape[-1]
    rows = states.transpose(0, 1).reshape(kinds, -1, size)
    queries = _gelu_of_few(torch.bmm(rows, query_weights.mT)).to(own.dtype)
    queries = queries.view(kinds, batch, -1, size).transpose(0, 1).reshape(batch, -1, size)
    with without_autocast(states):
        scores = torch.baddbmm(own, keys.to(own.dtype), queries.mT, alpha=size**-0.5)  # [B, A, S·h]
    shares = torch.softmax(scores, dim=1).to(states.dtype)
    return _gelu_of_few(torch.bmm(shares.mT, values)).view(states.shape)


def attend_anchors_of_blocks(
    states: Tensor, keys: Tensor, values: Tensor, query_weight: Tensor, num_tokens: Sequence[int]
) -> Tensor:
    """`attend_anchor_heads` in a row of several sequences, each of which looks at an anchor of its own.

    states        [1, H, N, d]
    keys, values  [S, A, d]     from `anchor_memory`, of S sequences one after another
    num_tokens    S numbers, which add up to N
    →             [1, H, N, d]

    Only the two products differ from sequence to sequence; all else is done once for the row.
    """
    _, heads, tokens, size = states.shape
    queries = _gelu(F.linear(states.transpose(1, 2).reshape(tokens * heads, size), query_weight))
    wide, rows = torch.promote_types(states.dtype, torch.float32), [heads * count for count in num_tokens]
    parts = zip(keys.to(wide) * size**-0.5, queries.to(wide).split(rows), strict=True)
    with without_autocast(states):
        scores = torch.cat([anchor @ part.T for anchor, part in parts], dim=1)  # [A, N·H]
    shares = torch.softmax(scores, dim=0).to(states.dtype)
    said = torch.cat([part.T @ value for part, value in zip(shares.split(rows, dim=1), values, strict=True)])
    return _gelu(said).reshape(1, tokens, heads, size).transpose(1, 2)


def scale_term(term: Tensor, eta: float | Tensor) -> Tensor:
    """Return η·term, [..., d] → [..., d]; `term` itself where η is the number 1, as it is by default."""
    return term if isinstance(eta, float) and eta == 1 else eta * term


def merge_halves(first: Tensor, term: Tensor, score: Tensor) -> Tensor:
    """Return w·h1 + (1 - w)·h2 = h1 + (1 - w)·term, with w = σ(g1(h1) - g2(h2)).              [Phantom, eq. 3]

    first, term  [..., d]  h1 = P·V and η·P·y_V, so that h2 = h1 + term
    score        [..., 1]  g2(h2) - g1(h1), one for each token and head
    →            [..., d]

    Differs: the released code divides exponentials, which overflow; the sigmoid is the same function and does not.
    """
    return torch.addcmul(first, torch.sigmoid(score), term)


def join_gates(
    first_weight: Tensor, first_bias: Tensor, second_weight: Tensor, second_bias: Tensor
) -> tuple[Tensor, Tensor]:
    """Return weight [1, 2d] and bias [1] of g2(h1 + term) - g1(h1) as one product with [h1 | term]; weights [1, d]."""
    return torch.cat([second_weight - first_weight, second_weight], dim=-1), second_bias - first_bias


def _gelu(fresh: Tensor) -> Tensor:
    """gelu of a tensor nobody else holds: in place where no gradient is wanted, which saves a third of its time."""
    return F.gelu(fresh) if torch.is_grad_enabled() else torch.ops.aten.gelu_(fresh)


def _gelu_of_few(rows: Tensor) -> Tensor:
    """gelu of one token of each row, [S, M, d]. Of rows in order torch asks oneDNN, which takes twice as long to begin;
    of transposed ones it does not. Many rows gain more from being done in place."""
    return F.gelu(rows.mT).mT
