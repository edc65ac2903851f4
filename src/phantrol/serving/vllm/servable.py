"""What vLLM can serve of phantrol, decided from configurations alone, before anything is built."""

from __future__ import annotations

from typing import Any

from phantrol.models.longrope import longest_undisturbed
from phantrol.modifiers.base import config_to_dict
from phantrol.modifiers.graft import modifier_configs
from phantrol.modifiers.phantom import PhantomConfig
from phantrol.modifiers.trol import TrolConfig

INSTEAD = "`phantrol serve` serves it as it is"


def servable_modifiers(text_config: Any) -> list[Any]:
    """Return the configurations of a decoder's modifiers, which vLLM can serve.

    Raises ValueError, in one line, for a modifier or an option of one that it cannot, and for a decoder that wants more
    of a token than its embedding.
    """
    if getattr(text_config, "hidden_size_per_layer_input", None):
        raise ValueError(
            f"each layer of {text_config.model_type} looks up the token beside its embedding, and vLLM hands on "
            f"embeddings alone: expected another decoder; {INSTEAD}"
        )
    configs = modifier_configs(text_config)
    for config in configs:
        if not isinstance(config, TrolConfig | PhantomConfig):
            name = config_to_dict(config)["name"]
            raise ValueError(f"vLLM cannot serve the modifier {name!r}: expected 'trol' or 'phantom'; {INSTEAD}")
        if isinstance(config, TrolConfig) and config.tokens != "all":
            raise ValueError(
                f"vLLM cannot serve TroL with tokens={config.tokens!r}, since it computes prompts and answers in one "
                f"batch: expected tokens='all', to be chosen before training; {INSTEAD}"
            )
        if isinstance(config, PhantomConfig) and config.anchors > 1:
            raise ValueError(
                f"vLLM cannot serve Phantom with anchors={config.anchors}, since those after the first token depend on "
                f"the prompt: expected anchors=1, to be chosen before training; {INSTEAD}"
            )
    return configs


def refuse_settings(vllm_config: Any, modifiers: list[Any]) -> None:
    """Raise ValueError, in one line, for a setting of vLLM under which the modifiers would not be what they are."""
    parallel, model = vllm_config.parallel_config, vllm_config.model_config
    if parallel.pipeline_parallel_size > 1:
        raise ValueError(
            f"pipeline_parallel_size is {parallel.pipeline_parallel_size}: expected 1 for a phantrol model; split it "
            "with --tensor-parallel-size"
        )
    if getattr(model, "is_moe", False):
        raise ValueError(
            "the decoder is a mixture of experts, which phantrol does not serve under vLLM: expected a "
            f"dense decoder; {INSTEAD}"
        )
    longest = longest_undisturbed(model.hf_text_config)
    if longest is not None and model.max_model_len > longest:
        raise ValueError(
            f"max_model_len is {model.max_model_len}, and a request of more than {longest} tokens would rotate the "
            f"others of its batch too: expected at most {longest}; give --max-model-len {longest}, or else {INSTEAD}"
        )
    if not modifiers:
        return
    if vllm_config.lora_config is not None:
        raise ValueError(
            "--enable-lora with a grafted model: expected no adapters, since a second pass would not see them; merge "
            "the adapter into the weights first"
        )
    if vllm_config.speculative_config is not None:
        raise ValueError("speculative decoding with a grafted model was never tried: expected none; leave it out")
    if vllm_config.kv_transfer_config is not None:
        raise ValueError(
            "a KV cache that moves between servers, with a grafted model, was never tried: expected none; "
            "leave --kv-transfer-config out"
        )
    if model.enable_prompt_embeds and any(isinstance(config, PhantomConfig) for config in modifiers):
        raise ValueError(
            "--enable-prompt-embeds with Phantom: expected prompts of tokens, since the first token decides what "
            "Phantom adds; leave it out"
        )
