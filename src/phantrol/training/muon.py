"""Muon where bfloat16 has no arithmetic: torch's, with its products in float32."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Muon

from phantrol.training.precision import multiplies_bfloat16


def build_muon(matrices: Sequence[nn.Parameter], lr: float, weight_decay: float) -> Muon:
    """Return torch's Muon, or `Float32Muon` on a device without products of bfloat16; their states are alike."""
    kind = Muon if multiplies_bfloat16(matrices[0].device) else Float32Muon
    return kind(matrices, lr=lr, weight_decay=weight_decay)


class Float32Muon(Muon):
    """b ← μ·b + (1 - μ)·g,  W ← (1 - lr·λ)·W - lr·√max(1, R/C)·NS((1 - μ)·g + μ·b)    [Muon, kellerjordan.github.io]

    g  [R, C]  the gradient of a matrix W;  b its momentum, μ and λ momentum and weight decay, NS `orthogonalise`

    Differs: torch iterates in bfloat16 whatever it is given, which took half the time of a step of `primer_tiny` on a
    processor that has no instructions for it.
    """

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = None if closure is None else torch.enable_grad()(closure)()
        for group in self.param_groups:
            for matrix in group["params"]:
                if matrix.grad is not None:
                    self._move(matrix, group)
        return loss

    def _move(self, matrix: nn.Parameter, group: dict[str, Any]) -> None:
        state, share = self.state[matrix], group["momentum"]
        if not state:
            state["momentum_buffer"] = torch.zeros_like(matrix.grad)
        momentum = state["momentum_buffer"].lerp_(matrix.grad, 1 - share)
        update = matrix.grad.lerp(momentum, share) if group["nesterov"] else momentum
        update = orthogonalise(update, group["ns_coefficients"], group["ns_steps"], group["eps"])
        matrix.mul_(1 - group["lr"] * group["weight_decay"])
        matrix.add_(update, alpha=-group["lr"] * math.sqrt(max(1, matrix.shape[0] / matrix.shape[1])))


def orthogonalise(matrix: Tensor, coefficients: tuple[float, float, float], steps: int, eps: float) -> Tensor:
    """Return a matrix with the singular vectors of [R, C] and all singular values near 1, by Newton-Schulz.

    X ← a·X + b·(X·Xᵀ)·X + c·(X·Xᵀ)²·X, so many times, with (a, b, c) the coefficients, from X = matrix / ‖matrix‖
    """
    is_tall = matrix.shape[0] > matrix.shape[1]  # the smaller of both squares costs less
    found = matrix.float().T if is_tall else matrix.float()
    found = found / found.norm().clamp(min=eps)
    a, b, c = coefficients
    for _ in range(steps):
        square = found @ found.T
        found = torch.addmm(found, torch.addmm(square, square, square, beta=b, alpha=c), found, beta=a)
    return found.T if is_tall else found
