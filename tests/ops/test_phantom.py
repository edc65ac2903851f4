"""The phantom dimension: worked out by hand, against plain Python loops, and at the edges of the dtypes.

B batch, N tokens, d head size, H heads of the states, A heads of the anchor.
"""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn.functional import linear

from phantrol.ops.phantom import (
    anchor_memory,
    attend_anchor_heads,
    attend_anchors_of_blocks,
    attend_kinds_at_once,
    join_gates,
    merge_halves,
)

HALVES = [torch.float16, torch.bfloat16]
ONE = torch.ones(1, 1, dtype=torch.float64)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def gelu(x: float) -> float:
    return x * (1 + math.erf(x / math.sqrt(2))) / 2


def times(weight: Tensor, x: list[float]) -> list[float]:
    return [sum(float(weight[i, j]) * x[j] for j in range(len(x))) for i in range(weight.shape[0])]


def attend_slowly(states: Tensor, anchor: Tensor, q: Tensor, k: Tensor, v: Tensor, o: Tensor) -> Tensor:
    """The equation of the released models, one token and one head at a time, in Python's own floats."""
    result = torch.empty_like(states)
    batch, heads, tokens, size = states.shape
    for b in range(batch):
        keys = [[gelu(x) for x in times(k, row)] for row in anchor[b].tolist()]
        values = [[gelu(x) for x in times(v, row)] for row in anchor[b].tolist()]
        for h in range(heads):
            for n in range(tokens):
                query = [gelu(x) for x in times(q, states[b, h, n].tolist())]
                scores = [sum(a * c for a, c in zip(query, key, strict=True)) / math.sqrt(size) for key in keys]
                shares = [math.exp(score) for score in scores]
                mixed = [
                    sum(s * value[i] for s, value in zip(shares, values, strict=True)) / sum(shares)
                    for i in range(size)
                ]
                result[b, h, n] = torch.tensor([gelu(x) for x in times(o, mixed)], dtype=states.dtype)
    return result


def test_memory_by_hand():
    """gelu(1) = Φ(1) = 0.8413447, gelu(-1) = -Φ(-1) = -0.1586553, gelu(0) = 0."""
    anchor = torch.tensor([[[1.0, 0.0], [0.0, 2.0]]], dtype=torch.float64)
    swap, halve = torch.tensor([[0.0, 1.0], [1.0, 0.0]]).double(), -torch.eye(2).double() / 2
    keys, values = anchor_memory(anchor, swap, halve, torch.tensor([[1.0, 0.0], [3.0, 5.0]]).double())
    assert keys.flatten().tolist() == pytest.approx([0, gelu(1), gelu(2), 0], abs=1e-15)
    assert values.flatten().tolist() == pytest.approx([gelu(-0.5), 3 * gelu(-0.5), 0, 5 * gelu(-1)], abs=1e-15)
    assert gelu(1) == pytest.approx(0.8413447460685429, abs=1e-15)
    assert gelu(-1) == pytest.approx(-0.15865525393145707, abs=1e-15)


def test_attention_by_hand():
    """One number per head, all weights 1. The anchor says 0 and ln(9)/Φ: shares 1/4 and 3/4, value ¾·2."""
    query = 1.0  # gelu(1) = Φ(1)
    keys = torch.tensor([[[0.0], [math.log(3) / gelu(1)]]], dtype=torch.float64)
    values = torch.tensor([[[0.0], [2.0]]], dtype=torch.float64)
    y = attend_anchor_heads(torch.full((1, 1, 1, 1), query, dtype=torch.float64), keys, values, ONE)
    assert float(y) == pytest.approx(gelu(1.5), abs=1e-15)


@pytest.mark.parametrize(("heads", "anchor_heads"), [(4, 4), (2, 2), (4, 2), (1, 1), (4, 1)])
def test_against_loops(heads: int, anchor_heads: int):
    """With as many heads as the anchor, and with others: the loops know no difference."""
    states, anchor = 2 * random(2, heads, 3, 4), 2 * random(2, anchor_heads, 4, seed=1)
    q, k, v, o = (random(4, 4, seed=seed) for seed in range(2, 6))
    y = attend_anchor_heads(states, *anchor_memory(anchor, k, v, o), q)
    torch.testing.assert_close(y, attend_slowly(states, anchor, q, k, v, o), atol=1e-13, rtol=0)
    assert float((y - attend_slowly(states, anchor, q, k, o, v)).abs().max()) > 1e-3
    if anchor_heads > 1:  # a single head has the whole share, whatever the scores
        assert float((y - attend_slowly(states, anchor, k, q, v, o)).abs().max()) > 1e-3


