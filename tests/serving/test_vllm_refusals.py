"""What vLLM must not serve is refused before anything is built, in one line. Needs no vLLM."""

from __future__ import annotations

from types import SimpleNamespace

import jinja2
import pytest
from transformers import AutoConfig

from phantrol.modifiers.base import config_to_dict
from phantrol.modifiers.partial_lora import PartialLoraConfig
from phantrol.modifiers.phantom import PhantomConfig
from phantrol.modifiers.trol import TrolConfig
from phantrol.serving.vllm.chat import flattening_template
from phantrol.serving.vllm.first_token import OPTION, check_first_token, settle_first_token
from phantrol.serving.vllm.servable import refuse_settings, servable_modifiers


def text_config(*modifiers: object) -> SimpleNamespace:
    return SimpleNamespace(modifiers=[config_to_dict(one) for one in modifiers])


def vllm_config(**changes: object) -> SimpleNamespace:
    changed = {
        "lora_config": None,
        "speculative_config": None,
        "kv_transfer_config": None,
        "pipeline": 1,
        "embeds": False,
        **changes,
    }
    parallel = SimpleNamespace(pipeline_parallel_size=changed.pop("pipeline"))
    model = SimpleNamespace(
        is_moe=False,
        enable_prompt_embeds=changed.pop("embeds"),
        max_model_len=changed.pop("longest", 4096),
        hf_text_config=AutoConfig.for_model(
            **{"model_type": "llama", "max_position_embeddings": 4096, **changed.pop("decoder", {})}
        ),
    )
    return SimpleNamespace(parallel_config=parallel, model_config=model, **changed)


def test_what_vllm_can_serve_is_told_by_its_configuration():
    configs = servable_modifiers(text_config(TrolConfig(), PhantomConfig()))
    assert [type(config) for config in configs] == [TrolConfig, PhantomConfig]
    assert servable_modifiers(SimpleNamespace(modifiers=None)) == []


@pytest.mark.parametrize("modifiers", [(), (TrolConfig(),)])
def test_a_decoder_that_looks_up_the_token_in_each_layer(modifiers: tuple[object, ...]):
    config = text_config(*modifiers)
    config.hidden_size_per_layer_input, config.model_type = 8, "gemma3n_text"
    with pytest.raises(
        ValueError, match="each layer of gemma3n_text looks up the token beside its embedding"
    ) as caught:
        servable_modifiers(config)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("modifier", "words"),
    [
        (TrolConfig(tokens="prompt"), "tokens='prompt'.*expected tokens='all'"),
        (PhantomConfig(anchors=2), "anchors=2.*expected anchors=1"),
        (PartialLoraConfig(), "'partial_lora'.*expected 'trol' or 'phantom'"),
    ],
)
def test_modifiers_that_vllm_cannot_serve_are_refused(modifier: object, words: str):
    with pytest.raises(ValueError, match=words):
        servable_modifiers(text_config(modifier))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"pipeline": 2}, "pipeline_parallel_size is 2.*--tensor-parallel-size"),
        ({"lora_config": object()}, "--enable-lora"),
        ({"speculative_config": object()}, "speculative"),
        ({"kv_transfer_config": object()}, "--kv-transfer-config"),
        ({"embeds": True}, "--enable-prompt-embeds"),
    ],
)
def test_settings_under_which_a_method_would_not_be_itself_are_refused(changes: dict, words: str):
    refuse_settings(vllm_config(), [PhantomConfig()])
    with pytest.raises(ValueError, match=words):
        refuse_settings(vllm_config(**changes), [PhantomConfig()])


LONGROPE = {
    "model_type": "phi3",
    "rope_parameters": {"rope_type": "longrope", "rope_theta": 1e4, "factor": 4.0}
    | {"short_factor": [1.0] * 48, "long_factor": [2.0] * 48},
    "original_max_position_embeddings": 1024,
}


def test_a_length_at_which_one_request_would_rotate_others_is_refused():
    dynamic = {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}}
    yarn = {"rope_parameters": {"rope_type": "yarn", "factor": 2.0, "rope_theta": 1e4}}
    for decoder, longest in ((LONGROPE, 1024), (dynamic, 4096)):
        refuse_settings(vllm_config(decoder=decoder, longest=longest), [])
        words = (
            f"max_model_len is {longest + 1}.*more than {longest} tokens.*--max-model-len {longest}, or else `phantrol"
        )
        with pytest.raises(ValueError, match=words):
            refuse_settings(vllm_config(decoder=decoder, longest=longest + 1), [])
    refuse_settings(vllm_config(decoder=yarn, longest=8192), [])


def test_a_plain_model_may_have_adapters():
    refuse_settings(vllm_config(lora_config=object()), [])


def test_only_a_model_with_phantom_asks_how_prompts_begin():
    check_first_token(SimpleNamespace(hf_config=SimpleNamespace()), [5, 6])
    check_first_token(SimpleNamespace(hf_config=SimpleNamespace(**{OPTION: 5})), [5, 6])


def test_a_prompt_that_begins_with_a_picture_has_no_first_token():
    config = SimpleNamespace(image_token_id=7, **{OPTION: 7})
    with pytest.raises(ValueError, match="begin with a picture"):
        settle_first_token(SimpleNamespace(hf_config=config))


def test_a_chat_template_of_strings_takes_parts_and_spells_what_users_type():
    inner = "{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}{% endfor %}"
    template = jinja2.Template(flattening_template(inner, "<image>", "(<image>)"))
    parts = [{"type": "image"}, {"type": "text", "text": "an <image> typed"}]
    chat = [{"role": "system", "content": "no <image>"}, {"role": "user", "content": parts}]
    assert template.render(messages=chat) == "[system]no < image>[user](<image>)an < image> typed"
