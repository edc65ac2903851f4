"""Log-probabilities of tokens and of sequences, without ever holding the logits of a whole batch.

M labelled tokens, D hidden size, V vocabulary, S sequences.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint


def token_logprobs(
    hidden: Tensor, lm_head: Callable[[Tensor], Tensor], targets: Tensor, chunk_tokens: int = 1024
) -> Tensor:
    """Return log softmax(lm_head(hidden))[targets], `[M]`, in float32 or better.

    hidden   [M, D]  hidden states that predict the targets
    lm_head          maps `[m, D]` to logits `[m, V]`; a callable, so that a backbone's own head keeps its bias,
                     its soft cap and its scaling
    targets  [M]     token ids

    At most `chunk_tokens` rows of logits exist at a time, in the backward pass too, where a chunk is computed
    again from its hidden states. Gradients are exact.
    """
    if hidden.shape[0] != targets.shape[0]:
        raise ValueError(
            f"got {hidden.shape[0]} hidden states and {targets.shape[0]} targets, expected as many of each"
        )
    if hidden.shape[0] <= chunk_tokens:
        return _chunk_logprobs(hidden, lm_head, targets)
    chunks = [
        checkpoint(_chunk_logprobs, states, lm_head, ids, use_reentrant=False)
        for states, ids in zip(hidden.split(chunk_tokens), targets.split(chunk_tokens), strict=True)
    ]
    return torch.cat(chunks)


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
    logits = logits if logits.dtype == torch.float64 else logits.float()
    return logits.gather(-1, targets[:, None]).squeeze(-1) - logits.logsumexp(-1)
