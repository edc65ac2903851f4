"""One token, read alone before a server opens: it gives Phantom its constants, and shows that every pass is reached."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


class Rehearsal:
    """Goes with the forward pass of one token as a keyword, and notes which pass of which attention it came to."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, int]] = []

    def reached(self, attention: nn.Module, pass_index: int) -> None:
        self.seen.append((id(attention), pass_index))


@torch.inference_mode()
def rehearse(decoder: nn.Module, layers: list[nn.Module], first_token: int, device: torch.device) -> None:
    """Run the decoder on its first token alone, which needs no cache.

    Raises ValueError if the family keeps keywords from its attention, so that a second pass would have fallen on the
    slots of the first.
    """
    rehearsal, ids = Rehearsal(), torch.tensor([[first_token]], device=device)
    expected = [
        (id(layer.self_attn), index) for layer in layers for index in range(len(layer.self_attn.attention_passes))
    ]
    options: dict[str, Any] = {"use_cache": False, "return_dict": False, "rehearsal": rehearsal}
    try:
        decoder.forward(input_ids=ids, position_ids=torch.zeros_like(ids), **options)
    except (AssertionError, TypeError) as error:
        raise ValueError(f"{_refusal(decoder)} ({error})") from error
    if rehearsal.seen != expected:
        raise ValueError(_refusal(decoder))


def _refusal(decoder: nn.Module) -> str:
    return (
        f"{type(decoder).__name__} does not hand keywords on to its attention, so vLLM cannot tell its passes apart: "
        "expected a family that does, such as Llama, Qwen2 or Phi-3; `phantrol serve` serves it as it is"
    )
