"""Record what a `Reference` gives, tensor by tensor as the recorded folders hold it, and write such a folder.

B 2 rows, N tokens, T = N + 4 tokens with the answer, V vocabulary.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from recordings import PAD, SIZES, STEPS, draw_weights, official_config
from reference import Reference, Run
from safetensors.torch import save_file
from torch import Tensor

IMAGE_STARTS = (8, 3)  # where in each row its picture begins


def draw_inputs(config: dict[str, Any], seed: int, sizes: dict[str, Any]) -> dict[str, Tensor]:
    """Two rows of tokens, of which row 0 begins with pads, each with one picture."""
    random, N, pads = torch.Generator().manual_seed(seed + 1000), sizes["tokens"], sizes["pads"]
    image = config["image_token_index"]
    ids = torch.randint(3, min(image, sizes["vocab_size"]), (2, N), generator=random)
    mask = torch.ones_like(ids)
    ids[0, :pads], mask[0, :pads] = PAD, 0
    is_trol_internlm2 = (config["family"], config["backbone"]) == ("trol", "internlm2")
    side = sizes["side_px"] // 28
    features = side * side
    for row, start in enumerate(IMAGE_STARTS):
        ids[row, start : start + features] = image
    positions = (mask.cumsum(-1) - 1).masked_fill(mask == 0, 1)
    inputs = {"input_ids": ids, "attention_mask": mask, "position_ids": positions}
    if is_trol_internlm2:
        inputs["im_mask"] = ids == image
        inputs["image_features"] = torch.randn(2, features, sizes["feature_size"], generator=random)
    else:
        inputs["pixel_values"] = torch.randn(2, 3, sizes["side_px"], sizes["side_px"], generator=random)
    if config["family"] == "phantom":
        inputs["phantom_position"] = torch.zeros_like(ids, dtype=torch.bool)
        inputs["phantom_position"][0, pads] = inputs["phantom_position"][1, 0] = True
    return inputs


def converse(model: Reference, start: dict[str, Tensor], tokens: Tensor | None = None) -> dict[str, Tensor]:
    """Read a prompt and four tokens of an answer: the given ones, or the most likely ones."""
    run, given = Run(), tokens is not None
    prefill = model.forward(run, **start)
    hidden, mask, steps = torch.stack(run.hidden_states), start["mask"], []
    tokens = tokens if given else prefill[:, -1].argmax(-1)[:, None]
    for t in range(STEPS):
        mask = torch.cat([mask, torch.ones_like(mask[:, :1])], dim=1)
        steps.append(model.forward(run, model.embed(tokens[:, t : t + 1]), mask, mask.sum(-1, keepdim=True) - 1))
        if not given:
            tokens = torch.cat([tokens, steps[-1][:, -1].argmax(-1)[:, None]], dim=1)
    return {
        "prefill": prefill,
        "hidden": hidden,
        "tokens": tokens[:, :STEPS],
        "decode": torch.cat(steps, dim=1),
        "run": run,
    }


def without_padding_mask(model: Reference, start: dict[str, Tensor], tokens: Tensor) -> Tensor:
    """The answer as TroL on InternLM2 gives it: padding is attended to, and counted in positions."""
    run = Run()
    mask = start["mask"]
    model.forward(run, **start)
    steps = []
    for t in range(STEPS):
        mask = torch.ones(2, mask.shape[1] + 1, dtype=mask.dtype)
        steps.append(model.forward(run, model.embed(tokens[:, t : t + 1]), mask, mask.sum(-1, keepdim=True) - 1))
    return torch.cat(steps, dim=1)


def record(model: Reference, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return what io.safetensors holds, inputs included."""
    config, io = model.config, dict(inputs)
    if "pixel_values" in inputs:
        io["vit_last_hidden_state"] = model.vision(inputs["pixel_values"])
        shuffled = model.shuffle(io["vit_last_hidden_state"])
        features = model.project(shuffled)
        if model.family == "trol":
            io["image_features"] = shuffled
        else:
            io["projected_features"] = features
    else:
        features = model.project(inputs["image_features"])
    is_image = inputs["input_ids"] == config["image_token_index"]
    embeds = model.embed(inputs["input_ids"])
    embeds[is_image] = features.flatten(0, 1)
    start = {"embeds": embeds, "mask": inputs["attention_mask"], "positions": inputs["position_ids"]}
    start |= {"image": inputs.get("im_mask"), "phantom": inputs.get("phantom_position")}
    whole = converse(model, start)
    tokens = io["decode_tokens"] = whole["tokens"]
    io |= {"prefill_logits": whole["prefill"], "hidden_states": whole["hidden"], "decode_logits": whole["decode"]}
    for i in (0, model.layers - 1):
        io |= {f"cache_key_layer{i}": whole["run"].keys[i], f"cache_value_layer{i}": whole["run"].values[i]}
    pads = int((inputs["attention_mask"][0] == 0).sum())
    alone = {name: tensor if tensor is None else tensor[:1, pads:] for name, tensor in start.items()}
    unpadded = converse(model, alone, tokens[:1])
    io |= {f"unpadded_row0_{name}_logits": unpadded[name] for name in ("prefill", "decode")}
    return io | (record_phantom if model.family == "phantom" else record_trol)(model, start, tokens, whole["run"])


def record_trol(model: Reference, start: dict[str, Any], tokens: Tensor, run: Run) -> dict[str, Tensor]:
    model.traversal = False
    io = {"prefill_logits_no_traversal": model.forward(Run(), **start)}
    model.traversal = True
    if model.is_internlm:
        model.lora = False
        io["prefill_logits_no_plora"] = model.forward(Run(), **start)
        model.lora = True
        io["decode_logits_official_forward"] = without_padding_mask(model, start, tokens)
    return io


def record_phantom(model: Reference, start: dict[str, Any], tokens: Tensor, run: Run) -> dict[str, Tensor]:
    io = {f"layer0_sos_{kind}": states for kind, states in run.sos[0].items()}
    before, model.eta = model.eta, 1e-4
    released = converse(model, start, tokens)
    io |= {f"{name}_logits_eta1e4": released[name] for name in ("prefill", "decode")}
    model.eta = 0.0
    io["prefill_logits_phantom_off"] = model.forward(Run(), **start)
    model.eta = before
    return io


@torch.no_grad()
def write_folder(
    path: Path, family: str, backbone: str, seed: int = 0, dtype: torch.dtype = torch.float32, **options: Any
) -> Path:
    """Draw a model and write it with what it gives, as the recorded folders are.

    options  whatever SIZES holds; `llm` and `top`, what to lay over config.json; `without`, dotted fields to take out
    """
    llm, top, without = options.pop("llm", {}), options.pop("top", {}), options.pop("without", ())
    sizes = {**SIZES, **options}
    config = official_config(family, backbone, sizes, llm)
    weights = draw_weights(family, backbone, seed, sizes)
    io = record(Reference(weights, config, dtype), draw_inputs(config, seed, sizes))
    io = {name: t.to(torch.float32) if t.is_floating_point() else t for name, t in io.items()}
    path.mkdir(parents=True, exist_ok=True)
    config |= top
    for field in without:
        *parts, last = field.split(".")
        inside = config
        for part in parts:
            inside = inside[part]
        del inside[last]
    (path / "config.json").write_text(json.dumps(config, indent=1))
    save_file({name: tensor.contiguous() for name, tensor in weights.items()}, path / "weights.safetensors")
    save_file({name: tensor.contiguous() for name, tensor in io.items()}, path / "io.safetensors")
    return path