def test_heads_repeat_without_a_difference():
    """Released models repeat key and value heads before this, and attend to each of them twice."""
    states, anchor = random(2, 2, 3, 4), random(2, 2, 4, seed=1)
    q, k, v, o = (random(4, 4, seed=seed) for seed in range(2, 6))
    few = attend_anchor_heads(states, *anchor_memory(anchor, k, v, o), q)
    repeated = anchor_memory(anchor.repeat_interleave(3, dim=1), k, v, o)
    many = attend_anchor_heads(states.repeat_interleave(3, dim=1), *repeated, q)
    torch.testing.assert_close(many, few.repeat_interleave(3, dim=1), atol=1e-14, rtol=0)
    unequal = anchor_memory(anchor[:, [0, 0, 1]], k, v, o)
    assert float((attend_anchor_heads(states, *unequal, q) - few).abs().max()) > 1e-3


def test_one_anchor_head_says_the_same_to_all():
    states, anchor = random(2, 4, 3, 4), random(2, 1, 4, seed=1)
    q, k, v, o = (random(4, 4, seed=seed) for seed in range(2, 6))
    y = attend_anchor_heads(states, *anchor_memory(anchor, k, v, o), q)
    torch.testing.assert_close(y, y[:, :1, :1].expand_as(y), atol=1e-14, rtol=0)
    other = attend_anchor_heads(states, *anchor_memory(anchor.flip(0), k, v, o), q)
    assert float((y - other).abs().max()) > 1e-3, "each row has its own anchor"


