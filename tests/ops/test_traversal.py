"""The ratio and the mix of two passes: worked out by hand, against plain Python, and at the edges of the dtypes."""

from __future__ import annotations

import math

import pytest
import torch

from phantrol.ops.traversal import mix_passes, traversal_ratio

HALVES = [torch.float16, torch.bfloat16]


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_ratio_by_hand():
    """σ(2z): z = 0 gives 1/2, z = ln(3)/2 gives 3/4, z = -ln(3)/2 gives 1/4, z = ln(3) gives 9/10."""
    first = torch.tensor([[[0, 0], [1, 0], [0, 1], [2, 0]]], dtype=torch.float64)
    weight = torch.tensor([[1, -1]], dtype=torch.float64) * math.log(3) / 2
    ratio = traversal_ratio(first, weight, torch.zeros(1, dtype=torch.float64))
    expected = torch.tensor([1 / 2, 3 / 4, 1 / 4, 9 / 10], dtype=torch.float64)[None, :, None]
    torch.testing.assert_close(ratio, expected, atol=1e-15, rtol=0)
    assert ratio.shape == (1, 4, 1)
    with_bias = traversal_ratio(first[:, :1], weight, torch.tensor([math.log(3)], dtype=torch.float64))
    assert float(with_bias) == pytest.approx(9 / 10, abs=1e-15)


def test_ratio_is_the_released_function():
    """(tanh(z) + 1) / 2, token by token; σ(z), which one might take for it, is far off."""
    first, weight, bias = random(2, 5, 4), random(1, 4, seed=1), random(1, seed=2)
    ratio = traversal_ratio(first, weight, bias)
    for b in range(2):
        for n in range(5):
            z = sum(float(first[b, n, d] * weight[0, d]) for d in range(4)) + float(bias)
            assert float(ratio[b, n, 0]) == pytest.approx((math.tanh(z) + 1) / 2, abs=1e-14)
    z = torch.nn.functional.linear(first, weight, bias)
    assert float((ratio - torch.sigmoid(z)).abs().max()) > 0.05


def test_mix_by_hand():
    first, second = torch.tensor([[[4.0, 0.0]]]), torch.tensor([[[8.0, 1.0]]])
    assert mix_passes(first, second, torch.tensor([[[0.25]]])).tolist() == [[[5.0, 0.25]]]
    assert mix_passes(first, second, torch.tensor([[[0.75]]])).tolist() == [[[7.0, 0.75]]]


def test_mix_against_loops():
    first, second, ratio = random(2, 3, 4), random(2, 3, 4, seed=1), torch.sigmoid(random(2, 3, 1, seed=2))
    mixed = mix_passes(first, second, ratio)
    for b in range(2):
        for n in range(3):
            w = float(ratio[b, n, 0])
            for d in range(4):
                expected = (1 - w) * float(first[b, n, d]) + w * float(second[b, n, d])
                assert float(mixed[b, n, d]) == pytest.approx(expected, abs=1e-14)
    swapped = mix_passes(second, first, ratio)
    assert float((mixed - swapped).abs().max()) > 1e-3


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_the_ends_are_exact(dtype: torch.dtype):
    first, second = (100 * random(2, 3, 4)).to(dtype), random(2, 3, 4, seed=1).to(dtype)
    assert torch.equal(mix_passes(first, second, torch.zeros(2, 3, 1)), first)
    assert torch.equal(mix_passes(first, second, torch.ones(2, 3, 1)), second)


def test_a_closed_gate_learns_under_autocast():
    """In bfloat16 the ratio at a bias of -4 is 0 exactly, and so is its gradient: the gate would never open."""
    first, weight, bias = torch.ones(1, 2, 4), torch.zeros(1, 4), torch.tensor([-4.0], requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        ratio = traversal_ratio(first, weight, bias)
        control = 0.5 * torch.tanh(torch.nn.functional.linear(first, weight, bias)) + 0.5
    assert torch.equal(ratio, traversal_ratio(first, weight, bias)) and not control.any()
    (slope,) = torch.autograd.grad(ratio.sum(), bias)
    assert float(slope) == pytest.approx(2 * 2 / (1 + math.exp(8)), rel=1e-2)
    assert not torch.autograd.grad(control.sum(), bias)[0].any()


@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_half_precision_keeps_its_dtype_and_a_ratio_of_float32(dtype: torch.dtype):
    first = torch.ones(1, 2, 4, dtype=dtype)
    ratio = traversal_ratio(first, torch.zeros(1, 4, dtype=dtype), torch.tensor([-4.0], dtype=dtype))
    assert ratio.dtype == torch.float32
    # half a last bit of the 0.5 that the released form adds
    assert float(ratio[0, 0]) == pytest.approx(1 / (1 + math.exp(8)), abs=2**-25)
    assert mix_passes(first, 2 * first, ratio).dtype == dtype
    assert traversal_ratio(first.double(), torch.zeros(1, 4), torch.zeros(1)).dtype == torch.float64


@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_large_scores_do_not_overflow(dtype: torch.dtype):
    """Scores of ±200, and of ±4·10⁶, which float16 cannot even hold."""
    weight, bias = torch.full((1, 4), 50.0, dtype=dtype), torch.zeros(1, dtype=dtype)
    first = torch.tensor([1.0, -1.0, 20000.0, -20000.0], dtype=dtype)[None, :, None].expand(1, 4, 4)
    ratio = traversal_ratio(first, weight, bias)
    assert ratio.flatten().tolist() == pytest.approx([1, 0, 1, 0], abs=1e-30)
    second = torch.zeros_like(first)
    mixed = mix_passes(first, second, ratio)
    assert mixed.isfinite().all()
    assert torch.equal(mixed, torch.where(ratio > 0.5, second, first))


def test_gradients():
    inputs = [random(1, 2, 3, seed=seed).requires_grad_() for seed in range(2)]
    weight, bias = random(1, 3, seed=2).requires_grad_(), random(1, seed=3).requires_grad_()

    def mixed(first, second, weight, bias):
        return mix_passes(first, second, traversal_ratio(first, weight, bias))

    assert torch.autograd.gradcheck(mixed, (*inputs, weight, bias))
