"""Configurations of stock Hugging Face classes for the parts of an official checkpoint: decoders and vision towers.

Shapes are the truth for sizes; the configuration says what shapes cannot: heads, rotary angles, epsilons, token ids.
How many layers there are they say together: shapes do not tell a whole model from one whose last layers are missing.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from transformers import CLIPVisionConfig, InternVLVisionConfig, LlamaConfig, Phi3Config, PretrainedConfig, Qwen2Config

Shape = tuple[int, ...]
Shapes = Mapping[str, Shape]
CLIP_HEAD_SIZE, CLIP_HIDDEN, CLIP_LAYERS, CLIP_PX = 64, 1024, 24, 490
THETA = {"internlm2": 1e6, "phi3": 1e4, "qwen2": 1e6}
EPS = {"internlm2": 1e-5, "phi3": 1e-5, "qwen2": 1e-6}
# of each backbone: embedding table, output head, attention, and the linear that ends a layer
NAMES = {
    "internlm2": ("tok_embeddings", "output", "attention", "feed_forward.w2"),
    "phi3": ("embed_tokens", "lm_head", "self_attn", "mlp.down_proj"),
    "qwen2": ("embed_tokens", "lm_head", "self_attn", "mlp.down_proj"),
}
CLASSES = {"internlm2": LlamaConfig, "phi3": Phi3Config, "qwen2": Qwen2Config}


def text_config(
    config: Mapping[str, Any], llm: Mapping[str, Any], shapes: Shapes, prefix: str, backbone: str, tied: bool
) -> PretrainedConfig:
    """Return the decoder's.

    config, llm  all of config.json, and the part of it on the decoder;  prefix  of the names of the decoder's tensors
    Raises ValueError for sizes that contradict each other.
    """
    table, head, attention, down = NAMES[backbone]
    layers, table = f"{prefix}model.layers.", f"{prefix}model.{table}.weight"
    down = f"{layers}0.{down}"
    hidden = size_of(shapes, table, 1) or llm["hidden_size"]
    heads = _heads(llm, shapes, hidden)
    options = {
        "vocab_size": size_of(shapes, f"{prefix}{head}.weight", 0) or size_of(shapes, table, 0) or llm["vocab_size"],
        "hidden_size": hidden,
        "intermediate_size": size_of(shapes, f"{down}.weight", 1)
        or size_of(shapes, f"{down}.ffn.weight", 1)
        or llm["intermediate_size"],
        "num_hidden_layers": _num_layers(llm, shapes, layers),
        "num_attention_heads": heads,
        "num_key_value_heads": _key_value_heads(llm, shapes, f"{layers}0.{attention}.", hidden // heads, heads),
        "hidden_act": llm.get("hidden_act") or "silu",
        "max_position_embeddings": llm["max_position_embeddings"],
        "rms_norm_eps": _epsilon(llm, "rms_norm_eps", EPS[backbone]),
        "rope_parameters": rope_parameters(llm, backbone),
        "tie_word_embeddings": tied,
    }
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        options[name] = config.get(name, llm.get(name))
    if backbone == "phi3":
        options["original_max_position_embeddings"] = llm.get("original_max_position_embeddings", 4096)
        # a window of w in the released flash attention sees w tokens before the one at hand, in transformers w - 1
        options["sliding_window"] = llm["sliding_window"] + 1 if llm.get("sliding_window") else None
    if backbone == "qwen2":
        window = ("use_sliding_window", "sliding_window", "max_window_layers")
        options |= {name: llm[name] for name in window if name in llm}
    return CLASSES[backbone](**options)


def _heads(llm: Mapping[str, Any], shapes: Shapes, hidden: int) -> int:
    """From the configuration; where that is silent, a Phantom's maps have the size of a head."""
    maps = [name for name in shapes if name.endswith("xattn_value_phantom.linear_q.weight")]
    if llm.get("num_attention_heads") is None and maps:
        return hidden // (size_of(shapes, maps[0], 0) or 1)
    return _number_of_heads(llm)


def _number_of_heads(options: Mapping[str, Any], where: str = "") -> int:
    heads = options["num_attention_heads"]
    if not isinstance(heads, int) or heads < 1:
        raise ValueError(f"config.json says num_attention_heads {heads!r}{where}: expected 1 or more")
    return heads


