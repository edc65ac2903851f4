"""What a stage computes in: what its recipe says, or what the device has arithmetic for."""

from __future__ import annotations

from typing import Literal

import torch

Precision = Literal["auto", "float32", "bfloat16"]


def multiplies_bfloat16(device: torch.device) -> bool:
    """Return whether a device has instructions for products of bfloat16.

    A processor without them does without: a step of the tiny recipe's alignment takes ten times as long as in float32,
    a square product fifty times. Only x86 was measured, so only its instructions count (AVX512-BF16, AMX).
    """
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    # younger than the oldest torch that will do; without it float32, which is right everywhere
    capabilities = getattr(torch.cpu, "get_capabilities", dict)() if device.type == "cpu" else {}
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def computing_dtype(precision: Precision, device: torch.device) -> torch.dtype:
    """Return what a stage computes in on a device: of "auto" bfloat16 where that is multiplied, float32 elsewhere."""
    if precision == "auto":
        return torch.bfloat16 if multiplies_bfloat16(device) else torch.float32
    return getattr(torch, precision)


def remark_on(precision: Precision, device: torch.device) -> str | None:
    """Return what a user should know of a stage's precision on this device; None: nothing."""
    if precision == "float32" or multiplies_bfloat16(device):
        return None
    if precision == "auto":
        return f"computes in float32: this {device.type} has no instructions for products of bfloat16"
    return (
        f"computes in bfloat16, which this {device.type} has no instructions for: float32 is some ten times faster "
        "here, precision=float32 or auto"
    )
