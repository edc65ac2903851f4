"""Muon in float32 is torch's Muon but for its rounding, and stands in for it where bfloat16 has no arithmetic."""

from __future__ import annotations

from types import MappingProxyType

import pytest
import torch
from torch import nn
from torch.optim import Muon

from phantrol.training.muon import Float32Muon, build_muon, orthogonalise

SHAPES = (12, 8), (8, 12), (8, 8)
SETTINGS = {"lr": 0.03, "weight_decay": 0.1}


def walk(kind: type[Muon], steps: int = 4, load: dict | None = None, first: int = 0, **settings):
    """Return the matrices after some steps along the same gradients, and the optimiser."""
    torch.manual_seed(0)
    matrices = [nn.Parameter(torch.randn(shape)) for shape in SHAPES] if load is None else load["matrices"]
    optimiser = kind(matrices, **SETTINGS | settings)
    if load is not None:
        optimiser.load_state_dict(load["optimiser"])
    for step in range(first, first + steps):
        torch.manual_seed(step + 1)
        for matrix in matrices:
            matrix.grad = torch.randn(matrix.shape) * 10
        optimiser.step()
    return matrices, optimiser


def furthest(ours, theirs) -> float:
    return max((one - other).abs().max().item() for one, other in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("settings", [{}, {"nesterov": False}, {"momentum": 0.5, "ns_steps": 3}])
def test_it_is_torchs_but_for_bfloat16(settings, monkeypatch):
    ours, rounded = walk(Float32Muon, **settings)[0], walk(Muon, **settings)[0]
    monkeypatch.setattr(torch.Tensor, "bfloat16", lambda self: self.float().clone())
    assert furthest(ours, walk(Muon, **settings)[0]) < 1e-6
    assert 1e-5 < furthest(ours, rounded) < 1e-2, "of 4 steps of .03 what bfloat16 rounds, and not nothing"


def test_a_run_goes_on_from_one_to_the_other(monkeypatch):
    monkeypatch.setattr(torch.Tensor, "bfloat16", lambda self: self.float().clone())
    whole = walk(Muon, 4)[0]
    matrices, optimiser = walk(Muon, 2)
    moved = walk(Float32Muon, 2, {"matrices": matrices, "optimiser": optimiser.state_dict()}, first=2)[0]
    assert furthest(whole, moved) < 1e-6


@pytest.mark.parametrize("shape", SHAPES)
def test_what_is_orthogonalised_keeps_its_singular_vectors(shape):
    torch.manual_seed(0)
    left, values, right = torch.linalg.svd(torch.randn(shape) * 100, full_matrices=False)
    found = orthogonalise((left * values) @ right, (3.4445, -4.7750, 2.0315), 5, 1e-7)
    inside = left.T @ found @ right.T
    assert ((inside.diagonal() > 0.5) & (inside.diagonal() < 1.5)).all()
    assert (inside - torch.diag(inside.diagonal())).abs().max() < 1e-3


def test_a_gradient_that_is_missing_or_zero_is_no_harm():
    still, zero = nn.Parameter(torch.ones(2, 3)), nn.Parameter(torch.ones(2, 3))
    zero.grad = torch.zeros(2, 3)
    Float32Muon([still, zero], lr=0.1, weight_decay=0.5).step()
    assert torch.equal(still, torch.ones(2, 3)) and torch.allclose(zero, torch.full((2, 3), 0.95))


@pytest.mark.parametrize("multiplied", [True, False])
def test_the_processor_decides(multiplied, monkeypatch):
    capabilities = MappingProxyType({"avx512_bf16": multiplied})
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    assert type(build_muon([nn.Parameter(torch.ones(2, 2))], 0.1, 0.0)) is (Muon if multiplied else Float32Muon)
