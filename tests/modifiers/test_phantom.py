"""The attention of Phantom against explicit loops: every head of every token, one number at a time.

B rows, N tokens, d head size, H query heads, K key/value heads, A the anchor of a row.
"""

from __future__ import annotations

import math
from inspect import signature
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from phantrol.modifiers.enlarged_cache import EnlargedCache
from phantrol.modifiers.phantom import PhantomConfig, PhantomDimension
from phantrol.modifiers.phantom_attention import phantom_attention
from phantrol.modifiers.sequence import SequenceStep
from phantrol.ops.phantom import anchor_memory, attend_anchor_heads

TOKENS, HEAD_DIM, SCALE = 5, 4, 0.7
ANCHORS = (2, 0)  # row 0 begins with two pads


class Attention(nn.Module):
    """What the backends of transformers read off an attention module."""

    def __init__(self, phantom: PhantomDimension, groups: int):
        super().__init__()
        self.phantom, self.num_key_value_groups, self.is_causal = phantom, groups, True
        self.eval()


def setting(heads: int, kv_heads: int, **options: object) -> tuple[Attention, Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    config = PhantomConfig(init="random", **options)
    module = Attention(PhantomDimension(config, HEAD_DIM, dtype=torch.float64), heads // kv_heads)
    for parameter in module.parameters():
        nn.init.normal_(parameter)
    states = (torch.randn(2, count, TOKENS, HEAD_DIM, dtype=torch.float64) for count in (heads, kv_heads, kv_heads))
    return module, *states


def mask() -> Tensor:
    """[B, 1, N, N] True where a token sees another."""
    real = torch.arange(TOKENS) >= torch.tensor(ANCHORS)[:, None]
    return torch.ones(TOKENS, TOKENS, dtype=torch.bool).tril() & real[:, None, None]


@torch.no_grad()
def attend(module: Attention, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """[B, N, H, d]: what the decoder's attention computes, from rotated queries and keys on."""
    step = SequenceStep(
        anchor_index=torch.tensor(ANCHORS),
        anchor_in_chunk=torch.ones(2, dtype=torch.bool),
        places=torch.arange(TOKENS) - torch.tensor(ANCHORS)[:, None],
    )
    cache = EnlargedCache(module.phantom, None, 0, step)
    key, value = cache.update(key, value, 0)
    return phantom_attention(module, query, key, value, mask(), backend="sdpa", phantom=cache, scaling=SCALE)[0]


@torch.no_grad()
def attend_slowly(module: Attention, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """The same by the equations; `attend_anchor_heads` has loops of its own to answer to."""
    phantom, groups = module.phantom, query.shape[1] // key.shape[1]
    eta = float(phantom.eta)
    out = torch.zeros(2, TOKENS, query.shape[1], HEAD_DIM, dtype=torch.float64)
    for b, anchor in enumerate(ANCHORS):

        def y(kind: str, states: Tensor, b: int = b, anchor: int = anchor) -> Tensor:
            part = getattr(phantom, kind)
            weights = (part.k_proj.weight, part.v_proj.weight, part.o_proj.weight)
            out = torch.zeros_like(states[b])
            for n in range(anchor, TOKENS):
                chosen = [anchor + j * phantom.anchor_stride for j in range(phantom.anchors)]
                heads = torch.cat([states[b : b + 1, :, place] for place in chosen if place <= n], dim=1)
                memory = anchor_memory(heads, *weights)
                out[:, n] = attend_anchor_heads(states[b : b + 1, :, n : n + 1], *memory, part.q_proj.weight)[0, :, 0]
            return out

        y_value = y("value", value)
        y_query, y_key = (y("query", query), y("key", key)) if phantom.exact else (0 * query[b], 0 * key[b])
        for h in range(query.shape[1]):
            k = h // groups
            for n in range(anchor, TOKENS):
                seen = range(anchor, n + 1)
                scores = [
                    float(query[b, h, n] @ key[b, k, j] + eta**2 * y_query[h, n] @ y_key[k, j]) * SCALE for j in seen
                ]
                total = sum(math.exp(score) for score in scores)
                shares = [math.exp(score) / total for score in scores]
                h1 = sum(share * value[b, k, j] for share, j in zip(shares, seen, strict=True))
                h2 = h1 + eta * sum(share * y_value[k, j] for share, j in zip(shares, seen, strict=True))
                g1, g2 = phantom.gate_1(h1).item(), phantom.gate_2(h2).item()
                w = math.exp(g1) / (math.exp(g1) + math.exp(g2))
                out[b, n, h] = w * h1 + (1 - w) * h2
    return out


def difference(one: Tensor, other: Tensor) -> float:
    """Largest difference on real tokens."""
    return max(float((one[b, anchor:] - other[b, anchor:]).abs().max()) for b, anchor in enumerate(ANCHORS))


@pytest.mark.parametrize(("heads", "kv_heads"), [(4, 2), (4, 4), (4, 1), (1, 1)])
@pytest.mark.parametrize("logits", ["exact", "drop"])
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_against_loops(heads: int, kv_heads: int, logits: str, eta: float):
    inputs = setting(heads, kv_heads, eta=eta, logits=logits)
    ours = attend(*inputs)
    assert difference(ours, attend_slowly(*inputs)) < 1e-12
    inputs[0].phantom.eta = eta + 0.5
    assert difference(ours, attend_slowly(*inputs)) > 1e-3


@pytest.mark.parametrize("logits", ["exact", "drop"])
@pytest.mark.parametrize(("anchors", "stride"), [(2, 1), (3, 1), (2, 2), (9, 2)])
def test_several_anchors_against_loops(logits: str, anchors: int, stride: int):
    inputs = setting(4, 2, eta=0.7, logits=logits, anchors=anchors, anchor_stride=stride)
    ours = attend(*inputs)
    assert difference(ours, attend_slowly(*inputs)) < 1e-12
    inputs[0].phantom.anchors = 1
    assert difference(ours, attend_slowly(*inputs)) > 1e-3


@pytest.mark.parametrize("logits", ["exact", "drop"])
def test_no_eta_is_plain_attention(logits: str):
    module, query, key, value = setting(4, 2, eta=0.0, logits=logits)
    key_, value_ = (states.repeat_interleave(2, dim=1) for states in (key, value))
    plain = nn.functional.scaled_dot_product_attention(query, key_, value_, attn_mask=mask(), scale=SCALE)
    assert difference(attend(module, query, key, value), plain.transpose(1, 2)) < 1e-14
    module.phantom.eta = 1.0
    assert difference(attend(module, query, key, value), plain.transpose(1, 2)) > 1e-3


@pytest.mark.parametrize("heads", [1, 4])
@torch.no_grad()
def test_with_one_key_value_head_the_term_is_a_constant(heads: int):
    """y_K and y_V are the same at all positions: the logits keep their softmax, and out = h1 + (1 - w)·η·c."""
    module, query, key, value = setting(heads, 1, eta=1.0)
    key_, value_ = (states.repeat_interleave(heads, dim=1) for states in (key, value))
    h1 = nn.functional.scaled_dot_product_attention(query, key_, value_, attn_mask=mask(), scale=SCALE)
    anchors = value[torch.arange(2), :, torch.tensor(ANCHORS)]
    part = module.phantom.value
    _, said = part.remember(anchors)  # [B, 1, d]: one head, so the whole share is its own
    c = nn.functional.gelu(said)[:, :, None]
    w = torch.sigmoid(module.phantom.gate_1(h1) - module.phantom.gate_2(h1 + c))
    assert difference(attend(module, query, key, value), (h1 + (1 - w) * c).transpose(1, 2)) < 1e-13
    assert difference(attend(module, query, key, value), h1.transpose(1, 2)) > 1e-3


def test_what_drop_leaves_out_is_of_the_size_of_eta_squared():
    module, *states = setting(4, 2, eta=1.0)
    moved = {}
    for eta in (1.0, 1e-2, 1e-4):
        module.phantom.eta = eta
        module.phantom.exact = True
        exact = attend(module, *states)
        module.phantom.exact = False
        moved[eta] = difference(attend(module, *states), exact)
    assert moved[1.0] > 1e-2
    assert moved[1e-2] < 1e-3 and moved[1e-4] < 1e-7, "below the last bit of float32"
    assert moved[1e-2] / moved[1e-4] == pytest.approx(1e4, rel=0.05)


def test_the_cache_takes_what_the_options_say():
    for logits, key_size in (("exact", 2 * HEAD_DIM), ("drop", HEAD_DIM)):
        module, _, key, value = setting(4, 2, logits=logits)
        step = SequenceStep(anchor_index=torch.tensor(ANCHORS))
        keys, values = EnlargedCache(module.phantom, None, 0, step).update(key, value, 0)
        assert keys.shape[-1] == key_size and values.shape[-1] == 2 * HEAD_DIM
        assert torch.equal(keys[..., :HEAD_DIM], key) and torch.equal(values[..., :HEAD_DIM], value)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_stays_half(dtype: torch.dtype):
    module, *states = setting(4, 2, eta=1.0)
    expected = attend(module, *states)
    half = attend(module.to(dtype), *(part.to(dtype) for part in states))
    assert half.dtype == dtype
    assert difference(half.double(), expected) < 0.1


@torch.no_grad()
@pytest.mark.parametrize("tokens", [1, TOKENS], ids=["a step", "a prompt"])
@pytest.mark.parametrize("asked", [{"softcap": 1.0}, {"s_aux": torch.zeros(4)}, {"dropout": 0.5}], ids=list)
def test_what_the_short_paths_cannot_do_is_the_backends(tokens: int, asked: dict, monkeypatch: pytest.MonkeyPatch):
    """It refuses a softcap, for one, which left out would be other numbers; dropout is training's."""
    module, query, key, value = setting(4, 2)
    first = SequenceStep(anchor_index=torch.zeros(2, dtype=torch.long), anchor_in_chunk=torch.ones(2, dtype=torch.bool))
    heard: list[dict] = []

    def backend(*args: Any, **kwargs: Any) -> tuple[Tensor, None]:
        heard.append(kwargs)
        return sdpa_attention_forward(*args)

    monkeypatch.setattr("phantrol.modifiers.phantom_attention.backend_function", lambda *_: backend)
    for told in ({}, asked):
        module.train("dropout" in told)
        cache = EnlargedCache(module.phantom, None, 0, first)
        states = cache.update(key, value, 0)
        phantom_attention(module, query[:, :, -tokens:], *states, None, backend="sdpa", phantom=cache, **told)
    assert heard == [asked]


@torch.no_grad()
@pytest.mark.skipif(
    "position_bias" not in signature(sdpa_attention_forward).parameters, reason="transformers before 5.23"
)
@pytest.mark.parametrize("tokens", [1, TOKENS], ids=["a step", "a prompt"])
def test_a_bias_of_positions_is_added_on_every_path(tokens: int):
    """Inkling's: what the short paths of a CPU do not know goes the long way."""
    module, query, key, value = setting(4, 2)
    first = SequenceStep(anchor_index=torch.zeros(2, dtype=torch.long), anchor_in_chunk=torch.ones(2, dtype=torch.bool))
    bias = torch.randn(1, 4, tokens, TOKENS, dtype=torch.float64)
    causal = torch.ones(TOKENS, TOKENS, dtype=torch.bool).tril()[-tokens:]
    whole = bias.masked_fill(~causal, -torch.inf).expand(2, -1, -1, -1)

    def attended(mask: Tensor | None, **kwargs: Tensor) -> Tensor:
        cache = EnlargedCache(module.phantom, None, 0, first)
        states = cache.update(key, value, 0)
        enlarged = cache.enlarge(query, *states)
        cache.enlarge = lambda *_: (enlarged[0][:, :, -tokens:], *enlarged[1:])
        return phantom_attention(
            module, query[:, :, -tokens:], *states, mask, backend="sdpa", phantom=cache, scaling=SCALE, **kwargs
        )[0]

    torch.testing.assert_close(attended(None, position_bias=bias), attended(whole), atol=1e-12, rtol=0)
    assert (attended(None) - attended(whole)).abs().max() > 1e-3
