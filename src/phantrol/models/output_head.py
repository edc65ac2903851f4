"""The output head of any family's causal language model, as a function of hidden states.

B rows, N tokens, M tokens of any rows, D hidden size, V vocabulary.
"""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutputWithPast


@dataclasses.dataclass
class _HiddenAlone(BaseModelOutputWithPast):
    """The output of any family's decoder: what only some have, such as `router_logits`, is None."""

    def __getattr__(self, name: str) -> None:
        if name.startswith("_"):
            raise AttributeError(name)


class _GivenHidden(nn.Module):
    def forward(self, *args: Any, inputs_embeds: Tensor, **kwargs: Any) -> BaseModelOutputWithPast:
        return _HiddenAlone(last_hidden_state=inputs_embeds)

    @property
    def decoder(self) -> nn.Module:  # where OPT and BART look for it
        return self


def output_head(language_model: nn.Module) -> Any:
    """Return hidden states [B, N, D] or [M, D] → logits [..., V], exactly as this family does it, soft caps and
    scalings included.

    A view of the causal language model that shares its parameters, with a decoder that hands its input through: so no
    family's head is written again here.
    """
    view = copy.copy(language_model)
    view._modules = {**language_model._modules, language_model.base_model_prefix: _GivenHidden()}

    def head(hidden: Tensor) -> Tensor:
        rows = hidden if hidden.ndim == 3 else hidden[None]
        logits = type(view).forward(view, inputs_embeds=rows, use_cache=False).logits
        return logits if hidden.ndim == 3 else logits[0]

    return head
