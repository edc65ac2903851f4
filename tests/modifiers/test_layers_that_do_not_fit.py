"""Layers whose fault shows when they run: each modifier says so in one line, and never computes something else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, DynamicCache
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

from phantrol.modifiers.graft import GraftedGeneration, graft, grafted_modifiers
from phantrol.modifiers.pass_cache import PassCache
from phantrol.modifiers.phantom import PhantomConfig
from phantrol.modifiers.trol import TrolConfig, traversing_gates

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
    ("longcat_flash", LATENT | EXPERTS, TrolConfig(), True, "TroL cannot run a layer again that has more in the cache"),
]

SPARSE = dict(  # the first layer attends to all keys
    n_shared_experts=1, dense_intermediate_size=48, shared_intermediate_size=16, head_dim=8, rotary_dim=4,
    index_n_heads=4, index_head_dim=8, index_block_size=2, index_topk_blocks=2, index_local_blocks=1,
    layer_types=["full_attention", "minimax_m3_sparse"], num_local_experts=4, num_experts_per_tok=2,
)  # fmt: skip
FOUND_BY_INDEX = [  # (family, options, modifier, what it says)
    ("deepseek_v32", LATENT | EXPERTS, TrolConfig(), "TroL cannot run DeepseekV32DecoderLayer more than once"),
    ("deepseek_v32", LATENT | EXPERTS, PhantomConfig(), "Phantom cannot enlarge DeepseekV32Attention"),
    ("minimax_m3_vl_text", SPARSE, TrolConfig(), "TroL cannot run MiniMaxM3VLDecoderLayer more than once: it finds"),
    ("minimax_m3_vl_text", SPARSE, PhantomConfig(), r"layers \[1\] find their keys by an index.*leave Phantom out"),
    ("minimax_m3_vl_text", SPARSE, PhantomConfig(layers=(0,)), r"layers \[1\] find their keys by an index"),
]


@pytest.fixture
def decoder() -> Callable[..., Any]:
    def build(family: str, **options: Any) -> Any:
        if family not in CONFIG_MAPPING_NAMES:
            pytest.skip(f"this transformers has no {family}")
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


@pytest.mark.parametrize(
    ("family", "options", "modifier", "message"),
    FOUND_BY_INDEX,
    ids=[f"{family}-{modifier.__class__.__name__}-{modifier.layers}" for family, _, modifier, _ in FOUND_BY_INDEX],
)
@torch.no_grad()
def test_keys_that_are_found_by_an_index(
    family: str, options: dict, modifier: Any, message: str, decoder: Callable[..., Any]
):
    """Refused before anything is changed: an attention function by another name would leave the mask out."""
    model, ids = decoder(family, **options), torch.arange(3, 9)[None]
    logits = model(ids).logits
    with pytest.raises(ValueError, match=message) as caught:
        graft(model, [modifier])
    assert "\n" not in str(caught.value)
    assert torch.equal(model(ids).logits, logits)


@torch.no_grad()
def test_beside_a_layer_that_finds_its_keys_another_traverses(decoder: Callable[..., Any]):
    model, ids = decoder("minimax_m3_vl_text", **SPARSE), torch.arange(3, 15)[None]
    graft(model, [TrolConfig(layers=(0,), gate_bias=0.1)])
    cache = DynamicCache(config=model.config)
    fed = torch.cat([model(part, past_key_values=cache).logits for part in ids.split([8, 1, 3], dim=1)], dim=1)
    torch.testing.assert_close(fed, model(ids, use_cache=False).logits, rtol=0, atol=1e-4)


class Nosy(torch.nn.Module):
    """An attention that looks for what it kept in the cache itself."""

    def __init__(self, own: torch.nn.Module):
        super().__init__()
        self.own = own

    def forward(self, *args: Any, past_key_values: Any = None, **kwargs: Any) -> Any:
        past_key_values.layers[0].seen = True
        return self.own(*args, past_key_values=past_key_values, **kwargs)


@torch.no_grad()
def test_a_later_pass_gets_at_no_slot_but_its_own(decoder: Callable[..., Any]):
    model = graft(decoder("llama"), [TrolConfig()])
    model.model.layers[0].self_attn = Nosy(model.model.layers[0].self_attn)
    with pytest.raises(ValueError, match=r"TroL cannot run a layer again that keeps a state.*asks for `layers`"):
        model(torch.arange(3, 9)[None])


@torch.no_grad()
def test_a_later_pass_is_told_how_much_is_in_its_own_slot(decoder: Callable[..., Any], monkeypatch: pytest.MonkeyPatch):
    """Llama 4 scales queries by where they stand, which it asks the cache."""
    sizes = dict(intermediate_size_mlp=48, head_dim=8, num_local_experts=2, attention_chunk_size=64)
    model = decoder("llama4_text", no_rope_layers=[1, 0], floor_scale=4, attn_scale=0.5, **sizes).double()
    graft(model, [TrolConfig(gate_bias=0.1)])  # whose get_decoder returns itself
    assert isinstance(model, GraftedGeneration) and grafted_modifiers(model)
    assert list(traversing_gates(model.get_decoder())) == [0, 1]
    ids = torch.arange(3, 15)[None]
    full = model(ids, use_cache=False).logits

    def off() -> float:
        cache = DynamicCache(config=model.config)
        fed = torch.cat([model(part, past_key_values=cache).logits for part in ids.split([8, 1, 3], dim=1)], dim=1)
        return float((fed - full).abs().max())

    assert off() < 1e-5
    monkeypatch.setattr(PassCache, "get_seq_length", lambda self, layer_idx=0: self.whole.get_seq_length(layer_idx))
    assert off() > 1e-3


def test_a_family_with_a_cache_of_its_own_is_refused(decoder: Callable[..., Any]):
    model = decoder("minimax", layer_types=["full_attention", "linear_attention"], num_local_experts=2)
    for modifier in (TrolConfig(layers=(0,)), PhantomConfig(layers=(0,))):
        with pytest.raises(ValueError, match=r"MiniMaxForCausalLM has a cache of its own, expected .*; graft another"):
            graft(model, [modifier])


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


@torch.no_grad()
def test_every_question_to_the_cache_is_about_the_slot_of_the_pass(decoder: Callable[..., Any]):
    model, asked = graft(decoder("llama"), [TrolConfig(gate_bias=0.1)]), []

    class Asking(torch.nn.Module):
        def __init__(self, own: torch.nn.Module):
            super().__init__()
            self.own = own

        def forward(self, *args: Any, past_key_values: Any = None, **kwargs: Any) -> Any:
            found = [past_key_values.get_seq_length(0), int(past_key_values.get_query_offset(0))]
            asked.append((type(past_key_values) is PassCache, *found, past_key_values.get_mask_sizes(1, 0)[0]))
            return self.own(*args, past_key_values=past_key_values, **kwargs)

    model.model.layers[0].self_attn = Asking(model.model.layers[0].self_attn)
    model(torch.arange(3, 9)[None], use_cache=True)
    # before the first pass nothing is there, before the second there are six keys, of the first, in another slot
    assert asked == [(False, 0, 0, 1), (True, 0, 0, 1)]
