"""Where traversal happens: the ratio w of every token in every layer that looks twice.

L layers that traverse, N tokens of the prompt, H x W the grid of one picture's tokens.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor, nn

from phantrol.explain.prompt import PictureTokens, read_prompt
from phantrol.models.conversation import Chat
from phantrol.modifiers.trol import NO_TRAVERSAL, traversing_gates


@dataclasses.dataclass(frozen=True)
class Traversal:
    """What the gates said about one prompt.

    question  the text of its last message
    ratios    [L, N] w: the share of the second pass in a token, 0 to 1. Raw, not stretched. With more than two passes
              it is the share of all later ones
    layers    L indices of decoder layers
    tokens    N texts
    is_image  N flags
    """

    question: str
    ratios: Tensor
    layers: tuple[int, ...]
    tokens: tuple[str, ...]
    is_image: tuple[bool, ...]
    pictures: tuple[PictureTokens, ...]


def stretch_layers(ratios: Tensor) -> Tensor:
    """Return ratios with each layer stretched to 0 ... 1, as the figure released with TroL shows them: [L, N] → [L, N].

    It shows which tokens a layer prefers, and hides how much it traverses at all: w from 0.001 to 0.002 then looks like
    0 to 1. A layer that treats all tokens alike becomes 0.
    """
    low, high = ratios.amin(-1, keepdim=True), ratios.amax(-1, keepdim=True)
    return torch.where(high > low, (ratios - low) / (high - low).clamp(min=torch.finfo(ratios.dtype).tiny), 0.0)


def trace_traversal(model: Any, processor: Any, chat: Chat) -> Traversal:
    """Run the model once over a chat and return what its gates said.

    chat  as for `Engine`; where it ends with a question, the marker that opens the answer is part of the prompt
    Raises ValueError if no layer of the model traverses.
    """
    # with a shared gate the layers hold one module between them, which is called once for each
    gates = traversing_gates(model.get_decoder())
    if not gates:
        raise ValueError(NO_TRAVERSAL)
    prompt = read_prompt(model, processor, chat)
    said: list[Tensor] = []
    prompt.run(model, [(gate, _collect_in(said)) for gate in dict.fromkeys(gates.values())])
    return Traversal(
        question=prompt.question,
        ratios=torch.stack(said).view(len(gates), -1, len(prompt.tokens))[:, 0].clone(),
        layers=tuple(gates),
        tokens=prompt.tokens,
        is_image=prompt.is_image,
        pictures=prompt.pictures,
    )


def _collect_in(said: list[Tensor]) -> Any:
    def collect(gate: nn.Module, args: Any, ratio: Tensor) -> None:
        said.append(ratio[0, :, 0].float().cpu())

    return collect
