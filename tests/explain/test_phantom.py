"""What the map of the phantom says is held against attention's own output, taken on another way."""

from __future__ import annotations

import threading

import pytest
import torch
from PIL import Image

import phantrol
from phantrol.explain.phantom import term_share, trace_phantom
from phantrol.explain.traversal import trace_traversal
from phantrol.models.tokenizer import train_tokenizer
from phantrol.ops.phantom import merge_halves

RED = Image.new("RGB", (32, 32), "red")
CHAT = [{"role": "user", "content": [{"type": "image", "image": RED}, {"type": "text", "text": "What color is it?"}]}]


@pytest.fixture(scope="module")
def build(tiny_model):
    """`build(*modifiers)` makes a model in float64 whose phantom says much, and its processor."""
    tokenizer = train_tokenizer(["What color is it?"] * 4, 300)
    return lambda *modifiers, noise=0.3: tiny_model(tokenizer, modifiers, dtype=torch.float64, noise=noise)


def by_hand(model, processor, monkeypatch):
    """Run the model and return [rows] of shares [H, N], from what attention gives and what the output map is given."""
    firsts, merged = [], []

    def recording(first, term, *scores):
        firsts.append(first)
        return merge_halves(first, term, *scores)

    layers = model.get_decoder().layers
    hooks = [
        layer.self_attn.o_proj.register_forward_pre_hook(lambda module, args: merged.append(args[0]))
        for layer in layers
    ]
    prompt = processor.encode(CHAT, add_generation_prompt=True)
    with monkeypatch.context() as patch, torch.no_grad():
        patch.setattr("phantrol.modifiers.phantom_attention.merge_halves", recording)
        model(torch.tensor([prompt.input_ids]), prompt.pixel_values)
    for hook in hooks:
        hook.remove()
    assert len(firsts) == len(merged)
    found = []
    for (first,), output in zip(firsts, merged, strict=True):  # [N, H, d]
        added = output[0].view_as(first) - first
        found.append((added.square().mean(-1).sqrt() / first.square().mean(-1).sqrt()).T)
    return found


def test_the_shares_are_what_attention_gives_beside_what_is_put_out(build, monkeypatch):
    model, processor = build(phantrol.PhantomConfig(init="random", eta=0.5))
    seen = trace_phantom(model, processor, CHAT)
    expected = torch.stack(by_hand(model, processor, monkeypatch)).float()
    torch.testing.assert_close(seen.shares, expected, rtol=1e-5, atol=1e-7)
    assert seen.rows == ((0, 0), (1, 0))
    assert seen.shares.shape == (2, 4, len(seen.tokens))
    assert seen.shares.min() > 1e-4 and seen.shares.std() > 0.01  # it adds something, and not everywhere the same
    torch.testing.assert_close(seen.by_token(), expected.mean(1))
    torch.testing.assert_close(seen.by_head(), expected.mean(2))
    assert sum(seen.is_image) == 16 and seen.pictures[0].positions.shape == (4, 4)
    assert seen.question == "What color is it?"


def test_a_layer_that_runs_twice_has_two_rows(build, monkeypatch):
    model, processor = build(
        phantrol.TrolConfig(gate_bias=0.0, layers=(1,)), phantrol.PhantomConfig(init="random", eta=0.5)
    )
    seen = trace_phantom(model, processor, CHAT)
    assert seen.rows == ((0, 0), (1, 0), (1, 1))
    expected = torch.stack(by_hand(model, processor, monkeypatch)).float()
    torch.testing.assert_close(seen.shares, expected, rtol=1e-5, atol=1e-7)
    assert not torch.allclose(seen.shares[1], seen.shares[2])


@pytest.mark.parametrize("config", [phantrol.PhantomConfig(), phantrol.PhantomConfig(init="random", eta=0.0)])
def test_a_phantom_that_says_nothing_adds_nothing(build, config):
    model, processor = build(config, noise=0.0)
    assert not trace_phantom(model, processor, CHAT).shares.any()


def test_half_the_eta_adds_less(build):
    shares = []
    for eta in (0.02, 0.01):
        model, processor = build(phantrol.PhantomConfig(init="random", eta=eta, logits="drop"))
        with torch.no_grad():
            for layer in model.get_decoder().layers:
                layer.self_attn.phantom.gate_2.weight.zero_()  # then w does not depend on the term
        shares.append(trace_phantom(model, processor, CHAT).shares[0])
    torch.testing.assert_close(shares[1], shares[0] / 2, rtol=1e-4, atol=1e-7)


def test_term_share_in_numbers():
    first, both = torch.tensor([[3.0, 4.0], [0.0, 0.0]]), torch.tensor([[6.0, 8.0], [1.0, 1.0]])
    zero = torch.zeros(2, 1)
    torch.testing.assert_close(term_share(first, both, zero, zero), torch.tensor([0.5, 0.0]).double())
    torch.testing.assert_close(term_share(first, both, zero, zero + 100), torch.tensor([1.0, 0.0]).double())
    torch.testing.assert_close(term_share(first, both, zero + 100, zero), torch.tensor([0.0, 0.0]).double())


def test_layers_without_it_and_models_without_it(build):
    model, processor = build(phantrol.PhantomConfig(layers=(1,), init="random"))
    assert trace_phantom(model, processor, CHAT).rows == ((1, 0),)
    model, processor = build(phantrol.TrolConfig())
    with pytest.raises(ValueError, match="no layer of this model has a phantom dimension"):
        trace_phantom(model, processor, CHAT)


@pytest.mark.parametrize("trace", [trace_phantom, trace_traversal])
def test_what_another_thread_computes_meanwhile_is_not_heard(build, trace):
    model, processor = build(phantrol.TrolConfig(gate_bias=0.0), phantrol.PhantomConfig(init="random"))
    alone = trace(model, processor, CHAT)
    other = processor.encode([{"role": "user", "content": "Something else"}], add_generation_prompt=True)
    own, runs = threading.get_ident(), []

    def interrupt(module, args):
        if threading.get_ident() == own:
            thread = threading.Thread(target=lambda: runs.append(model(torch.tensor([other.input_ids]))))
            thread.start()
            thread.join()

    hook = model.get_decoder().layers[1].register_forward_pre_hook(interrupt)
    beside = trace(model, processor, CHAT)
    hook.remove()
    assert runs
    for name in ("shares", "ratios"):
        if hasattr(alone, name):
            assert torch.equal(getattr(alone, name), getattr(beside, name))


def test_no_hook_is_left_behind_and_long_prompts_are_refused(build):
    model, processor = build(phantrol.PhantomConfig(init="random"))
    trace_phantom(model, processor, CHAT)
    model.config.text_config.max_position_embeddings = 10
    with pytest.raises(ValueError, match="reads at most 10"):
        trace_phantom(model, processor, CHAT)
    for layer in model.get_decoder().layers:
        assert not layer.self_attn.phantom.gate_1._forward_hooks and not layer.self_attn.phantom.gate_2._forward_hooks