def _epsilon(options: Mapping[str, Any], name: str, default: float) -> float:
    epsilon = float(number_of(options, name, default))
    if epsilon <= 0:
        raise ValueError(f"config.json says {name} {epsilon!r}: expected a number above 0")
    return epsilon


def _key_value_heads(llm: Mapping[str, Any], shapes: Shapes, attention: str, size: int, heads: int) -> int:
    """size: of a head. A fused tensor has rows for the queries, and as many for keys as for values."""
    for name in ("wqkv", "wqkv.ffn", "qkv_proj"):
        rows = size_of(shapes, f"{attention}{name}.weight", 0)
        if rows is not None:
            return _head_count((rows // size - heads) // 2, f"{attention}{name}.weight", rows, heads)
    rows = size_of(shapes, f"{attention}k_proj.weight", 0)
    if rows is not None:
        return _head_count(rows // size, f"{attention}k_proj.weight", rows, heads)
    return llm.get("num_key_value_heads") or heads


def _head_count(count: int, name: str, rows: int, heads: int) -> int:
    if count < 1 or heads % count:
        raise ValueError(
            f"{name} has {rows} rows, which makes {max(count, 0)} key/value heads for {heads} query heads: expected a "
            "number that divides them"
        )
    return count


def rope_parameters(llm: Mapping[str, Any], backbone: str) -> dict[str, Any]:
    """Return the rotary angles of an official decoder's configuration in the form of transformers 5.

    InternLM2: none, dynamic NTK or linear. Phi-3: none, "su" (longrope) or "yarn", which in the released code are the
    same angles with another factor on cosines and sines. Raises ValueError for any other kind.
    """
    theta, scaling = float(number_of(llm, "rope_theta", THETA[backbone])), llm.get("rope_scaling") or {}
    if not isinstance(scaling, Mapping):
        raise ValueError(f"config.json says rope_scaling {scaling!r}: expected null or an object with a type")
    scaling = dict(scaling)
    kind = scaling.pop("type", None) or scaling.pop("rope_type", None) or "default"
    scaling.pop("rope_type", None)
    if kind == "default":
        return {"rope_type": "default", "rope_theta": theta}
    if backbone == "internlm2" and kind in ("dynamic", "linear"):
        return {"rope_type": kind, "rope_theta": theta, "factor": float(scaling["factor"])}
    if backbone == "phi3" and kind in ("su", "longrope", "yarn"):
        original = int(llm.get("original_max_position_embeddings", 4096))
        stretch = llm["max_position_embeddings"] / original
        grown = math.log(max(stretch, 1))
        return {
            "rope_type": "longrope",
            "rope_theta": theta,
            "short_factor": list(scaling["short_factor"]),
            "long_factor": list(scaling["long_factor"]),
            "original_max_position_embeddings": original,
            "attention_factor": 0.1 * grown + 1 if kind == "yarn" else math.sqrt(1 + grown / math.log(original)),
        }
    raise ValueError(f"rope_scaling of type {kind!r} on {backbone}: the released code has none of that kind")


def internvit_config(options: Mapping[str, Any], shapes: Shapes) -> InternVLVisionConfig:
    """Return that of InternViT; options: what config.json has under vision_config.

    Raises ValueError for less than one head, an epsilon that is not above 0, norms of queries and keys with an epsilon
    that transformers does not compute them with, and another number of layers than the tensors are of.
    """
    hidden, patch, image_px = _vision_sizes(shapes, "vision_model.embeddings.", "position_embedding")
    layers = "vision_model.encoder.layers."
    if patch is None:
        hidden, patch, image_px = (options[name] for name in ("hidden_size", "patch_size", "image_size"))
    qk_norm, eps = f"{layers}0.attn.q_norm.weight" in shapes, _epsilon(options, "layer_norm_eps", 1e-6)
    if qk_norm and eps != 1e-6:
        raise ValueError(
            f"vision_config has layer_norm_eps {eps} and norms of queries and keys, which transformers computes with "
            "1e-6 alone: expected 1e-6; no released model has them"
        )
    return InternVLVisionConfig(
        hidden_size=hidden,
        intermediate_size=size_of(shapes, f"{layers}0.mlp.fc1.weight", 0) or options["intermediate_size"],
        num_hidden_layers=_num_layers(options, shapes, layers, " in vision_config"),
        num_attention_heads=_number_of_heads(options, " in vision_config"),
        attention_bias=f"{layers}0.attn.qkv.bias" in shapes or (not shapes and bool(options.get("qkv_bias", True))),
        use_qk_norm=qk_norm,
        norm_type=options.get("norm_type", "layer_norm"),
        layer_norm_eps=eps,
        hidden_act=options.get("hidden_act", "gelu"),
        image_size=image_px,
        patch_size=patch,
        use_mean_pooling=True,  # then there is no norm after the last layer, as released
    )


def clip_config(shapes: Shapes, projector_in: int | None) -> CLIPVisionConfig:
    """CLIP ViT-L/14 with positions for 490 px, or what the shapes say.

    Raises ValueError for tensors as wide as those of ViT-L/14, with positions for 490 px, of more or fewer layers.
    """
    tower = "vit.vision_tower.vision_model."
    hidden, patch, image_px = _vision_sizes(shapes, f"{tower}embeddings.", "position_embedding.weight")
    layers = f"{tower}encoder.layers."
    hidden = hidden or projector_in or CLIP_HIDDEN
    found = num_layers(shapes, layers)
    # the released config.json says nothing of the tower; a small one behind the same projector may be as wide
    if found and found != CLIP_LAYERS and (hidden, image_px) == (CLIP_HIDDEN, CLIP_PX):
        raise ValueError(_other_layers(f"CLIP ViT-L/14 has {CLIP_LAYERS} layers", found, layers))
    return CLIPVisionConfig(
        hidden_size=hidden,
        intermediate_size=size_of(shapes, f"{layers}0.mlp.fc1.weight", 0) or 4 * hidden,
        num_hidden_layers=found or CLIP_LAYERS,
        num_attention_heads=1 if hidden % CLIP_HEAD_SIZE else hidden // CLIP_HEAD_SIZE,
        image_size=image_px or CLIP_PX,
        patch_size=patch or 14,
        hidden_act="quick_gelu",
        layer_norm_eps=1e-5,
        projection_dim=768,
    )


def _vision_sizes(shapes: Shapes, embeddings: str, positions: str) -> tuple[int | None, int | None, int | None]:
    """Return hidden size, patch side in pixels and tile side in pixels of a vision tower, or three times None."""
    patch = shapes.get(f"{embeddings}patch_embedding.weight")
    table = shapes.get(f"{embeddings}{positions}")
    if patch is None or table is None:
        return None, None, None
    for name, shape, dims in (("patch_embedding.weight", patch, 4), (positions, table, 2)):
        if len(shape) < dims:
            raise ValueError(f"{embeddings}{name} has shape {list(shape)}: expected at least {dims} dimensions")
    return patch[0], patch[-1], math.isqrt(table[-2] - 1) * patch[-1]


def number_of(options: Mapping[str, Any], name: str, default: float) -> float:
    """Return a number of config.json; null is as if it did not stand there. Raises ValueError for anything else."""
    value = default if options.get(name) is None else options[name]
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"config.json says {name} {value!r}: expected a number")
    return value


def size_of(shapes: Shapes, name: str, dim: int) -> int | None:
    """Return one size of a tensor, None if there is no such tensor. Raises ValueError if it has too few dimensions."""
    shape = shapes.get(name)
    if shape is not None and not -len(shape) <= dim < len(shape):
        raise ValueError(f"{name} has shape {list(shape)}: expected more dimensions")
    return None if shape is None else shape[dim]


def num_layers(shapes: Shapes, prefix: str) -> int:
    found = [int(match[1]) for name in shapes if (match := re.match(rf"{re.escape(prefix)}(\d+)\.", name))]
    return max(found, default=-1) + 1


def _num_layers(options: Mapping[str, Any], shapes: Shapes, prefix: str, where: str = "") -> int:
    """What the configuration says, which the tensors have to confirm; what they are of, where it is silent."""
    found, says = num_layers(shapes, prefix), options.get("num_hidden_layers")
    if found and says not in (None, found):
        raise ValueError(_other_layers(f"config.json says num_hidden_layers {says!r}{where}", found, prefix))
    return found or options["num_hidden_layers"]


def _other_layers(said: str, found: int, prefix: str) -> str:
    return (
        f"{said}, but the tensors are of {found} layers, up to {prefix}{found - 1}: expected as many; a shard may be "
        "missing, or of another model: download the weights again"
    )
