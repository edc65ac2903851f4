"""Phantom's two ways through a step of decoding, and a prompt's way through attention in parts: the same to 1e-10."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, DynamicCache

from phantrol.modifiers import enlarged_cache
from phantrol.modifiers import phantom_attention as phantom_module
from phantrol.modifiers.enlarged_cache import EnlargedCache
from phantrol.modifiers.graft import graft
from phantrol.modifiers.phantom import PhantomConfig

EXACT, BROKEN = 1e-10, 1e-3
NAMES = ("phantom", "phantom_drop", "phantom_anchors", "both_prompt")
FOUR_LAYERS = dict(  # of which the last two take their keys from the first two
    vocab_size=97, vocab_size_per_layer_input=97, hidden_size=32, hidden_size_per_layer_input=8, intermediate_size=48,
    num_hidden_layers=4, layer_types=["sliding_attention", "full_attention"] * 2, num_kv_shared_layers=2,
    num_attention_heads=4, num_key_value_heads=2, head_dim=8, max_position_embeddings=64, pad_token_id=0,
)  # fmt: skip
KEYS_GO_ON = {
    "gemma3n_text": dict(**FOUR_LAYERS, activation_sparsity_pattern=[0.0] * 4),
    "gemma4_text": dict(**FOUR_LAYERS, global_head_dim=8),
}
pytestmark = pytest.mark.usefixtures("float64_throughout")


def at_once(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return how many kinds each call from here on took together."""
    calls, attend = [], enlarged_cache.attend_kinds_at_once

    def counted(states: torch.Tensor, *args: torch.Tensor) -> torch.Tensor:
        calls.append(states.shape[1])
        return attend(states, *args)

    monkeypatch.setattr(enlarged_cache, "attend_kinds_at_once", counted)
    return calls


@pytest.mark.parametrize("name", NAMES)
def test_a_step_that_learns_takes_each_kind_alone(
    name: str, build_case: Callable[[str, str], Any], monkeypatch: pytest.MonkeyPatch
):
    """Gradients need the gates themselves, not what the prompt made of them; the numbers are the same."""
    case = build_case("llama", name)
    calls = at_once(monkeypatch)
    logits = {}
    for learns in (False, True):
        cache = DynamicCache(config=case.model.config)
        with torch.no_grad():
            case.step(case.ids[:, :8], cache, prompt=8)
        with torch.set_grad_enabled(learns):
            logits[learns] = case.step(case.ids[:, 8:9], cache, prompt=8)
    layers = 2 if name == "both_prompt" else 3
    assert calls == [1 if name == "phantom_drop" else 3] * layers, "without gradients, and only then"
    assert float((logits[True] - logits[False]).detach().abs().max()) < EXACT
    gate = case.model.get_decoder().layers[1].self_attn.phantom.gate_1.weight
    (grad,) = torch.autograd.grad(logits[True].square().sum(), [gate])
    assert float(grad.abs().max()) > 0


@torch.no_grad()
@pytest.mark.parametrize("name", NAMES)
def test_a_prompt_in_parts(name: str, build_case: Callable[[str, str], Any], monkeypatch: pytest.MonkeyPatch):
    case = build_case("llama", name)
    monkeypatch.setattr(phantom_module, "PART_TOKENS", 4)  # of 11: two whole parts, and one of three tokens
    parts, attend = [], phantom_module._attend_grouped
    monkeypatch.setattr(
        phantom_module, "_attend_grouped", lambda *args: (parts.append(args[0].shape[2]), attend(*args))[1]
    )
    sdpa = case.full(case.ids)
    case.model.set_attn_implementation("eager")
    try:
        eager = case.full(case.ids)
    finally:
        case.model.set_attn_implementation("sdpa")
    assert float((sdpa - eager).abs().max()) < EXACT
    assert parts[:3] == [4, 4, 3]
    monkeypatch.setattr(phantom_module, "_attend_grouped", lambda q, k, v, mask, scale: attend(q, k, v, None, scale))
    assert float((case.full(case.ids) - eager).abs().max()) > BROKEN, "a part that sees all of itself"


@torch.no_grad()
@pytest.mark.parametrize("family", KEYS_GO_ON)
def test_layers_that_hand_their_keys_on(family: str, monkeypatch: pytest.MonkeyPatch):
    """Their keys must be enlarged when the next layer takes them; those of the others may wait for their query."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(family, **KEYS_GO_ON[family])
    model = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa").eval()
    model = graft(model, [PhantomConfig(init="random")]).double()
    for name, parameter in model.named_parameters():
        if ".phantom." in name:
            parameter.normal_(generator=torch.Generator().manual_seed(len(name)))
    ids = torch.arange(3, 14)[None]
    full = model(ids, use_cache=False).logits

    def fed() -> float:
        cache = DynamicCache(config=model.config)
        parts = [model(part, past_key_values=cache).logits for part in ids.split([8, 1, 1, 1], dim=1)]
        return float((torch.cat(parts, dim=1) - full).abs().max())

    assert fed() < EXACT
    begin = EnlargedCache.__init__
    monkeypatch.setattr(EnlargedCache, "__init__", lambda self, *args: begin(self, *args[:4]))
    with pytest.raises((RuntimeError, AssertionError)):  # the next layer gets one key, or keys of another size
        assert fed() < BROKEN
