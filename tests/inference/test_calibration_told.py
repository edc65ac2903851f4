"""What a calibration tells of a layer: of its gate, and of how far its second pass moved."""

from __future__ import annotations

import pytest
import torch

from phantrol.inference.calibrating import Calibration, Recording


def told(ratios, moved):
    return Calibration(Recording((0,), ratios, moved, 1.0), (), 2.0, 1.0, 1.0).as_dict()["layers"][0]


def test_what_the_gates_said_is_told_of_the_gates():
    ratios, moved = torch.tensor([[0.1, 0.2, 0.6, 0.9]]), torch.tensor([[0.01, 0.02, 0.3, 0.4]])
    found = told(ratios, moved)
    assert found["ratio_quantiles"][2] == pytest.approx(0.4) and found["over_half"] == 0.5
    assert (found["ratio"], found["moved"]) == pytest.approx((0.45, 0.1825))


def test_more_tokens_than_torch_takes_quantiles_of():
    ratios = torch.linspace(0, 1, 2**24 + 1)[None]
    found = told(ratios, ratios)
    assert found["ratio_quantiles"] == pytest.approx([0.05, 0.25, 0.5, 0.75, 0.95], abs=1e-6)
