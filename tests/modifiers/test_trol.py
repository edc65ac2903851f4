"""Traversal on a layer so simple that its passes can be worked out by hand: L(x) = 2x."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from phantrol.modifiers.base import mix_in
from phantrol.modifiers.graft import GraftedLayer
from phantrol.modifiers.sequence import SequenceStep
from phantrol.modifiers.trol import IDENTITY_BIAS, TraversalGate, Traversed

LN3 = math.log(3)  # σ(2·ln(3)/2) = 3/4 and σ(2·ln 3) = 9/10


class Doubling(nn.Module):
    """Returns 2x, or (2x, what it was told), as layers of some families do."""

    def __init__(self, with_extra: bool = False):
        super().__init__()
        self.with_extra, self.seen = with_extra, []

    def forward(self, hidden_states: Tensor, told: Any = None, past_key_values: Any = None) -> Any:
        self.seen.append(hidden_states.flatten().tolist())
        return (2 * hidden_states, told) if self.with_extra else 2 * hidden_states


def traversed(passes: int, weight: float, bias: float, tokens: str = "all", with_extra: bool = False) -> nn.Module:
    layer = Doubling(with_extra)
    layer.traversal_passes, layer.traversal_tokens = passes, tokens
    layer.traversal_gate = TraversalGate(1, bias, dtype=torch.float64)
    nn.init.constant_(layer.traversal_gate.weight, weight)
    mix_in(layer, GraftedLayer)
    mix_in(layer, Traversed)
    return layer


def test_two_passes():
    """h1 = 2, h2 = 4, w = 3/4: ¼·2 + ¾·4 = 3.5."""
    layer = traversed(2, 0, LN3 / 2)
    assert layer(torch.ones(1, 1, 1).double()).item() == pytest.approx(3.5, abs=1e-15)
    assert layer.seen == [[1.0], [2.0]]


def test_three_passes_fold():
    """h = 2, 4, 8 and w = 3/4 twice: ¼·2 + ¾·(¼·4 + ¾·8) = 5.75. Not ¼·4 + ¾·8 = 7, nor ¼·3.5 + ¾·8 = 6.875."""
    layer = traversed(3, 0, LN3 / 2)
    assert layer(torch.ones(1, 1, 1).double()).item() == pytest.approx(5.75, abs=1e-15)
    assert layer.seen == [[1.0], [2.0], [4.0]]


def test_each_ratio_is_read_on_the_pass_before():
    """gate(h) = h·ln(3)/4: w1 = σ(2·2·ln(3)/4) = 3/4, w2 = σ(2·4·ln(3)/4) = 9/10; ¼·2 + ¾·(0.1·4 + 0.9·8) = 6.2."""
    assert traversed(3, LN3 / 4, 0)(torch.ones(1, 1, 1).double()).item() == pytest.approx(6.2, abs=1e-14)


def test_each_token_has_its_own_ratio():
    """h1 = -2, 0, 2 with gate(h) = h·ln(3)/4: w = ¼, ½, ¾."""
    out = traversed(2, LN3 / 4, 0)(torch.tensor([[[-1.0], [0.0], [1.0]]]).double())
    assert out.flatten().tolist() == pytest.approx([-2.5, 0, 3.5], abs=1e-15)


def test_what_else_a_layer_returns_comes_from_the_first_pass():
    mixed, told = traversed(2, 0, LN3 / 2, with_extra=True)(torch.ones(1, 1, 1).double(), "told")
    assert mixed.item() == pytest.approx(3.5) and told == "told"


@pytest.mark.parametrize(
    ("prompt", "expected", "runs"),
    [(True, [3.5, 3.5], 2), (False, [2, 2], 1), (torch.tensor([[True, False]]), [3.5, 2], 2)],
    ids=["prompt", "answer", "both"],
)
def test_only_the_prompt_traverses(prompt: bool | Tensor, expected: list[float], runs: int):
    layer, ones = traversed(2, 0, LN3 / 2, tokens="prompt"), torch.ones(1, 2, 1).double()
    out = layer(ones, sequence=SequenceStep(prompt=prompt))
    assert out.flatten().tolist() == pytest.approx(expected, abs=1e-15)
    assert len(layer.seen) == runs, "a token of the answer costs one pass"
    everything = traversed(2, 0, LN3 / 2)(ones, sequence=SequenceStep(prompt=prompt))
    assert everything.flatten().tolist() == pytest.approx([3.5, 3.5], abs=1e-15)


def test_the_identity_bias_is_exact():
    for value in (1e-30, 1.0, 1e30):
        x = torch.full((1, 1, 1), value, dtype=torch.float64)
        assert traversed(2, 0, IDENTITY_BIAS)(x).item() == 2 * value


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_stays_half(dtype: torch.dtype):
    layer = traversed(2, 0, LN3 / 2).to(dtype)
    out = layer(torch.ones(1, 1, 1, dtype=dtype))
    assert out.dtype == dtype and out.item() == pytest.approx(3.5, rel=0.01)
