"""What a request wants of its answer, and the choice of the next token of each row.

B rows, V vocabulary.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessorList, NoRepeatNGramLogitsProcessor, RepetitionPenaltyLogitsProcessor

NOT_FOLLOWED = (  # of a model's generation config, though they change answers without chance too
    "num_beams",
    "bad_words_ids",
    "suppress_tokens",
    "begin_suppress_tokens",
    "sequence_bias",
    "min_length",
    "min_new_tokens",
    "guidance_scale",
    "encoder_repetition_penalty",
    "exponential_decay_length_penalty",
)


@dataclasses.dataclass(frozen=True)
class Sampling:
    """How an answer is chosen.

    temperature    0, and what float32 cannot tell from it: always the most likely token
    top_p          only the most likely tokens that together reach this probability
    seed           the same seed gives the same answer, alone and in company; None: a different one each time
    stop           strings that end the answer, which does not hold them
    num_choices    answers to the same prompt
    top_logprobs   so many alternatives are told for each token; 0: its own log probability; None: nothing
    """

    max_new_tokens: int = 64
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    num_choices: int = 1
    top_logprobs: int | None = None

    @property
    def is_greedy(self) -> bool:
        """Whether nothing is left to chance."""
        return self.temperature < torch.finfo(torch.float32).tiny  # divided by 0, the largest logit would be NaN

    def generator(self, choice: int) -> torch.Generator | None:
        """Return the source of chance of one choice: on the CPU, so that a seed means the same on every device."""
        if self.is_greedy:
            return None
        generator = torch.Generator()
        if self.seed is None:
            generator.seed()
        else:
            # neighbouring seeds and choices must not share their stream: a stride that no seed is likely to hit
            generator.manual_seed((self.seed + choice * 0x9E3779B97F4A7C15) % 2**64)
        return generator


@dataclasses.dataclass(frozen=True)
class TokenLogprob:
    """A token, its log probability at temperature 1, and the most likely tokens with theirs."""

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


def penalties(config: Any) -> LogitsProcessorList:
    """Return what a model's generation config does to logits before a token is chosen, in the order of `generate`."""
    found = LogitsProcessorList()
    if config.repetition_penalty not in (None, 1.0):
        found.append(RepetitionPenaltyLogitsProcessor(config.repetition_penalty))
    if config.no_repeat_ngram_size:
        found.append(NoRepeatNGramLogitsProcessor(config.no_repeat_ngram_size))
    return found


def not_followed(config: Any) -> list[str]:
    """Return the names of NOT_FOLLOWED that a model's generation config sets."""
    return [name for name in NOT_FOLLOWED if getattr(config, name, None) not in (None, 0, 1, [])]


def choose_tokens(
    logits: Tensor, samplings: Sequence[Sampling], generators: Sequence[torch.Generator | None]
) -> list[int]:
    """logits [B, V] → the next token of each row; each row draws from its own generator."""
    tokens = logits.argmax(dim=-1)
    drawn = [row for row, sampling in enumerate(samplings) if not sampling.is_greedy]
    if drawn:
        here = torch.tensor(drawn, device=logits.device)
        temperatures = logits.new_tensor([samplings[row].temperature for row in drawn])
        top_ps = logits.new_tensor([samplings[row].top_p for row in drawn])
        draws = torch.cat([torch.rand(1, generator=generators[row], dtype=torch.float64) for row in drawn])
        tokens[here] = _draw(logits[here], temperatures[:, None], top_ps[:, None], draws.to(logits)[:, None])
    return tokens.tolist()


def _draw(logits: Tensor, temperatures: Tensor, top_ps: Tensor, draws: Tensor) -> Tensor:
    """logits [B, V]; temperatures, top_ps and draws, uniform in [0, 1), [B, 1] → tokens [B]."""
    largest = logits.max(dim=-1, keepdim=True).values  # subtracted first: a tiny temperature must not overflow
    probabilities = ((logits - largest) / temperatures).softmax(dim=-1)
    sorted_probabilities, order = probabilities.sort(dim=-1, descending=True, stable=True)
    before = sorted_probabilities.cumsum(dim=-1) - sorted_probabilities
    kept = sorted_probabilities * ((before < top_ps) | (top_ps >= 1))
    kept[:, 0] = sorted_probabilities[:, 0]  # the most likely token always stays
    reached = kept.cumsum(dim=-1)
    place = torch.searchsorted(reached, draws * reached[:, -1:], right=True)
    last = (kept > 0).sum(dim=-1, keepdim=True) - 1
    return order.gather(1, torch.minimum(place, last))[:, 0]


def token_logprobs(logits: Tensor, tokens: Sequence[int], samplings: Sequence[Sampling]) -> list[TokenLogprob | None]:
    """Return what each row that asked for it is told of its chosen token; logits [B, V]."""
    told: list[TokenLogprob | None] = [None] * len(tokens)
    for row, sampling in enumerate(samplings):
        if sampling.top_logprobs is not None:
            logprobs = logits[row].log_softmax(dim=-1)
            top = logprobs.topk(min(sampling.top_logprobs, len(logprobs)))
            pairs = tuple(zip(top.indices.tolist(), top.values.tolist(), strict=True))
            told[row] = TokenLogprob(tokens[row], float(logprobs[tokens[row]]), pairs)
    return told
