"""Folders in the layout of the hub: what `phantrol convert` is given, with weights drawn by recordings.py.

Unlike a recorded folder they have shards, pickles or one file, TroL's gates in trol_gating.pt, a CLIP tower where there
is one, and a config.json that names neither family nor backbone nor the rank of the partial LoRA.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from recordings import SIZES, Draw, draw_weights, official_config
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from phantrol.models.released.prompts import dialect

NOT_ON_THE_HUB = ("family", "backbone", "eta_released", "lora_r", "lora_alpha", "embedding_rows", "vision_feature_dim")
CLIP = dict(feature_size=64, side_px=28)  # one head of 64, 2 x 2 patches
FORMS = ("shards", "whole", "pickled shards", "pickled")


def draw_clip(size: int, side_px: int, layers: int, seed: int) -> dict[str, Tensor]:
    """The weights of a CLIP tower under their official names."""
    draw, root = Draw(seed), "vit.vision_tower.vision_model"
    draw.normal(f"{root}.embeddings.class_embedding", (size,), 0.8)
    draw.normal(f"{root}.embeddings.patch_embedding.weight", (size, 3, 14, 14), 1.2 * 588**-0.5)
    draw.normal(f"{root}.embeddings.position_embedding.weight", ((side_px // 14) ** 2 + 1, size), 0.8)
    for name in ("pre_layrnorm", "post_layernorm"):
        draw.norm(f"{root}.{name}", size, bias=True)
    for i in range(layers):
        layer = f"{root}.encoder.layers.{i}"
        for name in "qkv":
            draw.linear(f"{layer}.self_attn.{name}_proj", size, size, bias=True)
        draw.linear(f"{layer}.self_attn.out_proj", size, size, bias=True)
        draw.linear(f"{layer}.mlp.fc1", 4 * size, size, bias=True)
        draw.linear(f"{layer}.mlp.fc2", size, 4 * size, bias=True)
        for name in ("layer_norm1", "layer_norm2"):
            draw.norm(f"{layer}.{name}", size, bias=True)
    return draw.weights


def draw_source(family: str, backbone: str, seed: int = 0, **sizes: Any) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return config.json and weights; TroL's gates stand under trol_gating.pt/0.weight, and no two are equal."""
    clip = (family, backbone) == ("trol", "internlm2")
    sizes = {**SIZES, **(CLIP if clip else {}), "eta": 1e-4, **sizes}
    llm = {"rope_scaling": None} if backbone == "internlm2" else {}
    config = official_config(family, backbone, sizes, llm)
    weights = draw_weights(family, backbone, seed, sizes)
    if clip:
        weights |= draw_clip(sizes["feature_size"], sizes["side_px"], sizes["vision_layers"], seed + 1)
    gates = [name for name in weights if "trol_gating." in name]
    for i, name in enumerate(gates):
        weights[f"trol_gating.pt/{name.split('trol_gating.')[1]}"] = weights.pop(name) + 0.1 * i
    return {key: value for key, value in config.items() if key not in NOT_ON_THE_HUB}, weights


def write_source(
    folder: Path, config: dict[str, Any], weights: dict[str, Tensor], form: str = "shards", dtype: Any = torch.float32
) -> Path:
    """Write what `draw_source` drew. form: one of FORMS; shards are two."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config), "utf-8")
    weights = {name: tensor.to(dtype) if tensor.is_floating_point() else tensor for name, tensor in weights.items()}
    gates = {name: weights.pop(name) for name in list(weights) if name.startswith("trol_gating.pt/")}
    if gates:
        torch.save({name.split("/")[1]: tensor for name, tensor in gates.items()}, folder / "trol_gating.pt")
    suffix, base = ("bin", "pytorch_model") if "pickled" in form else ("safetensors", "model")
    names = sorted(weights)
    cuts = (names[::2], names[1::2]) if "shards" in form else (names,)
    files = [f"{base}-{i:05d}-of-00002.{suffix}" for i in (1, 2)] if "shards" in form else [f"{base}.{suffix}"]
    for file, cut in zip(files, cuts, strict=True):
        part = {name: weights[name].contiguous() for name in cut}
        torch.save(part, folder / file) if suffix == "bin" else save_file(part, folder / file)
    if "shards" in form:
        table = {name: file for file, cut in zip(files, cuts, strict=True) for name in cut}
        (folder / f"{base}.{suffix}.index.json").write_text(json.dumps({"weight_map": table}), "utf-8")
    return folder


def write_tokenizer(folder: Path, family: str, backbone: str, image_token_id: int) -> None:
    """Bytes, the tokens of the dialect, and the image token where the configuration says; 512 tokens or one more."""
    speech = dialect(family, backbone)
    special = ["<unk>", "<s>", "</s>", *speech.special_tokens, "<img>", "</img>"]
    pieces = [*special, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    pieces += [f"<filler_{i}>" for i in range(len(pieces), image_token_id)] + [speech.image_token]
    tokenizer = Tokenizer(models.BPE({piece: i for i, piece in enumerate(pieces)}, merges=[], unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(piece, special=True) for piece in (*special, speech.image_token)])
    roles = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "</s>"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **roles).save_pretrained(folder)


def whole_source(
    folder: Path, family: str, backbone: str, form: str = "shards", dtype: Any = torch.float32, **sizes: Any
) -> Path:
    """Draw and write a source with its tokenizer."""
    config, weights = draw_source(family, backbone, **sizes)
    write_source(folder, config, weights, form, dtype)
    write_tokenizer(folder, family, backbone, config["image_token_index"])
    return folder
