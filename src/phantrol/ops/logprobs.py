"""Log-probabilities of tokens and of sequences, without ever holding the logits of a whole batch.

M labelled tokens, D hidden size, V vocabulary, S sequences.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint


def token_logprobs(
    hidden: Tensor,
    lm_head: Callable[[Tensor], Tensor],
    targets: Tensor,
    chunk_tokens: int = 1024,
    whole_tokens: int = 1024,
) -> Tensor:
    """Return log softmax(lm_head(hidden))[targets], `[M]`, in float32 or better.

    hidden   [M, D]  hidden states that predict the targets
    lm_head          maps `[m, D]` to logits `[m, V]`; a callable, so that a backbone's own head keeps its bias,
                     its soft cap and its scaling
    targets  [M]     token ids

    With more than `whole_tokens` tokens at most `chunk_tokens` rows of logits exist at a time, in the backward pass
    too, where a chunk is computed again from its hidden states: a third more work of the head. Gradients are exact.
    Raises ValueError if there are not as many hidden states as targets.
    """
    if hidden.shape[0] != targets.shape[0]:
        raise ValueError(
            f"got {hidden.shape[0]} hidden states and {targets.shape[0]} targets, expected as many of each"
        )
    if hidden.shape[0] <= whole_tokens:
        return _chunk_logprobs(hidden, lm_head, targets)
    chunks = [
        checkpoint(_chunk_logprobs, states, lm_head, ids, use_reentrant=False)
        for states, ids in zip(hidden.split(chunk_tokens), targets.split(chunk_tokens), strict=True)
    ]
    return torch.cat(chunks)


def chunk_rows(vocab_size: int) -> int:
    """Return how many rows of logits take at most 64 MiB in float32, up to 1024."""
    return max(1, min(1024, 2**24 // vocab_size))


def sequence_sums(token_values: Tensor, sequence_ids: Tensor, num_sequences: int) -> Tensor:
    """Return the sum of the values of each sequence, `[S]`; 0 for a sequence without tokens.

    token_values  [M]  one value a token, e.g. its log-probability
    sequence_ids  [M]  the sequence (0..S-1) of each token
    """
    return token_values.new_zeros(num_sequences).index_add(0, sequence_ids, token_values)


def sequence_means(token_values: Tensor, sequence_ids: Tensor, num_sequences: int) -> Tensor:
    """Return the mean of the values of each sequence, `[S]`; 0 for one without tokens. Shapes as in `sequence_sums`."""
    lengths = sequence_sums(torch.ones_like(token_values), sequence_ids, num_sequences)
    return sequence_sums(token_values, sequence_ids, num_sequences) / lengths.clamp(min=1)


def _chunk_logprobs(hidden: Tensor, lm_head: Callable[[Tensor], Tensor], targets: Tensor) -> Tensor:
    logits = lm_head(hidden)
    return _LogProbs.apply(logits if logits.dtype == torch.float64 else logits.float(), targets[:, None])


class _LogProbs(torch.autograd.Function):
    """logits [m, V], targets [m, 1] → log softmax(logits)[targets], [m].

    Autograd's own would hold four more tensors of the size of the logits in its backward pass; this holds one.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor) -> Tensor:
        total = logits.logsumexp(-1, keepdim=True)
        ctx.save_for_backward(logits, targets, total)
        return (logits.gather(-1, targets) - total).squeeze(-1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        logits, targets, total = ctx.saved_tensors
        grad = grad[:, None]
        into_logits = (logits - total).exp_().mul_(-grad)
        return into_logits.scatter_add_(-1, targets, grad), None
