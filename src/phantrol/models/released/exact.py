"""A decoder in float64 through and through: transformers takes norms and rotary angles in float32, whatever a model
computes in, and a hidden state of 40 carries such a rounding on beyond what `verify` lets pass.

B rows, N tokens, D hidden size, d head size.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn


def compute_exactly(decoder: nn.Module) -> None:
    """Give the norms and the rotary angles of a Llama, Phi-3 or Qwen2 in float64 all its digits, in place."""
    for module in decoder.modules():
        if type(module).__name__.endswith("RMSNorm"):
            module.forward = partial(_normalise, module)
    decoder.rotary_emb.forward = partial(_rotate, decoder.rotary_emb, decoder.rotary_emb.forward)


def _normalise(norm: Any, x: Tensor) -> Tensor:
    """x [B, N, D] → [B, N, D]"""
    return norm.weight * (x * torch.rsqrt(x.pow(2).mean(dim=-1, keepdim=True) + norm.variance_epsilon))


def _rotate(
    rotary: Any, forward: Callable[..., Any], x: Tensor, position_ids: Tensor, **kwargs: Any
) -> tuple[Tensor, Tensor]:
    """Cosines and sines [B, N, d] at position_ids [B, N], of the frequencies that the module itself comes to."""
    forward(x, position_ids, **kwargs)  # frequencies that depend on the length are set by it
    angles = position_ids[..., None].to(x.dtype) * rotary.inv_freq.to(x.dtype)
    angles = torch.cat([angles, angles], dim=-1)
    return angles.cos() * rotary.attention_scaling, angles.sin() * rotary.attention_scaling
