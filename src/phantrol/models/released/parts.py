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

from phantrol.models.released.angles import PHI3_CONTEXT, rope_parameters
from phantrol.models.released.config_numbers import number_of, whole_number_of

Shape = tuple[int, ...]
Shapes = Mapping[str, Shape]
CLIP_HEAD_SIZE, CLIP_HIDDEN, CLIP_LAYERS, CLIP_PX = 64, 1024, 24, 490
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
    hidden = size_of(shapes, table, 1) or whole_number_of(llm, "hidden_size")
    heads = _heads(llm, shapes, hidden)
    options = {
        "vocab_size": size_of(shapes, f"{prefix}{head}.weight", 0)
        or size_of(shapes, table, 0)
        or whole_number_of(llm, "vocab_size"),
        "hidden_size": hidden,
        "intermediate_size": size_of(shapes, f"{down}.weight", 1)
        or size_of(shapes, f"{down}.ffn.weight", 1)
        or whole_number_of(llm, "intermediate_size"),
        "num_hidden_layers": _agreed_layers(llm, shapes, layers),
        "num_attention_heads": heads,
        "num_key_value_heads": _key_value_heads(llm, shapes, f"{layers}0.{attention}.", hidden // heads, heads),
        "hidden_act": llm.get("hidden_act") or "silu",
        "max_position_embeddings": whole_number_of(llm, "max_position_embeddings"),
        "rms_norm_eps": float(number_of(llm, "rms_norm_eps", EPS[backbone], above=0)),
        "rope_parameters": rope_parameters(llm, backbone, hidden // heads),
        "tie_word_embeddings": tied,
    }
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        options[name] = _token_ids(config if name in config else llm, name)
    if backbone == "phi3":
        context = whole_number_of(llm, "original_max_position_embeddings", PHI3_CONTEXT)
        options["original_max_position_embeddings"] = context
        # a window of w in the released flash attention sees w tokens before the one at hand, in transformers w - 1
        window = whole_number_of(llm, "sliding_window", 0, least=0)
        options["sliding_window"] = window + 1 if window else None
    if backbone == "qwen2":
        window = ("use_sliding_window", "sliding_window", "max_window_layers")
        options |= {name: llm[name] for name in window if name in llm}
    return CLASSES[backbone](**options)


def _heads(llm: Mapping[str, Any], shapes: Shapes, hidden: int) -> int:
    """From the configuration; where that is silent, a Phantom's maps have the size of a head."""
    size = _map_size(shapes)
    if llm.get("num_attention_heads") is None and size:
        return hidden // size
    return whole_number_of(llm, "num_attention_heads")


def _map_size(shapes: Shapes) -> int | None:
    maps = [name for name in shapes if name.endswith("xattn_value_phantom.linear_q.weight")]
    return size_of(shapes, maps[0], 0) if maps else None


def _key_value_heads(llm: Mapping[str, Any], shapes: Shapes, attention: str, size: int, heads: int) -> int:
    """size: of a head. A fused tensor has rows for the queries, and as many for keys as for values."""
    says = None if llm.get("num_key_value_heads") is None else whole_number_of(llm, "num_key_value_heads")
    for name, fused in (("wqkv", True), ("wqkv.ffn", True), ("qkv_proj", True), ("k_proj", False)):
        name = f"{attention}{name}.weight"
        rows = size_of(shapes, name, 0)
        if rows is None:
            continue
        count = (rows // size - heads) // 2 if fused else rows // size
        if count < 1 or heads % count:
            raise ValueError(
                f"{name} has {rows} rows, which makes {max(count, 0)} key/value heads for {heads} query heads: "
                "expected a number that divides them"
            )
        # the size of a head is then known from the configuration alone, and rows may fit another one by chance
        if says not in (None, count) and _map_size(shapes) is None:
            raise ValueError(
                f"config.json says num_attention_heads {heads} and num_key_value_heads {says}, but {name} has {rows} "
                f"rows, which makes {count} key/value heads for as many query heads: expected numbers that agree"
            )
        return count
    return says or heads


def _token_ids(options: Mapping[str, Any], name: str) -> int | list[int] | None:
    found = options.get(name)
    for token in found if isinstance(found, list) else [found]:
        if token is not None and (isinstance(token, bool) or not isinstance(token, int)):
            raise ValueError(f"config.json says {name} {found!r}: expected the number of a token, several or null")
    return found


def internvit_config(options: Mapping[str, Any], shapes: Shapes, where: str = "") -> InternVLVisionConfig:
    """Return that of InternViT; options: its own config.json, or the part of another, which `where` then names.

    Raises ValueError for less than one head, an epsilon that is not above 0, norms of queries and keys with an epsilon
    that transformers does not compute them with, and another number of layers than the tensors are of.
    """
    hidden, patch, image_px = _vision_sizes(shapes, "vision_model.embeddings.", "position_embedding")
    layers = "vision_model.encoder.layers."
    if patch is None:
        sizes = ("hidden_size", "patch_size", "image_size")
        hidden, patch, image_px = (whole_number_of(options, name, where=where) for name in sizes)
    qk_norm = f"{layers}0.attn.q_norm.weight" in shapes
    eps = float(number_of(options, "layer_norm_eps", 1e-6, above=0, where=where))
    if qk_norm and eps != 1e-6:
        raise ValueError(
            f"config.json says layer_norm_eps {eps}{where}, and there are norms of queries and keys, which "
            "transformers computes with 1e-6 alone: expected 1e-6; no released model has them"
        )
    return InternVLVisionConfig(
        hidden_size=hidden,
        intermediate_size=size_of(shapes, f"{layers}0.mlp.fc1.weight", 0)
        or whole_number_of(options, "intermediate_size", where=where),
        num_hidden_layers=_agreed_layers(options, shapes, layers, where),
        num_attention_heads=whole_number_of(options, "num_attention_heads", where=where),
        attention_bias=f"{layers}0.attn.qkv.bias" in shapes or (not shapes and bool(options.get("qkv_bias", True))),
        use_qk_norm=qk_norm,
        norm_type=options.get("norm_type") or "layer_norm",
        layer_norm_eps=eps,
        hidden_act=options.get("hidden_act") or "gelu",
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
    found = _count_layers(shapes, layers)
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


def size_of(shapes: Shapes, name: str, dim: int) -> int | None:
    """Return one size of a tensor, None if there is no such tensor. Raises ValueError if it has too few dimensions."""
    shape = shapes.get(name)
    if shape is not None and not -len(shape) <= dim < len(shape):
        raise ValueError(f"{name} has shape {list(shape)}: expected more dimensions")
    return None if shape is None else shape[dim]


def _count_layers(shapes: Shapes, prefix: str) -> int:
    found = [int(match[1]) for name in shapes if (match := re.match(rf"{re.escape(prefix)}(\d+)\.", name))]
    return max(found, default=-1) + 1


def _agreed_layers(options: Mapping[str, Any], shapes: Shapes, prefix: str, where: str = "") -> int:
    """What the configuration says, which the tensors have to confirm; what they are of, where it is silent."""
    found, says = _count_layers(shapes, prefix), options.get("num_hidden_layers")
    if found and says not in (None, found):
        raise ValueError(_other_layers(f"config.json says num_hidden_layers {says!r}{where}", found, prefix))
    return found or whole_number_of(options, "num_hidden_layers", where=where)


def _other_layers(said: str, found: int, prefix: str) -> str:
    return (
        f"{said}, but the tensors are of {found} layers, up to {prefix}{found - 1}: expected as many; a shard may be "
        "missing, or of another model: download the weights again"
    )
