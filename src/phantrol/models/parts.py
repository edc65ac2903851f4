"""The parts of a new model: opened from a folder, the hub or a description, with errors that name the part."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PretrainedConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.image_processing_auto import get_image_processor_config

from phantrol.modifiers.graft import load_grafted, modifier_configs, same_modifiers
from phantrol.tables import first_line

Part = str | Path | PretrainedConfig | Mapping[str, Any]


def part_configuration(name: str, part: Part) -> PretrainedConfig:
    """Return a configuration that the new model may write into: the caller's own stays as it was.

    name  of the part, for errors
    Raises ValueError if the part cannot be opened, or describes nothing that transformers knows.
    """
    if isinstance(part, PretrainedConfig):
        return copy.deepcopy(part)
    if not isinstance(part, Mapping):
        return _opened(name, part, AutoConfig.from_pretrained)
    kind = part.get("model_type")
    if kind not in CONFIG_MAPPING:
        near = get_close_matches(str(kind), CONFIG_MAPPING.keys(), 1) or ["llama"]
        raise ValueError(f"{name}: got model_type {kind!r}, expected one that transformers knows, such as {near[0]!r}")
    try:
        return AutoConfig.for_model(**part)
    except Exception as error:  # each of its fields is checked in its own way
        raise ValueError(
            f"{name}: no configuration of {kind}: {_reason(error)}; mend or leave out that field"
        ) from error


def open_tokenizer(tokenizer: Any, text: Part, image_token: str) -> Any:
    """Return a tokenizer with a chat template, the image token and a token for padding.

    tokenizer  itself, its folder or hub id, or None: the one that comes with the decoder `text`
    Raises ValueError if there is none, or it has no chat template.
    """
    if tokenizer is None:
        if not isinstance(text, str | Path):
            raise ValueError("a decoder from a configuration brings no tokenizer: pass tokenizer=...")
        tokenizer = text
    if isinstance(tokenizer, str | Path):
        tokenizer = _opened("tokenizer", tokenizer, AutoTokenizer.from_pretrained)
    if tokenizer.chat_template is None:
        kind = type(tokenizer).__name__
        raise ValueError(f"{kind} has no chat template: set tokenizer.chat_template, or name a tokenizer that has one")
    if image_token not in tokenizer.get_vocab():
        tokenizer.add_special_tokens({"extra_special_tokens": [image_token]}, replace_extra_special_tokens=False)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def embedding_rms(text: Part, text_config: PretrainedConfig, opener: Callable[..., Any]) -> float:
    """Return the root mean square of the decoder's word embeddings, or of the draw that they come from."""
    if not isinstance(text, str | Path):
        return float(text_config.initializer_range)  # of the normal draw that the embeddings come from
    weight = _opened("text", text, opener).get_input_embeddings().weight
    return float(weight.detach().float().square().mean().sqrt())


def decoder_opener(text: Part, text_config: PretrainedConfig, modifiers: Sequence[Any]) -> Callable[..., Any]:
    """Return what opens the weights of the decoder `text`, and those of its grafts where it was saved with some.

    Raises ValueError if those are not the modifiers that are asked for: what they learnt would be left out unsaid.
    """
    saved = modifier_configs(text_config) if isinstance(text, str | Path) else []
    if not saved:
        return AutoModelForCausalLM.from_pretrained
    if not same_modifiers(saved, modifiers):
        raise ValueError(
            f"text: {text} holds a decoder with {saved} grafted, got {list(modifiers)}: pass the same "
            "modifiers, or the decoder that it was made of"
        )
    return load_grafted


def part_normalisation(vision: Part, given: Collection[str] = ()) -> dict[str, list[float]]:
    """Return the image_mean and image_std, of pixels in [0, 1], that a pretrained tower was trained with.

    They are read from the image processor's configuration beside its weights, but for those that are given. {} for a
    tower that is drawn at random, and, with a warning, where nothing names them. Raises ValueError if that
    configuration is broken.
    """
    if not isinstance(vision, str | Path):
        return {}
    read = _opened("vision", vision, lambda where: dict(get_image_processor_config(where)))
    wanted = [name for name in ("image_mean", "image_std") if name not in given]
    said = {"image_mean": 0.0, "image_std": 1.0} if read.get("do_normalize") is False else read
    named = {name: said[name] for name in wanted if said.get(name) is not None}
    if missing := [name for name in wanted if name not in named]:
        warnings.warn(
            f"vision: {vision} names no {' and '.join(missing)} in a preprocessor_config.json here: 0.5 is taken where "
            "it is not given; pass what it was trained with",
            stacklevel=3,
        )
    try:
        # what it makes of a white pixel, 255, before it normalises: 1, but for those that leave bytes or go up to 2
        white = 255 * (1 if read.get("do_rescale") is False else float(read.get("rescale_factor") or 1 / 255))
        channels = {name: [v] * 3 if isinstance(v, int | float) else v for name, v in named.items()}
        found = {name: [value / white for value in values] for name, values in channels.items()}
        if any(len(values) != 3 for values in found.values()):
            raise ValueError
    except (TypeError, ValueError):
        raise ValueError(
            f"vision: the image processor of {vision} has {named}: expected 3 numbers, of red, green and blue; pass "
            "image_mean and image_std"
        ) from None
    return found


def load_part(name: str, module: Any, part: Part, opener: Callable[..., Any], dtype: torch.dtype) -> None:
    """Copy pretrained weights into a part of the new model; rows for added tokens keep their start values.

    opener  such as AutoModel.from_pretrained
    Raises ValueError if the part has no weights, or others than the module.
    """
    if not isinstance(part, str | Path):
        return
    source = _opened(name, part, opener, dtype=dtype)
    source = getattr(source, "vision_model", source)
    weights, target = source.state_dict(), module.state_dict()
    for key, tensor in weights.items():
        if key not in target:
            raise ValueError(f"{part} has a tensor {key} that the new model lacks")
        room = target[key]
        if room.shape == tensor.shape:
            room.copy_(tensor)
        elif room.shape[1:] == tensor.shape[1:] and room.shape[0] > tensor.shape[0]:
            room[: len(tensor)].copy_(tensor)
        else:
            raise ValueError(f"{key}: {part} has shape {tuple(tensor.shape)}, the new model {tuple(room.shape)}")


def _opened(name: str, where: str | Path, opener: Callable[..., Any], **options: Any) -> Any:
    if not isinstance(where, str | Path):  # a model is printed over many lines
        got = type(where).__name__
        raise ValueError(f"{name}: got {got}, expected a folder, a hub id, or a configuration with its model_type")
    try:
        return opener(where, **options)
    except MemoryError:
        raise
    except OSError as error:
        raise ValueError(
            f"{name}: {where} cannot be opened: {first_line(error)} Expected a folder that save_pretrained wrote, or "
            "the id of a hub model: check how it is spelled, and the network"
        ) from error
    except Exception as error:  # safetensors, tokenizers and json each have their own kind
        raise ValueError(f"{name}: {where} is no such part, or broken: {_reason(error)}; copy it again") from error


def _reason(error: Exception) -> str:
    """What an error says, in one line; where transformers has checked a field, what it says of that."""
    _, found, of_a_field = str(error).partition("TypeError: ")
    return " ".join((of_a_field if found else f"{type(error).__name__}: {error}").split())[:200]
