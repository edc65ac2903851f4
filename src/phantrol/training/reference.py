"""The reference model of losses such as DPO: the model as it was when the stage began.

M labelled tokens.
"""

from __future__ import annotations

import copy
import re

import torch
from torch import Tensor, nn

from phantrol.losses.base import Batch, token_logprobs
from phantrol.training.weights import is_peft

_PEFTS = re.compile(r"\.lora_\w+\.default(\.|$)")  # with an adapter's name, unlike what a partial LoRA has


class Reference:
    """Gives log-probabilities under the model as it is now, however it is trained from here on.

    With PEFT nothing is copied where the adapters are new (they add nothing yet) and nothing but them is trained:
    switching them off brings the start of the stage back. Otherwise a frozen copy is kept.
    """

    def __init__(self, model: nn.Module):
        self.copy = None if _adapters_are_new(model) else copy.deepcopy(model).eval().requires_grad_(False)

    @torch.no_grad()
    def __call__(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the log-probability of each labelled token, [M]. `model` is left in training mode."""
        if self.copy is not None:
            return token_logprobs(self.copy, batch)
        model.eval()
        with getattr(model, "module", model).disable_adapter():  # a distributed wrapper has no adapters to switch off
            logprobs = token_logprobs(model, batch)
        model.train()
        return logprobs


def _adapters_are_new(model: nn.Module) -> bool:
    if not is_peft(model):
        return False
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    outputs = [parameter for name, parameter in model.named_parameters() if "lora_B.default." in name]
    return all(map(_PEFTS.search, trained)) and bool(outputs) and not any(p.any() for p in outputs)
