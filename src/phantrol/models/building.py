"""`build` makes a new model from two parts, `load` opens one that was saved; both return (model, processor)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from inspect import signature
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModel, PretrainedConfig

from phantrol.models.configuration import PhantrolConfig
from phantrol.models.difference import whole_model
from phantrol.models.image_processing import PhantrolImageProcessor
from phantrol.models.modeling import PhantrolForConditionalGeneration
from phantrol.models.parts import (
    Part,
    decoder_opener,
    embedding_rms,
    load_part,
    open_tokenizer,
    part_configuration,
    part_normalisation,
)
from phantrol.models.processing import PhantrolProcessor
from phantrol.models.quantised import FLOATS, loading_options
from phantrol.models.released.catalogue import release_named
from phantrol.models.vision_sizes import measure_grid
from phantrol.modifiers.base import check_list, config_to_dict, modifier_of
from phantrol.tables import first_line

WHOLE = ("config.json", "processor_config.json", "tokenizer.json")  # a saved model has these, and its weights


def build(
    text: Part,
    vision: Part,
    modifiers: Sequence[Any] = (),
    tokenizer: Any = None,
    image_px: int | None = None,
    unshuffle: int = 1,
    projector_norm: bool = True,
    match_embeddings: bool = False,
    feature_positions: bool = False,
    image_token: str = "<image>",
    image_prefix: str = "",
    image_suffix: str = "",
    dtype: torch.dtype | str = torch.float32,
    **image_options: Any,
) -> tuple[PhantrolForConditionalGeneration, PhantrolProcessor]:
    """Return a new vision-language model and its processor.

    text, vision   each a pretrained folder or hub id, whose weights are loaded, or a configuration, drawn at random,
                   which may be a mapping with its model_type
    modifiers      what to graft on the decoder: [TrolConfig(...), PhantomConfig(...)]; of a decoder that was saved with
                   grafts, the same: their weights are loaded too
    tokenizer      of the decoder, or its folder or hub id; may be left out if `text` is a folder or hub id that has one
    image_px       tile side in pixels; by default the vision tower's own
    match_embeddings   bring image features to the root mean square of the decoder's word embeddings
    feature_positions  add to the features of a tile where they lie on it, along two learnt directions
    dtype          of the parameters: torch.bfloat16, or its name
    image_options  max_tiles, thumbnail, antialias, image_mean, image_std, max_pixels of PhantrolImageProcessor; where
                   `vision` is a folder or hub id, image_mean and image_std are by default those of its image processor
    Raises ValueError if a part cannot be opened or they do not fit together, naming what does not, and for an option
    that is none.
    """
    _check_options(image_options)
    dtype = _floating(dtype)
    text_config, vision_config = part_configuration("text", text), part_configuration("vision", vision)
    check_parts(text_config, vision_config, modifiers)
    open_decoder = decoder_opener(text, text_config, modifiers)
    vision_config = getattr(vision_config, "vision_config", vision_config)  # of CLIP or SigLIP, the half that sees
    for part in (text_config, vision_config):  # a folder of this machine is nobody else's business
        part.name_or_path = Path(part.name_or_path).name if Path(part.name_or_path).is_absolute() else part.name_or_path
    tokenizer = open_tokenizer(tokenizer, text, image_token)
    text_config.vocab_size = max(text_config.vocab_size, len(tokenizer))
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        setattr(text_config, name, getattr(tokenizer, name))
    text_config.modifiers = [config_to_dict(config) for config in modifiers]
    config = wanted_config(text_config, vision_config, image_px, unshuffle, projector_norm, feature_positions)
    if not {"image_mean", "image_std"} <= image_options.keys():
        image_options = {**part_normalisation(vision, image_options), **image_options}
    processor = PhantrolProcessor(
        PhantrolImageProcessor(image_px=config.image_px, **image_options),
        tokenizer,
        image_grid=config.image_grid,
        unshuffle=unshuffle,
        image_token=image_token,
        image_prefix=image_prefix,
        image_suffix=image_suffix,
    )
    config.image_token_id = processor.image_token_id
    config.feature_rms = embedding_rms(text, text_config, open_decoder) if match_embeddings else None
    model = PhantrolForConditionalGeneration(config).to(dtype)
    load_part("text", model.language_model, text, open_decoder, dtype)
    load_part("vision", model.vision_tower, vision, AutoModel.from_pretrained, dtype)
    model.generation_config.eos_token_id = processor.end_of_turn_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.generation_config.bos_token_id = tokenizer.bos_token_id
    return model.eval(), processor


def wanted_config(
    text_config: PretrainedConfig,
    vision_config: PretrainedConfig,
    image_px: int | None = None,
    unshuffle: int = 1,
    projector_norm: bool = True,
    feature_positions: bool = False,
    **others: Any,
) -> PhantrolConfig:
    """Return the configuration of what `build` makes of such parts, but for its tokens. Nothing is loaded.

    others  arguments of `build` that change no size
    Raises ValueError if nothing says how large a tile is, and for a tower or an unshuffle that does not fit it.
    """
    vision_config = getattr(vision_config, "vision_config", vision_config)
    for name, number in (("image_px", image_px), ("unshuffle", unshuffle)):
        if number is not None and not isinstance(number, int):
            raise ValueError(f"{name}: got {number!r}, expected a whole number")
    image_px = getattr(vision_config, "image_size", None) if image_px is None else image_px
    if not isinstance(image_px, int):
        raise ValueError(f"{type(vision_config).__name__} names no image size: pass image_px, the tile side in pixels")
    return PhantrolConfig(
        text_config,
        vision_config,
        image_px=image_px,
        image_grid=measure_grid(vision_config, image_px),
        unshuffle=unshuffle,
        projector_norm=projector_norm,
        feature_positions=feature_positions,
    )


def load(
    folder: str | Path, weights: str | None = None, **kwargs: Any
) -> tuple[PhantrolForConditionalGeneration, PhantrolProcessor]:
    """Return a model that was saved with its processor, ready to answer.

    folder   what `save_pretrained` of both wrote, or its difference from a packaged decoder, or a hub id
    weights  "int8" or "int4" for the decoder's linear maps (see `quantised.py`), on the accelerator if there is one; or
             "float32", "bfloat16", "float16" for all of the model: a dtype of `kwargs` by its name. None: its own dtype
    kwargs   as for `from_pretrained` (dtype, device_map ...)
    Raises ValueError naming the file that is missing or broken, and tensors that are missing or left over; for a name
    that is neither a folder nor a model of the hub.
    """
    if weights in FLOATS and kwargs.setdefault("dtype", weights) not in (weights, getattr(torch, weights)):
        raise ValueError(f"weights={weights!r} and dtype={kwargs['dtype']}: expected one of them")
    if weights is not None and weights not in FLOATS:
        kwargs = loading_options(weights, **kwargs)
    path = Path(folder)
    if release := release_named(str(folder)):
        raise ValueError(f"{folder} is in the official layout: phantrol convert {release.hub_id} OUT, and open that")
    if path.exists() or len(path.parts) > 2 or str(folder).startswith((".", "/", "~")):
        check_folder(path)
    whole = whole_model(path) if path.is_dir() else folder
    try:
        processor = PhantrolProcessor.from_pretrained(whole)
        model, report = PhantrolForConditionalGeneration.from_pretrained(whole, output_loading_info=True, **kwargs)
    except ValueError:
        raise
    except OSError as error:  # transformers' message is four lines about the one file that it looked for first
        if path.exists():
            raise ValueError(f"{folder} cannot be loaded: {first_line(error)}") from error
        raise ValueError(
            f"{folder} is no folder here, and no whole model of that name could be had from the hub: expected a folder "
            "that `phantrol train` or save_pretrained wrote, or the id of a hub model"
        ) from error
    except Exception as error:  # safetensors, tokenizers and json each have their own kind
        raise ValueError(f"{folder} cannot be loaded: {type(error).__name__}: {first_line(error)}") from error
    wrong = {
        key: sorted(report[key])[:3] for key in ("missing_keys", "unexpected_keys", "mismatched_keys") if report[key]
    }
    if wrong:
        raise ValueError(f"{folder} does not fit its config.json: {wrong}; save the model again, or copy it again")
    model.config.name_or_path = str(folder)  # not a folder in the cache
    return model.eval(), processor


def check_folder(folder: Path) -> None:
    """Raise ValueError if `folder` is no whole saved model, naming what is missing, empty or no JSON."""
    if not folder.is_dir():
        raise ValueError(f"no model folder {folder}: expected one that `phantrol train` or save_pretrained wrote")
    weights = sorted(path.name for path in folder.glob("*.safetensors"))
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        listed = _read_json(index)
        if not isinstance(listed, dict) or not isinstance(listed.get("weight_map"), dict):
            raise ValueError(f"{index} is broken: expected a weight_map, the file of each tensor; copy it again")
        weights = sorted(set(listed["weight_map"].values()))
    for name in (*WHOLE, *(weights or ["model.safetensors"])):
        path = folder / name
        if not path.is_file():
            raise ValueError(
                f"{folder} is not a whole model: {name} is missing; expected {', '.join(WHOLE)} and weights"
                + _remedy(folder)
            )
        if path.stat().st_size == 0:
            raise ValueError(f"{path} is empty: copy it again")
        if name.endswith(".json"):
            _read_json(path)


def _remedy(folder: Path) -> str:
    """What else to do with a folder of a run, or one whose configuration is another model's."""
    if (folder / "final" / "config.json").is_file():
        return f"; the model of this run is {folder / 'final'}"
    config = _read_json(folder / "config.json") if (folder / "config.json").is_file() else None
    if not isinstance(config, dict) or config.get("model_type") == PhantrolConfig.model_type:
        return ""
    return f"; if it is a released TroL or Phantom: phantrol convert {folder} OUT"


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text("utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is broken: {first_line(error)}") from None


