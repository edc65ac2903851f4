"""Supervised fine-tuning: the mean cross entropy of the tokens that the model must say.

M labelled tokens, T answer tokens of a step.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from phantrol.losses.base import Batch, Loss, LossOutput, supervised, token_logprobs


@dataclass(frozen=True)
class Sft(Loss):
    """L_SFT = -(1/T) Σ log π(token), over the T answer tokens of a step; rejected answers are not looked at."""

    def __call__(self, model: nn.Module, batch: Batch, totals: dict[str, int]) -> LossOutput:
        return LossOutput(sft_loss(token_logprobs(model, batch), batch, totals))


def sft_loss(logprobs: Tensor, batch: Batch, totals: dict[str, int]) -> Tensor:
    """Return this batch's share of L_SFT.

    logprobs  [M]  log p of each labelled token
    """
    return -logprobs[supervised(batch)].sum() / max(totals["tokens"], 1)


LOSS = Sft
