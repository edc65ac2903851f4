"""Direct preference optimisation: prefer the right answer by more than a frozen reference model does.

P preference pairs, S sequences, M labelled tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from torch import nn

from phantrol.losses.base import Batch, Loss, LossOutput, token_logprobs
from phantrol.losses.phantom_optimization import reward_metrics
from phantrol.ops.logprobs import sequence_sums


@dataclass(frozen=True)
class Dpo(Loss):
    """-E log σ(β · (log π(y+|x)/π_ref(y+|x) - log π(y-|x)/π_ref(y-|x)))               [DPO, eq. 7]

    beta  β, how strongly the model is held to the reference

    The reference is the model as it was when the stage began; the trainer puts its token log-probabilities into the
    batch as `reference_logprobs` [M]. Raises ValueError on a step without pairs: there is nothing to learn from it.
    """

    needs_pairs: ClassVar[bool] = True
    needs_reference: ClassVar[bool] = True

    beta: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.beta <= 0:  # below 0 the rejected answer would be preferred
            raise ValueError(f"Dpo.beta is {self.beta!r}: expected a number above 0, such as 0.1")

    def __call__(self, model: nn.Module, batch: Batch, totals: dict[str, int]) -> LossOutput:
        if not totals["pairs"]:
            raise ValueError(
                f"got no preference pair in a step, expected at least one for dpo; give the examples rejected answers "
                f"or train on them with sft: {', '.join(batch['example_ids'])}"
            )
        gains = token_logprobs(model, batch) - batch["reference_logprobs"]
        rewards = self.beta * sequence_sums(gains, batch["sequence_ids"], batch["num_sequences"])
        margins = rewards[batch["chosen"]] - rewards[batch["rejected"]]
        loss = -F.logsigmoid(margins).sum() / totals["pairs"]
        return LossOutput(loss, reward_metrics(margins.detach(), batch["rejected_kind"]))


LOSS = Dpo
