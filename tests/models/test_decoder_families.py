"""Behind pictures each family of decoders is what it is alone: mixtures of experts, decoders that look up the token in
every layer, and those whose head finds the decoder elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from inspect import signature
from typing import Any

import pytest
import torch
from transformers import AutoConfig

import phantrol
from phantrol.models.configuration import PhantrolConfig, StemVisionConfig
from phantrol.models.memory import Prompt, phases
from phantrol.models.modeling import PhantrolForConditionalGeneration
from phantrol.modifiers.base import config_to_dict

SIZES = dict(vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4)
SIZES |= dict(num_key_value_heads=2, head_dim=8, pad_token_id=0, bos_token_id=1, eos_token_id=2)
EXPERTS = dict(num_experts=4, num_local_experts=4, num_experts_per_tok=2, moe_intermediate_size=16)
PER_LAYER = dict(hidden_size_per_layer_input=8, vocab_size_per_layer_input=64, num_kv_shared_layers=0)
KINDS = ["sliding_attention", "full_attention"]
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {},
    "opt": dict(ffn_dim=48, word_embed_proj_dim=32),
    "mixtral": EXPERTS,
    "qwen3_moe": dict(**EXPERTS, mlp_only_layers=[]),
    "olmoe": EXPERTS,
    "gpt_oss": EXPERTS,
    "gemma3n_text": dict(**PER_LAYER, layer_types=KINDS, laurel_rank=4, altup_num_inputs=2),
    "gemma4_text": dict(**PER_LAYER, layer_types=KINDS, num_global_key_value_heads=2, global_head_dim=8),
}  # fmt: skip
LOOK_UP = ("gemma3n_text", "gemma4_text")
IMAGE = 63


@pytest.fixture
def model_of() -> Callable[..., Any]:
    def build(family: str, modifiers: Any = ()) -> Any:
        torch.manual_seed(0)
        text = AutoConfig.for_model(family, **SIZES, **FAMILIES[family])
        text.modifiers = [config_to_dict(modifier) for modifier in modifiers]
        stem = [[8, 3, 2, 1], [16, 3, 2, 1], [32, 3, 2, 1]]
        vision = StemVisionConfig(image_size=16, stem=stem, num_hidden_layers=1, num_attention_heads=2)
        model = PhantrolForConditionalGeneration(PhantrolConfig(text, vision, IMAGE, image_px=16, image_grid=2))
        for name, parameter in model.named_parameters():
            if not name.startswith("vision_tower"):
                parameter.data += 0.1 * torch.randn_like(parameter)
        return model.eval()

    return build


def inputs() -> dict[str, torch.Tensor]:
    ids = torch.arange(3, 23).reshape(2, 10)
    ids[0, 1:5] = IMAGE
    return {"input_ids": ids, "pixel_values": torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(1))}


@pytest.mark.parametrize("modifiers", [(), (phantrol.TrolConfig(gate_bias=0.2), phantrol.PhantomConfig())], ids=str)
@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_text_alone_is_the_decoder_s_own(family: str, modifiers: Any, model_of: Callable[..., Any]):
    model, ids = model_of(family, modifiers), inputs()["input_ids"][1:]
    torch.testing.assert_close(model(ids).logits, model.language_model(ids).logits, rtol=0, atol=0)


@pytest.mark.parametrize("family", FAMILIES)
def test_labels_give_the_loss_of_the_logits(family: str, model_of: Callable[..., Any]):
    model, given = model_of(family, [phantrol.TrolConfig()]), inputs()
    labels = given["input_ids"].clone()
    labels[:, :6] = -100
    told = model(**given, labels=labels)
    logits = model(**given).logits[:, :-1].flatten(0, 1)
    torch.testing.assert_close(told.loss, torch.nn.functional.cross_entropy(logits, labels[:, 1:].flatten()))
    told.loss.backward()
    assert model.projector.linear_2.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("family", [family for family in FAMILIES if FAMILIES[family] is EXPERTS or "moe" in family])
def test_a_mixture_s_loss_of_its_own_is_refused(family: str, model_of: Callable[..., Any]):
    """The loss is the cross entropy alone, so training with what balances experts would leave it out in silence."""
    model, ids = model_of(family, [phantrol.TrolConfig()]).train(), inputs()["input_ids"][1:]
    model(ids, labels=ids)
    with pytest.raises(ValueError, match="got output_router_logits=True in training, but the loss has no part that"):
        model(ids, labels=ids, output_router_logits=True)
    model.config.text_config.output_router_logits = True
    with pytest.raises(ValueError, match="expected False, in text_config too"):
        model(ids, labels=ids)
    assert torch.isfinite(model.eval()(ids, labels=ids).loss)


@pytest.mark.parametrize("family", LOOK_UP)
@torch.no_grad()
def test_what_a_layer_looks_up_is_asked_for(family: str, model_of: Callable[..., Any]):
    model, ids = model_of(family), inputs()["input_ids"][1:]
    embeddings = model.get_input_embeddings()(ids)
    with pytest.raises(ValueError, match=r"got inputs_embeds alone, but each layer of .* looks up the token as well"):
        model(inputs_embeds=embeddings)
    look_up = model.get_decoder().get_per_layer_inputs
    looked_up = look_up(ids, *[None] * (len(signature(look_up).parameters) - 1))
    given = model(inputs_embeds=embeddings, per_layer_inputs=looked_up).logits
    torch.testing.assert_close(given, model(ids).logits, rtol=0, atol=0)
    without = model(inputs_embeds=embeddings, per_layer_inputs=torch.zeros_like(looked_up)).logits
    assert (without - given).abs().max() > 1e-3, "the control: the tables matter"


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_an_answer_with_a_cache_is_the_answer_without(family: str, model_of: Callable[..., Any]):
    model, given = model_of(family, [phantrol.TrolConfig(gate_bias=0.2), phantrol.PhantomConfig()]), inputs()
    options = dict(max_new_tokens=4, min_new_tokens=4, do_sample=False)
    with_cache, without = (model.generate(**given, **options, use_cache=use_cache) for use_cache in (True, False))
    assert torch.equal(with_cache, without)


@torch.no_grad()
def test_the_vocabulary_can_grow(model_of: Callable[..., Any]):
    model = model_of("llama")
    ids = inputs()["input_ids"][1:]
    before = model(ids).logits
    model.resize_token_embeddings(70)
    assert model.config.text_config.vocab_size == 70
    assert model.get_output_embeddings().weight.shape == model.get_input_embeddings().weight.shape == (70, 32)
    torch.testing.assert_close(model(ids).logits[..., :64], before, rtol=0, atol=0)


@pytest.mark.parametrize("family", [*LOOK_UP, "qwen3_moe"])
def test_memory_is_told(family: str, model_of: Callable[..., Any]):
    found = phases(model_of(family, [phantrol.TrolConfig()]).config, Prompt(text_tokens=8, images=1, answer_tokens=3))
    assert [phase.name for phase in found] == ["seeing the pictures", "reading the prompt", "writing the answer"]
    assert all(phase.activations > 0 for phase in found)
