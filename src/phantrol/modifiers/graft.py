"""`graft(model, modifiers)`: any Hugging Face causal decoder, text-only or inside our model, learns to look twice.

B batch, N tokens of this forward pass.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, DynamicCache, PreTrainedModel
from transformers.cache_utils import Cache

from phantrol.modifiers.base import (
    LayerModifier,
    check_list,
    config_from_dict,
    config_to_dict,
    mix_in,
    mixed_class,
    modifier_of,
)
from phantrol.modifiers.image_rows import image_rows
from phantrol.modifiers.real_tokens import check_shared_anchors
from phantrol.modifiers.sequence import SequenceStep, sequence_state
from phantrol.modifiers.step import end_known_prompt, next_step, token_positions
from phantrol.ops.blocks import Blocks, blocks_of_positions
from phantrol.tables import first_line


class GraftedLayer:
    """Innermost mixin of each decoder layer: ends the keyword `sequence`, which the layer's own class does not know."""

    def forward(self, *args: Any, sequence: SequenceStep | None = None, **kwargs: Any) -> Any:
        return super().forward(*args, **kwargs)


class GraftedDecoder:
    """Mixed in before a decoder: works out what its layers must know about their sequences, and passes it to them."""

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | dict | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        prompt_length: int | None = None,
        prompt_mask: Tensor | None = None,
        image_mask: Tensor | None = None,
        blocks: Blocks | None = None,
        **kwargs: Any,
    ) -> Any:
        """As the decoder's own forward pass, and:

        prompt_length  how many tokens of a row, padding included, are its prompt (`generate` passes it)
        prompt_mask    [B, N] True on tokens of the prompt, where they lie otherwise, as in training
        Both matter to modifiers that treat prompt and answer differently. Without either, a token that comes alone
        after others is of an answer, and all others are of a prompt.
        image_mask     [B, N] True on tokens of this pass that stand for image features; matters to a partial LoRA
        blocks         the sequences of one row, without padding, each with an anchor of its own (see ops/blocks.py)

        Raises ValueError for blocks and a cache: what is read in one piece is not gone on with; and for the paged cache
        of transformers' continuous batching.
        """
        if kwargs.get("cache") is not None:  # its attention writes by layer, so that passes would share a slot
            raise _paged_cache()
        for modifier in self.modifiers:
            modifier.prepare(self)
        tokens = input_ids if inputs_embeds is None else inputs_embeds
        if use_cache is None:
            use_cache = getattr(self.config, "use_cache", True) and not self.training
        if use_cache and past_key_values is None:
            past_key_values = DynamicCache(config=self.config)
        if self.training and self.gradient_checkpointing:
            use_cache, past_key_values = False, None  # as the layers' own checkpointing does
        if blocks is not None:
            if past_key_values is not None or use_cache:
                raise ValueError("got blocks and a cache, expected use_cache=False: a row of several sequences ends")
            kwargs["blocks"] = blocks  # the attention function needs them too
        state = None
        if past_key_values is not None:
            state = sequence_state(past_key_values, self.modifiers, self.config.num_hidden_layers)
        if position_ids is None and isinstance(attention_mask, Tensor) and attention_mask.ndim == 2:
            # padding before a row must not turn its rotary angles: count real tokens only
            position_ids = token_positions(attention_mask, past_key_values, tokens.shape[1])
        prompt_only = is_prompt_only(self.modifiers)
        prompt = (prompt_length, prompt_mask) if prompt_only else None
        span = max(modifier.anchor_span for modifier in self.modifiers)
        if blocks is not None and span > 1:
            for _, mask in blocks:
                check_shared_anchors(mask, 0, torch.zeros(1, dtype=torch.long, device=tokens.device), span)
        if span and blocks is None and position_ids is not None and attention_mask is None and past_key_values is None:
            blocks = blocks_of_positions(position_ids, tokens.shape[0])  # attention has transformers' own mask of them
        step = next_step(state, past_key_values, tokens, attention_mask, prompt, span)
        step = dataclasses.replace(step, blocks=blocks)
        if any(modifier.image_only for modifier in self.modifiers):
            step = dataclasses.replace(step, image_rows=image_rows(image_mask, *tokens.shape[:2]))
        kwargs.pop("logits_to_keep", None)  # Gemma 4 would drop tokens within; its head drops them after
        outputs = super().forward(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            sequence=step,
            **kwargs,
        )
        if state is not None and prompt_only and prompt_length is not None and not state.prompt_ended:
            end_known_prompt(past_key_values, state, prompt_length)
        return outputs