@pytest.mark.parametrize("batch", [1, 3])
def test_kinds_at_once_are_each_alone(batch: int):
    """Anchors of 2, 2 and 4 heads; keys and values stand twice, so that all three have 4."""
    heads = (2, 2, 4)
    states = [random(batch, count, 1, 4, seed=10 + i) for i, count in enumerate(heads)]
    weights = [[random(4, 4, seed=20 + 4 * i + j) for j in range(4)] for i in range(3)]
    memories = [anchor_memory(random(batch, count, 4, seed=i), *weights[i][1:]) for i, count in enumerate(heads)]
    alone = [attend_anchor_heads(x, *m, w[0]).squeeze(2) for x, m, w in zip(states, memories, weights, strict=True)]
    own = torch.full((sum(heads), 3 * 4), -torch.inf, dtype=torch.float64)
    own[:2, :4] = own[2:4, 4:8] = own[4:, 8:] = 0
    stacked = torch.stack([x.squeeze(2).repeat_interleave(4 // x.shape[1], dim=1) for x in states], dim=1)
    keys, values = (torch.cat(parts, dim=1) for parts in zip(*memories, strict=True))
    queries = torch.stack([w[0] for w in weights])

    def largest(together: Tensor) -> float:
        pairs = zip(together.unbind(1), alone, strict=True)
        return max(float((y - x.repeat_interleave(4 // x.shape[1], dim=1)).abs().max()) for y, x in pairs)

    assert largest(attend_kinds_at_once(stacked, keys, values, queries, own)) < 1e-14
    grouped = attend_kinds_at_once(stacked.unflatten(2, (2, 2)), keys, values, queries, own)
    assert largest(grouped.flatten(2, 3)) < 1e-14
    assert largest(attend_kinds_at_once(stacked, keys, values, queries, torch.zeros_like(own))) > 1e-3, "all heads"
    assert largest(attend_kinds_at_once(stacked, keys, values, queries.flip(0), own)) > 1e-3, "another kind's weight"


def test_gelu_is_exact():
    """The approximation by tanh is off by up to 4.7e-4, which these numbers resolve."""
    anchor = torch.linspace(-3, 3, 25, dtype=torch.float64)[None, :, None]
    keys, _ = anchor_memory(anchor, ONE, ONE, ONE)
    expected = torch.tensor([gelu(x) for x in anchor.flatten().tolist()], dtype=torch.float64)
    torch.testing.assert_close(keys.flatten(), expected, atol=1e-15, rtol=0)
    approximate = torch.nn.functional.gelu(anchor, approximate="tanh").flatten()
    assert float((approximate - expected).abs().max()) > 1e-4


def test_merge_by_hand():
    """g1 - g2 = ln 3, so w = 3/4, and h1 + ¼·term."""
    first, term = torch.tensor([8.0, -4.0]), torch.tensor([4.0, 2.0])
    score = torch.tensor([-math.log(3)])  # g2 - g1
    assert merge_halves(first, term, score).tolist() == pytest.approx([9.0, -3.5], abs=1e-6)
    assert merge_halves(first, term, -score).tolist() == pytest.approx([11.0, -2.5], abs=1e-6)


@pytest.mark.parametrize("eta", [0.0, 1e-4, 1.0])
def test_merge_is_the_released_fraction(eta: float):
    """(e^g1·h1 + e^g2·h2) / (e^g1 + e^g2), h2 = h1 + η·P·y; with η = 0 nothing happens, to the bit."""
    first, attended = random(2, 3, 4, 5), random(2, 3, 4, 5, seed=1)
    g1, g2 = random(2, 3, 4, 1, seed=2), random(2, 3, 4, 1, seed=3)
    second = first + eta * attended
    released = (g1.exp() * first + g2.exp() * second) / (g1.exp() + g2.exp())
    merged = merge_halves(first, eta * attended, g2 - g1)
    torch.testing.assert_close(merged, released, atol=1e-14, rtol=0)
    if eta == 0:
        assert torch.equal(merged, first)
    if eta == 1:
        assert float((merge_halves(first, eta * attended, g1 - g2) - released).abs().max()) > 1e-3


def test_both_gates_are_one_product():
    first, term = random(2, 3, 5), random(2, 3, 5, seed=1)
    one, two = (random(1, 5, seed=2), random(1, seed=3)), (random(1, 5, seed=4), random(1, seed=5))
    expected = linear(first + term, *two) - linear(first, *one)
    halves = torch.cat([first, term], dim=-1)
    torch.testing.assert_close(linear(halves, *join_gates(*one, *two)), expected, atol=1e-14, rtol=0)
    assert float((linear(halves, *join_gates(*two, *one)) - expected).abs().max()) > 1e-3


@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_gate_scores_of_200_do_not_overflow(dtype: torch.dtype):
    first, term = torch.full((1, 2), 3.0, dtype=dtype), torch.full((1, 2), 5.0, dtype=dtype)
    high, low = torch.full((1, 1), 200.0, dtype=dtype), torch.full((1, 1), -200.0, dtype=dtype)
    assert high.exp().isinf().all() or dtype == torch.bfloat16
    for one, other, expected in ((high, low, 3.0), (low, high, 8.0), (high, high, 5.5)):
        merged = merge_halves(first, term, other - one)
        assert merged.dtype == dtype and merged.tolist() == [[expected, expected]]


@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_half_precision_keeps_its_dtype(dtype: torch.dtype):
    states, anchor = random(2, 2, 3, 16), random(2, 2, 16, seed=1)
    weights = [random(16, 16, seed=seed) / 4 for seed in range(2, 6)]
    q, k, v, o = (weight.to(dtype) for weight in weights)
    keys, values = anchor_memory(anchor.to(dtype), k, v, o)
    y = attend_anchor_heads(states.to(dtype), keys, values, q)
    assert keys.dtype == values.dtype == y.dtype == dtype
    q, k, v, o = weights
    expected = attend_anchor_heads(states, *anchor_memory(anchor, k, v, o), q)
    tolerance = 0.02 if dtype == torch.bfloat16 else 0.003
    torch.testing.assert_close(y.double(), expected, atol=tolerance, rtol=0)


@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_large_states_do_not_overflow(dtype: torch.dtype):
    """Keys of some real backbones reach hundreds: 300·300·16 is more than float16 holds, its softmax is not."""
    states, anchor = torch.full((1, 2, 3, 16), 300.0, dtype=dtype), torch.full((1, 2, 16), 300.0, dtype=dtype)
    anchor[:, 1] = 200.0
    eye = torch.eye(16, dtype=dtype)
    y = attend_anchor_heads(states, *anchor_memory(anchor, eye, eye, eye), eye)
    assert y.isfinite().all()
    assert torch.equal(y, torch.full_like(y, 300.0))


def of_one(states, keys, values, query):
    return attend_anchor_heads(states, keys, values, query)


def of_a_step(states, keys, values, query):
    own = torch.zeros(2, 2, dtype=torch.promote_types(states.dtype, torch.float32))
    token = states.transpose(1, 2)[0, :, None]  # [N, 1, H, d]: each token a row, of one kind
    keys, values = (memory.expand(len(token), -1, -1) for memory in (keys, values))
    return attend_kinds_at_once(token, keys, values, query[None], own)


def of_blocks(states, keys, values, query):
    return attend_anchors_of_blocks(states, keys.expand(2, -1, -1), values.expand(2, -1, -1), query, [3, 5])


@pytest.mark.parametrize("attend", [of_one, of_a_step, of_blocks])
def test_autocast_leaves_the_scores_alone(attend):
    """In bfloat16 scores of 20 have two digits, and float16 does not hold those of large states."""
    states, anchor = random(1, 2, 8, 64), random(1, 2, 64, seed=1)
    maps = [random(64, 64, seed=seed) / 8 for seed in range(2, 6)]

    def answer(dtype, scale):
        tensors = (scale * states, scale * anchor, *maps)
        one, heads, q, k, v, o = (tensor.to(torch.bfloat16).to(dtype) for tensor in tensors)
        return attend(one, *anchor_memory(heads, k, v, o), q).double()

    for scale in (5, 10, 20, 50):
        exact, half = answer(torch.float64, scale), answer(torch.bfloat16, scale)
        with torch.autocast("cpu", torch.bfloat16):
            cast = answer(torch.float32, scale)
        assert (cast - exact).norm() < 1.1 * (half - exact).norm()
    with torch.autocast("cpu", torch.float16):
        assert answer(torch.float32, 150).isfinite().all()


def test_gradients():
    tensors = [
        random(*shape, seed=i).requires_grad_() for i, shape in enumerate([(1, 2, 2, 3), (1, 2, 3), *[(3, 3)] * 4])
    ]

    def attended(states, anchor, q, k, v, o):
        return attend_anchor_heads(states, *anchor_memory(anchor, k, v, o), q)

    assert torch.autograd.gradcheck(attended, tensors)
