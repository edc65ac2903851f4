"""`verify` finds phantrol equal to what was recorded, and nothing else equal: each wrong weight or number is a miss."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from recordings import COMBINATIONS
from safetensors.torch import load_file, save_file
from torch import Tensor
from verifying import INPUTS, RECORDED, changed, found, missed

from phantrol.models.released.verify import passed, verify

Folder = Callable[..., Path]
SU = dict(type="su", short_factor=[1.0] * 4 + [2.0] * 4, long_factor=[1.0, 1.1, 1.2, 1.3, 2.0, 3.0, 4.0, 5.0])
OTHERS = [
    ("trol", "internlm2", dict(num_key_value_heads=1, num_hidden_layers=3, vocab_size=300, lora_r=4)),
    ("trol", "internlm2", dict(num_key_value_heads=4, hidden_size=48, feature_size=64, lora_alpha=4, pads=0)),
    ("trol", "phi3", dict(num_key_value_heads=4, hidden_size=48, intermediate_size=80, num_hidden_layers=2)),
    ("trol", "phi3", dict(num_key_value_heads=1, side_px=112, tokens=40, vision_heads=2)),
    ("phantom", "internlm2", dict(num_attention_heads=8, num_key_value_heads=2, eta=1.0)),
    ("phantom", "internlm2", dict(num_key_value_heads=1, llm=dict(rope_scaling=None, rope_theta=10000), seed=5)),
    ("phantom", "phi3", dict(num_attention_heads=2, num_key_value_heads=2, vision_layers=1, vocab_size=700)),
    (
        "phantom",
        "phi3",
        dict(without=("llm_config.architectures", "llm_config.rope_scaling", "vision_config.norm_type")),
    ),
    ("phantom", "internlm2", dict(llm=dict(rope_scaling={"type": "linear", "factor": 2.0}))),
    ("phantom", "phi3", dict(llm=dict(rope_scaling=SU, original_max_position_embeddings=16))),
    ("trol", "phi3", dict(llm=dict(rope_scaling=SU, original_max_position_embeddings=26))),  # the answer turns longer
    ("trol", "internlm2", dict(feature_size=48)),
    ("trol", "internlm2", dict(feature_size=224)),
    ("trol", "qwen2", dict(tie_word_embeddings=True)),  # nobody released it, and nothing is in its way
    ("phantom", "phi3", dict(llm=dict(sliding_window=10))),  # shorter than the prompt: the anchor is out of sight
    ("phantom", "qwen2", dict(tie_word_embeddings=True, num_attention_heads=4, num_key_value_heads=1, eta=0.01)),
    ("phantom", "qwen2", dict(hidden_size=96, num_attention_heads=6, num_key_value_heads=3, tokens=18, pads=1)),
]


def check(folder: Path) -> None:
    """Every tensor is listed, every one but the inputs is compared, and none is off."""
    comparisons, io = found(folder), load_file(folder / "io.safetensors")
    assert comparisons.keys() == io.keys()
    inputs = INPUTS | (set() if "pixel_values" in io else {"image_features"})
    for name, comparison in comparisons.items():
        # hidden states of 40 round by more than the tolerance on some processors
        right = {"input"} if name in inputs else {"ok", "rounds"} if name == "hidden_states" else {"ok"}
        assert comparison.verdict in right, str(comparison)
        assert comparison.compared > 0 or name in inputs
    assert passed(list(comparisons.values()))


@pytest.mark.parametrize("name", ["trol_internlm2", "phantom_qwen2"])
def test_what_was_recorded(name: str):
    check(RECORDED / name)


@pytest.mark.parametrize(("family", "backbone"), COMBINATIONS)
def test_each_combination(drawn_folder: Folder, family: str, backbone: str):
    check(drawn_folder(family, backbone))


@pytest.mark.parametrize(("family", "backbone", "options"), OTHERS)
def test_other_sizes(drawn_folder: Folder, family: str, backbone: str, options: dict[str, Any]):
    check(drawn_folder(family, backbone, **options))


@pytest.mark.parametrize(("family", "backbone"), COMBINATIONS)
def test_float64_is_so_throughout(drawn_folder: Folder, family: str, backbone: str):
    """A recording made in float64 is met to the last digit of the float32 that it was written in."""
    folder = drawn_folder(family, backbone, dtype=torch.float64)
    logits = [each for each in verify(folder, torch.float64) if "logits" in each.name]
    assert len(logits) >= 5
    for comparison in logits:
        assert comparison.difference < 1e-6, str(comparison)


# --- wrong weights


def kinds(weights: dict[str, Tensor]) -> dict[str, list[str]]:
    """Names of one kind, from the first layer to the last."""
    by_kind: dict[str, list[str]] = {}
    for name in weights:
        by_kind.setdefault(re.sub(r"(layers|trol_gating)\.\d+", r"\1.i", name), []).append(name)
    return {kind: sorted(names) for kind, names in by_kind.items()}


@pytest.mark.parametrize(("family", "backbone"), COMBINATIONS)
def test_a_wrong_tensor_of_any_kind_is_missed(drawn_folder: Folder, tmp_path: Path, family: str, backbone: str):
    folder = drawn_folder(family, backbone, num_hidden_layers=2, vision_layers=1)
    weights, io = load_file(folder / "weights.safetensors"), load_file(folder / "io.safetensors")
    asked = {"input_ids", "attention_mask", "im_mask", "pixel_values", "prefill_logits"}
    asked |= {"image_features"} if "pixel_values" not in io else set()
    folder = changed(tmp_path, folder, "io", lambda io: [io.pop(name) for name in set(io) - asked])
    assert not missed(folder, torch.float64)  # the quicker one, where something is missed
    for kind, names in kinds(weights).items():
        if kind.startswith("vision_model") and backbone != "qwen2":
            continue  # the same tower
        name = names[-1]  # of the gates the last one counts
        save_file({**weights, name: weights[name] * 1.01}, folder / "weights.safetensors")
        assert "prefill_logits" in missed(folder, torch.float64), kind


def test_of_unequal_gates_the_last_counts(tmp_path: Path):
    gate = "model.trol_gating.{}.weight"
    first = changed(tmp_path, RECORDED / "trol_internlm2", "weights", lambda w: w[gate.format(0)].mul_(2))
    assert not missed(first)
    last = changed(tmp_path, RECORDED / "trol_internlm2", "weights", lambda w: w[gate.format(3)].mul_(1.01))
    assert missed(last) >= {"hidden_states", "prefill_logits"}
    assert "prefill_logits_no_traversal" not in missed(last)


def swap_slots(weights: dict[str, Tensor], name: str) -> None:
    """Of fused wqkv, [query, query, key, value] per key/value head: the key for the value."""
    slots = weights[name].unflatten(0, (2, 4, 16))
    weights[name] = slots[:, [0, 1, 3, 2]].flatten(0, 2)


def swap_rows(weights: dict[str, Tensor], name: str, first: slice, second: slice) -> None:
    tensor = weights[name].clone()
    tensor[first], tensor[second] = weights[name][second], weights[name][first]
    weights[name] = tensor


LAYER = "language_model.model.layers.0."


@pytest.mark.parametrize(
    ("family", "backbone", "change"),
    [
        ("trol", "internlm2", lambda w: swap_slots(w, "model.layers.0.attention.wqkv.ffn.weight")),
        ("trol", "internlm2", lambda w: swap_slots(w, "model.layers.0.attention.wqkv.lora_B.weight")),
        ("phantom", "internlm2", lambda w: swap_slots(w, f"{LAYER}attention.wqkv.weight")),
        ("trol", "phi3", lambda w: swap_rows(w, f"{LAYER}self_attn.qkv_proj.weight", slice(32), slice(64, 96))),
        ("phantom", "phi3", lambda w: swap_rows(w, f"{LAYER}mlp.gate_up_proj.weight", slice(96), slice(96, 192))),
        ("phantom", "qwen2", lambda w: swap_rows(w, f"{LAYER}self_attn.k_proj.weight", slice(16), slice(16, 32))),
    ],
)
def test_parts_in_the_wrong_place_are_missed(
    drawn_folder: Folder, tmp_path: Path, family: str, backbone: str, change: Callable[[dict[str, Tensor]], None]
):
    folder = drawn_folder(family, backbone)
    assert "prefill_logits" in missed(changed(tmp_path, folder, "weights", change))


# --- wrong configurations


@pytest.mark.parametrize("eta", [0.0, 0.49])
def test_another_eta_is_missed_where_it_was_used(tmp_path: Path, eta: float):
    off = missed(changed(tmp_path, RECORDED / "phantom_qwen2", "config", lambda config: config.update(eta=eta)))
    assert off >= {"prefill_logits", "decode_logits", "hidden_states", "unpadded_row0_decode_logits"}
    assert not off & {"prefill_logits_eta1e4", "decode_logits_eta1e4", "prefill_logits_phantom_off", "layer0_sos_key"}


def test_eta_is_read_from_the_name(tmp_path: Path):
    def rename(io: dict[str, Tensor]) -> None:
        io["prefill_logits_eta0.5"], io["prefill_logits_eta5e-1"] = io["prefill_logits"], io["prefill_logits"]
        io["prefill_logits_eta2e4"] = io.pop("prefill_logits_eta1e4")

    comparisons = found(changed(tmp_path, RECORDED / "phantom_qwen2", "io", rename))
    assert comparisons["prefill_logits_eta0.5"].verdict == comparisons["prefill_logits_eta5e-1"].verdict == "ok"
    assert comparisons["prefill_logits_eta2e4"].verdict == "MISS"


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("trol_internlm2", dict(lora_alpha=9)),
        ("trol_internlm2", dict(rope_theta=900000)),
        ("trol_internlm2", dict(rms_norm_eps=1e-3)),
        ("trol_internlm2", dict(num_attention_heads=8)),
        ("phantom_qwen2", dict(llm_config=dict(rope_theta=10000.0))),
        ("phantom_qwen2", dict(vision_config=dict(num_attention_heads=2))),
    ],
)
def test_another_configuration_is_missed(tmp_path: Path, name: str, change: dict[str, Any]):
    def lay_over(config: dict[str, Any]) -> None:
        for key, value in change.items():
            config[key] = {**config[key], **value} if isinstance(value, dict) else value

    folder = changed(tmp_path, RECORDED / name, "config", lay_over)
    try:
        off = missed(folder)
    except ValueError:  # other heads may not fit the shapes of the cache that was recorded
        assert "num_attention_heads" in change
    else:
        assert "prefill_logits" in off