class GraftedGeneration:
    """Mixed in before a model that generates: tells its decoder where the prompt ends.

    Raises ValueError for an assistant (speculative decoding) that treats prompt and answer differently: after each
    round it takes back tokens, and the last of the prompt among them. And for transformers' continuous batching, whose
    thread would swallow what the decoder raises.
    """

    def generate(self, inputs: Tensor | None = None, *args: Any, **kwargs: Any) -> Any:
        prompt = next(
            (given for given in (kwargs.get("inputs_embeds"), kwargs.get("input_ids"), inputs) if given is not None),
            None,
        )
        if prompt is not None and is_prompt_only(grafted_modifiers(self)):
            length, mask = prompt.shape[1], kwargs.get("attention_mask")
            if kwargs.get("past_key_values") is not None and isinstance(mask, Tensor) and mask.ndim == 2:
                length = max(length, mask.shape[1])  # of ids that are new alone: the mask is of those in the cache too
            kwargs.setdefault("prompt_length", length)
        return super().generate(inputs, *args, **kwargs)

    def get_decoder(self) -> nn.Module:
        return _with_layers(super().get_decoder())

    def init_continuous_batching(self, *args: Any, **kwargs: Any) -> Any:
        if grafted_modifiers(self):
            raise _paged_cache()
        return super().init_continuous_batching(*args, **kwargs)

    def _get_candidate_generator(
        self, *args: Any, model_kwargs: dict[str, Any], assistant_model: Any = None, **kwargs: Any
    ) -> Any:
        drafts = self if kwargs["generation_config"].assistant_early_exit is not None else assistant_model
        if drafts is not None and is_prompt_only(grafted_modifiers(drafts)):
            raise ValueError(
                "got an assistant whose prompt alone traverses, which cannot take tokens back: expected "
                'TrolConfig(tokens="all"), or another assistant'
            )
        own = {name: value for name, value in model_kwargs.items() if name != "prompt_length"}  # it may not know it
        return super()._get_candidate_generator(*args, model_kwargs=own, assistant_model=assistant_model, **kwargs)

    def prepare_inputs_for_generation(
        self,
        input_ids: Tensor,
        *args: Any,
        inputs_embeds: Tensor | None = None,
        prompt_length: int | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        # `generate` looks for inputs_embeds in this signature
        inputs = super().prepare_inputs_for_generation(input_ids, *args, inputs_embeds=inputs_embeds, **kwargs)
        return inputs if prompt_length is None else {**inputs, "prompt_length": prompt_length}


def graft(model: PreTrainedModel, modifiers: Sequence[Any]) -> PreTrainedModel:
    """Put modifiers on every decoder layer of `model`, in place, and return it.

    model      a Hugging Face causal language model (`AutoModelForCausalLM`), one of ours, or a decoder alone; its
               configuration says from then on what is grafted: give another model a copy of it
    modifiers  configurations, for example [TrolConfig(), PhantomConfig()], in any order
    Raises ValueError for what is no such model, one that is grafted already or that a device map has spread, and a
    configuration that does not fit it.
    """
    if not hasattr(model, "get_decoder"):
        raise ValueError(
            f"got {type(model).__name__}, expected a model as AutoModelForCausalLM.from_pretrained loads it"
        )
    check_list(modifiers)
    decoder = _with_layers(model.get_decoder())
    layers = getattr(decoder, "layers", None)
    if layers is None:
        raise ValueError(
            f"{type(decoder).__name__} has no `layers`: expected a Hugging Face decoder with a list of layers "
            "of that name; graft another decoder, such as Llama or Qwen"
        )
    if isinstance(decoder, GraftedDecoder):
        raise ValueError("the model is grafted already: graft a fresh one, with all modifiers in one list")
    if not modifiers:
        return model
    if not getattr(model, "_supports_default_dynamic_cache", lambda: True)():
        raise ValueError(
            f"{type(model).__name__} has a cache of its own, expected one that takes transformers' DynamicCache, where "
            "each pass has its slots; graft another decoder, such as Llama or Qwen"
        )
    own = [type(part).__name__ for part in (decoder, *layers) if "forward" in vars(part)]
    if own:  # accelerate's hooks call what was there before them
        raise ValueError(
            f"got {own[0]} with a forward pass of its own, which would go past the graft, as a device map over devices "
            "or a disk gives to each layer: expected a model without; graft it before, save_pretrained it, and open it "
            "with load_grafted(folder, device_map=...)"
        )
    text_config = decoder.config
    grafts = sorted((modifier_of(config, len(layers)) for config in modifiers), key=lambda modifier: modifier.depth)
    if len({type(modifier) for modifier in grafts}) < len(grafts):
        raise ValueError(f"a modifier is named twice in {list(modifiers)}: expected each once, with its `layers`")
    for layer_idx, layer in enumerate(layers):
        for modifier in grafts:
            if layer_idx in modifier.layers:
                modifier.check(layer)
    for modifier in grafts:
        modifier.check_decoder(layers)
    for layer_idx, layer in enumerate(layers):
        plain = type(layer).__name__
        mix_in(layer, GraftedLayer)
        for modifier in reversed(grafts):
            if layer_idx in modifier.layers:
                modifier.attach(layer, layer_idx, text_config)
                mix_in(layer, modifier.mixin)
        for part in (model, decoder):  # sharding and device maps look layers up by class name
            known = list(part._no_split_modules or [])
            if plain in known and type(layer).__name__ not in known:
                part._no_split_modules = [*known, type(layer).__name__]
    decoder.modifiers = grafts
    text_config.modifiers = [config_to_dict(config) for config in modifiers]
    mix_in(decoder, GraftedDecoder)
    for part in model.modules():  # of a model of ours the language model too
        generates = part is not decoder and isinstance(part, PreTrainedModel) and part.can_generate()
        if generates and not isinstance(part, GraftedGeneration) and _with_layers(part.get_decoder()) is decoder:
            mix_in(part, GraftedGeneration)
    return model


def load_grafted(folder: str | Path, **kwargs: Any) -> PreTrainedModel:
    """Load a grafted causal language model that `save_pretrained` wrote. `kwargs` as for `from_pretrained`.

    Raises ValueError if the folder holds no grafted model, or if a tensor is missing or left over.
    """
    try:
        config = AutoConfig.from_pretrained(folder)
    except (OSError, ValueError) as error:
        raise ValueError(f"{folder} holds no grafted model: {first_line(error)}; name one that was saved") from None
    if not getattr(config, "modifiers", None):
        raise ValueError(f"{folder} names no modifiers in its config.json: load it with AutoModelForCausalLM")
    if type(config) not in AutoModelForCausalLM._model_mapping:
        raise ValueError(f"{folder} is no causal language model but {config.model_type}: load it with phantrol.load")
    base = AutoModelForCausalLM._model_mapping[type(config)]
    model, report = _graft_at_birth(base).from_pretrained(folder, config=config, output_loading_info=True, **kwargs)
    wrong = {key: sorted(report[key]) for key in ("missing_keys", "unexpected_keys") if report[key]}
    if wrong:
        raise ValueError(f"{folder} does not fit its config.json: {wrong}; save it again with save_pretrained")
    return model


def modifier_configs(config: Any) -> list[Any]:
    """Return the configurations of the modifiers that a text configuration names."""
    return [config_from_dict(options) for options in getattr(config, "modifiers", None) or []]


def same_modifiers(one: Sequence[Any], other: Sequence[Any]) -> bool:
    """Return whether both lists of configurations graft the same, in any order: lists and tuples of layers are alike,
    and so are 1 and 1.0."""
    first, second = ([config_from_dict(config_to_dict(config)) for config in each] for each in (one, other))
    return len(first) == len(second) and all(config in second for config in first)


def _graft_at_birth(base: type) -> type:
    """A class whose instances are grafted as they are made, so that `from_pretrained` finds every parameter."""

    def __init__(self: Any, config: Any, *args: Any, **kwargs: Any) -> None:
        base.__init__(self, config, *args, **kwargs)
        graft(self, modifier_configs(config))
        self.__class__ = mixed_class(GraftedGeneration, base)

    return type(base.__name__, (base,), {"__init__": __init__, "__module__": base.__module__})


def grafted_modifiers(model: nn.Module) -> list[LayerModifier]:
    """Return the modifiers of a grafted decoder, or an empty list."""
    return getattr(_with_layers(model.get_decoder()), "modifiers", [])


def is_prompt_only(modifiers: Sequence[LayerModifier]) -> bool:
    """Return whether later passes of one of them serve the prompt alone."""
    return any(modifier.prompt_only for modifier in modifiers)


def _with_layers(decoder: nn.Module) -> nn.Module:
    return decoder if hasattr(decoder, "layers") else getattr(decoder, "model", decoder)  # Llama 4 returns itself


def _paged_cache() -> ValueError:
    return ValueError(
        "got the paged cache of transformers' continuous batching, expected past_key_values, where each pass and what "
        "a modifier remembers have their own slots: answer many requests with phantrol.Engine or `phantrol serve`"
    )
