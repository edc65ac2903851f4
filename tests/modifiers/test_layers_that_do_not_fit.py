"""Layers whose fault shows when they run: each modifier says so in one line, and never computes something else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from phantrol.modifiers.graft import graft
from phantrol.modifiers.phantom import PhantomConfig
from phantrol.modifiers.trol import TrolConfig

SIZES = dict(vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4)
SIZES |= dict(num_key_value_heads=4, pad_token_id=0, bos_token_id=1, eos_token_id=2)
LATENT = dict(q_lora_rank=16, kv_lora_rank=8, qk_rope_head_dim=4, qk_nope_head_dim=8, v_head_dim=8, head_dim=4)
EXPERTS = dict(n_routed_experts=4, num_experts_per_tok=2, moe_intermediate_size=16, n_group=1, topk_group=1)
MAMBA = dict(mamba_d_ssm=32, mamba_n_heads=4, mamba_d_head=8, mamba_d_state=4, head_dim=8)
REFUSED = [  # (family, options, modifier, with a cache, what it says)
    ("diffllama", {}, PhantomConfig(), False, "Phantom cannot enlarge DiffLlama.*once"),
    ("diffllama", {}, PhantomConfig(), True, "Phantom cannot enlarge DiffLlama.*once"),
    ("stablelm", {}, PhantomConfig(), False, "Phantom cannot enlarge StableLmAttention.*leave Phantom out"),
    ("stablelm", {}, PhantomConfig(logits="drop"), True, "Phantom cannot enlarge StableLmAttention"),
    ("nemotron", {}, PhantomConfig(), False, "Phantom cannot enlarge NemotronAttention"),
    ("falcon_h1", MAMBA, PhantomConfig(), False, "Phantom cannot enlarge a layer that asks its cache for"),
    ("deepseek_v32", LATENT | EXPERTS, TrolConfig(), True, "TroL cannot run a layer again that keeps a state"),
    ("longcat_flash", LATENT | EXPERTS, TrolConfig(), True, "TroL cannot run a layer again that has more in the cache"),
]


@pytest.fixture
def decoder() -> Callable[..., Any]:
    def build(family: str, **options: Any) -> Any:
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **SIZES, **options)).eval()
        for parameter in model.parameters():
            parameter.data += 0.1 * torch.randn_like(parameter)
        return model

    return build


@pytest.mark.parametrize(
    ("family", "options", "modifier", "use_cache", "message"),
    REFUSED,
    ids=[f"{family}-{modifier.__class__.__name__}-{use_cache}" for family, _, modifier, use_cache, _ in REFUSED],
)
@torch.no_grad()
def test_it_is_refused(
    family: str, options: dict, modifier: Any, use_cache: bool, message: str, decoder: Callable[..., Any]
):
    model = decoder(family, **options)
    ids = torch.arange(3, 9)[None]
    assert torch.isfinite(model(ids, use_cache=use_cache).logits).all(), "alone it works"
    graft(model, [modifier])
    with pytest.raises(ValueError, match=message) as caught:
        model(ids, use_cache=use_cache)
    assert "\n" not in str(caught.value)


@torch.no_grad()
def test_a_layer_that_returns_a_tuple_of_one_does_so_still(decoder: Callable[..., Any]):
    """Its decoder takes the first of what comes: of a bare tensor that would be the first row."""
    model = decoder("falcon_h1", **MAMBA)
    ids = torch.arange(3, 15).reshape(2, 6)
    plain = model(ids, use_cache=False).logits
    assert isinstance(model.get_decoder().layers[0](torch.zeros(1, 2, 32), **_angles(model)), tuple)
    graft(model, [TrolConfig(gate_bias=-40.0)])
    torch.testing.assert_close(model(ids, use_cache=False).logits, plain, rtol=0, atol=0)


def _angles(model: Any) -> dict[str, Any]:
    places = torch.arange(2)[None]
    return {"position_embeddings": model.get_decoder().rotary_emb(torch.zeros(1, 2, 32), places)}