def _floating(dtype: Any) -> torch.dtype:
    found = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        raise ValueError(f"dtype: got {dtype!r}, expected {', '.join(FLOATS)}, by its name or as torch has it")
    return found


def check_parts(text_config: PretrainedConfig, vision_config: PretrainedConfig, modifiers: Any) -> None:
    """Raise ValueError for what is no part of a model, and modifiers that do not fit the decoder, before anything is
    opened or drawn."""
    for name, config in (("text", text_config), ("vision", vision_config)):
        if config.model_type == PhantrolConfig.model_type:
            raise ValueError(f"{name}: got a whole phantrol model, expected a part of one; open it with phantrol.load")
    if not hasattr(text_config, "vocab_size"):
        raise ValueError(f"text: a {type(text_config).__name__} has no vocabulary: expected a causal decoder's")
    check_list(modifiers)
    for config in modifiers:
        modifier_of(config, text_config.num_hidden_layers)


def _check_options(options: Mapping[str, Any]) -> None:
    """The image processor passes over what it does not know, as transformers' do."""
    of_images = list(signature(PhantrolImageProcessor).parameters)[:-1]  # the last one takes all others
    for name in options:
        if name not in of_images:
            near = get_close_matches(name, [*signature(build).parameters, *of_images], 1)
            meant = f", did you mean {near[0]}? Expected" if near else "; expected"
            raise ValueError(f"got an unknown option {name}{meant} for images: {', '.join(of_images)}")
