"""Phantom Optimization: imitate the right answer and prefer it to an incorrect or ambiguous one, without a reference.

P preference pairs, S sequences, M labelled tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from phantrol.losses.base import Batch, Loss, LossOutput, token_logprobs
from phantrol.losses.sft import sft_loss
from phantrol.ops.logprobs import sequence_means


@dataclass(frozen=True)
class PhantomOptimization(Loss):
    """L_SFT - E log σ(β/|y+| · log π(y+|x) - β/|y-| · log π(y-|x) - γ)                [Phantom, eq. 4]

    beta   β, sharpness of the preference
    gamma  γ, the margin by which y+ should win

    Differs: the paper does not say how L_SFT is normalised; here it is the mean over the answer tokens of a step, and
    it also covers examples that have no rejected answer. A step without any pair is L_SFT alone.
    """

    needs_pairs: ClassVar[bool] = True

    beta: float = 2.0
    gamma: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.beta <= 0:  # below 0 the rejected answer would be preferred
            raise ValueError(f"PhantomOptimization.beta is {self.beta!r}: expected a number above 0, such as 2.0")

    def __call__(self, model: nn.Module, batch: Batch, totals: dict[str, int]) -> LossOutput:
        logprobs = token_logprobs(model, batch)
        rewards = self.beta * sequence_means(logprobs, batch["sequence_ids"], batch["num_sequences"])
        margins = rewards[batch["chosen"]] - rewards[batch["rejected"]]
        sft = sft_loss(logprobs, batch, totals)
        preference = -F.logsigmoid(margins - self.gamma).sum() / max(totals["pairs"], 1)
        return LossOutput(sft + preference, reward_metrics(margins.detach(), batch["rejected_kind"]))


def reward_metrics(margins: Tensor, rejected_kind: Tensor) -> dict[str, float | Tensor]:
    """Return how often and by how much the chosen answer wins, overall and for each kind of rejected answer.

    margins        [P]  reward of the chosen minus reward of the rejected answer
    rejected_kind  [P]  0 incorrect, 1 ambiguous: a hedge is recognisable without looking, so the two are kept apart
    """
    wins = (margins > 0).to(margins.dtype)
    return {
        "reward_accuracy": wins,
        "reward_accuracy_incorrect": wins[rejected_kind == 0],
        "reward_accuracy_ambiguous": wins[rejected_kind == 1],
        "reward_margin": margins,
    }


LOSS = PhantomOptimization
