"""What a folder in the official layout holds, read from its config.json and from the shapes of its tensors.

See `parts.py` for which of the two is believed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from transformers import InternVLVisionConfig, PretrainedConfig

from phantrol.models.configuration import PhantrolConfig
from phantrol.models.released.config_numbers import number_of, whole_number_of
from phantrol.models.released.parts import Shapes, clip_config, internvit_config, size_of, text_config
from phantrol.modifiers.base import config_to_dict
from phantrol.modifiers.partial_lora import PartialLoraConfig
from phantrol.modifiers.phantom import PhantomConfig
from phantrol.modifiers.trol import TrolConfig

GATE_FILE = "trol_gating.pt"  # its tensors stand under "trol_gating.pt/0.weight"
RELEASED_ETA = 1e-4
RELEASED_RANK = 256
UNKNOWN_TOKEN = -1  # image_token_id, where neither the configuration nor an extra row of embeddings says it
# a tensor of layer 0 that each backbone has and no other has
MARKS = {"internlm2": "attention.wqkv", "phi3": "self_attn.qkv_proj", "qwen2": "self_attn.q_proj"}


@dataclass(frozen=True)
class Layout:
    """What was found, and the configuration of the phantrol model that it becomes.

    prefix   before the names of the decoder's tensors: "language_model." or nothing
    vision   "clip" or "internvit", or None where the folder has no vision tower
    tied     the output head is the embedding table
    per_layer_gates  each layer has the gate that trol_gating.pt names for it
    """

    family: str
    backbone: str
    prefix: str
    vision: str | None
    tied: bool
    per_layer_gates: bool
    config: PhantrolConfig

    @property
    def text(self) -> PretrainedConfig:
        return self.config.text_config


def read_layout(config: Mapping[str, Any], shapes: Shapes, per_layer_gates: bool = False) -> Layout:
    """Return what a released model is made of.

    config  its config.json;  shapes  of its tensors by their official names, those of trol_gating.pt included; without
            any, `config` must also name family and backbone, as a recorded folder's does, and its sizes are believed
    per_layer_gates  keep each entry of trol_gating.pt, where the released loader leaves the last one in all layers
    Raises ValueError if this is no released TroL or Phantom, or its layers are not as many as `config` says.
    """
    try:
        return _read(config, shapes, per_layer_gates)
    except KeyError as error:
        raise ValueError(f"config.json names no {error.args[0]}: expected that of an official checkpoint") from None
    except (TypeError, AttributeError, ZeroDivisionError, StrictDataclassError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"config.json is not that of an official checkpoint: {reason}") from None


def _read(config: Mapping[str, Any], shapes: Shapes, per_layer_gates: bool) -> Layout:
    family, backbone = _identify(config, shapes)
    llm = config.get("llm_config") or config
    prefix = "language_model." if _any(shapes, "language_model.") or (not shapes and llm is not config) else ""
    vision = _vision_kind(config, shapes)
    tied = _is_tied(llm, shapes, f"{prefix}lm_head.weight", backbone)
    text = text_config(config, llm, shapes, prefix, backbone, tied)
    text.modifiers = [config_to_dict(each) for each in _modifiers(config, shapes, family, backbone, per_layer_gates)]
    return Layout(family, backbone, prefix, vision, tied, per_layer_gates, _whole_config(config, shapes, vision, text))


def _identify(config: Mapping[str, Any], shapes: Shapes) -> tuple[str, str]:
    found = [name for name, mark in MARKS.items() if any(f"layers.0.{mark}." in key for key in shapes)]
    backbone = found[0] if found else None if shapes else config.get("backbone")
    named = _named_backbone(config)
    if backbone is None or (shapes and not _any(shapes, "vision_proj.")) or (named and named != backbone):
        raise ValueError(_other_model(config, shapes, backbone))
    if not shapes:
        return config["family"], backbone
    family = "phantom" if any("xattn_value_phantom" in key for key in shapes) else "trol"
    if config.get("family", family) != family:
        raise ValueError(f"config.json says family {config['family']!r}, but the tensors are of {family!r}")
    return family, backbone


def _named_backbone(config: Mapping[str, Any]) -> str | None:
    """Which of the three backbones a configuration names; something else if it names another one."""
    if "backbone" in config:
        return config["backbone"]
    llm = config.get("llm_config")
    names = [*_architectures(llm), llm.get("model_type") or ""] if llm else []
    names = [name.lower() for name in names if name]
    if not names:
        return None
    return next((backbone for backbone in MARKS if any(backbone in name for name in names)), names[0])


def _architectures(config: Mapping[str, Any]) -> list[str]:
    names = config.get("architectures") or []
    return [names] if isinstance(names, str) else names


def _other_model(config: Mapping[str, Any], shapes: Shapes, backbone: str | None) -> str:
    llm = config.get("llm_config") or config.get("text_config") or {}
    architectures = [*_architectures(config), *_architectures(llm)]
    says = f", backbone {config['backbone']!r}" if "backbone" in config else ""
    some = f"{len(shapes)} tensors such as {min(shapes)}" if shapes else "no tensors"
    return (
        f"no released TroL or Phantom: found architectures {architectures or 'none'}, model_type "
        f"{config.get('model_type') or llm.get('model_type')!r}{says}, "
        f"{f'a decoder like {backbone}' if backbone else 'no decoder known here'} and {some}; "
        "expected vision_proj and a decoder of InternLM2, Phi-3 or Qwen2 in the layout of the official checkpoints"
    )


def _vision_kind(config: Mapping[str, Any], shapes: Shapes) -> str | None:
    if not shapes:
        return "internvit" if config.get("vision_config") else "clip"
    return "clip" if _any(shapes, "vit.vision_tower.") else "internvit" if _any(shapes, "vision_model.") else None


def _is_tied(llm: Mapping[str, Any], shapes: Shapes, head: str, backbone: str) -> bool:
    """Only Qwen2 may tie its head to the embeddings: the released classes of the others name none to tie. One that
    is not there must be tied, unless that is denied."""
    if backbone != "qwen2":
        return False
    no_head = bool(shapes) and head not in shapes
    return bool(llm.get("tie_word_embeddings", no_head))


def _modifiers(
    config: Mapping[str, Any], shapes: Shapes, family: str, backbone: str, per_layer_gates: bool
) -> list[Any]:
    if family == "phantom":
        if per_layer_gates:
            raise ValueError("this is a Phantom, whose layers run once and have no gates: leave --per-layer-gates out")
        return [PhantomConfig(eta=number_of(config, "eta", RELEASED_ETA), init="random", logits="exact")]
    modifiers: list[Any] = [TrolConfig(tokens="prompt", share_gate=not per_layer_gates)]
    down = next((name for name in shapes if name.endswith(".wqkv.lora_A.weight")), "")
    rank = size_of(shapes, down, 0)
    if rank is None and not shapes and backbone == "internlm2":
        rank = whole_number_of(config, "lora_r", RELEASED_RANK)
    if rank is None and any(".wqkv.ffn." in name for name in shapes):
        raise ValueError(
            "the LoRA of the image tokens is missing: expected attention.wqkv.lora_A beside wqkv.ffn; a "
            "shard may be missing, or of another model: download the weights again"
        )
    if rank is not None:  # released: r and α are both 256, and stand in no configuration
        modifiers.append(PartialLoraConfig(rank=rank, alpha=float(number_of(config, "lora_alpha", rank))))
    return modifiers


def _whole_config(
    config: Mapping[str, Any], shapes: Shapes, vision: str | None, text: PretrainedConfig
) -> PhantrolConfig:
    projector_in = size_of(shapes, "vision_proj.0.weight", -1)
    layer_norm = len(shapes.get("vision_proj.0.weight", ())) == 1
    if vision == "internvit" or layer_norm:
        tower = internvit_config(config.get("vision_config") or {}, shapes, " in vision_config")
        factor = projector_in / tower.hidden_size if projector_in else config.get("downsample_ratio", 0.5) ** -2
        unshuffle, image_px = round(factor**0.5), tower.image_size[0]
    else:
        tower, unshuffle = clip_config(shapes, projector_in), 1
        image_px = tower.image_size
    patch = tower.patch_size if isinstance(tower.patch_size, int) else tower.patch_size[0]
    extra = (size_of(shapes, _embeddings(shapes), 0) or 0) == text.vocab_size + 1
    token = text.vocab_size if extra else UNKNOWN_TOKEN
    image_token_id = whole_number_of(config, "image_token_index", token, least=-math.inf)
    return PhantrolConfig(
        text,
        tower,
        image_token_id=image_token_id,
        image_px=image_px,
        image_grid=image_px // patch,
        unshuffle=unshuffle,
        projector_norm=isinstance(tower, InternVLVisionConfig),
    )


def _embeddings(shapes: Shapes) -> str:
    return next((name for name in shapes if name.endswith(("tok_embeddings.weight", "embed_tokens.weight"))), "")


def _any(shapes: Shapes, prefix: str) -> bool:
    return any(name.startswith(prefix) for name in shapes)
