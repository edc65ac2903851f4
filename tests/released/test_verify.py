"""`verify` finds phantrol equal to what was recorded, and nothing else equal: each wrong weight or number is a miss."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from recordings import COMBINATIONS
from safetensors.torch import load_file, save_file
from torch import Tensor

from phantrol.models.released.convert import load_official
from phantrol.models.released.replay import Replay, Variant
from phantrol.models.released.verify import TOLERANCE, Comparison, passed, summary, verify

RECORDED = Path(__file__).parents[1] / "recorded"

Folder = Callable[..., Path]
INPUTS = {"input_ids", "attention_mask", "pixel_values"}
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
    ("phantom", "qwen2", dict(tie_word_embeddings=True, num_attention_heads=4, num_key_value_heads=1, eta=0.01)),
    ("phantom", "qwen2", dict(hidden_size=96, num_attention_heads=6, num_key_value_heads=3, tokens=18, pads=1)),
]


def found(folder: Path) -> dict[str, Comparison]:
    return {comparison.name: comparison for comparison in verify(folder)}


def missed(folder: Path, dtype: torch.dtype = torch.float32) -> set[str]:
    return {comparison.name for comparison in verify(folder, dtype) if comparison.verdict == "MISS"}


def check(folder: Path) -> None:
    """Every tensor is listed, every one but the inputs is compared, and none is off."""
    comparisons, io = found(folder), load_file(folder / "io.safetensors")
    assert comparisons.keys() == io.keys()
    inputs = INPUTS | (set() if "pixel_values" in io else {"image_features"})
    for name, comparison in comparisons.items():
        assert comparison.verdict == ("input" if name in inputs else "ok"), str(comparison)
        assert comparison.compared > 0 or name in inputs
    assert passed(list(comparisons.values()))


def changed(tmp_path: Path, folder: Path, part: str, change: Callable[[dict[str, Any]], None]) -> Path:
    """Return a copy of the folder in which `change` had its way with the contents of one of its files."""
    copy = tmp_path / "changed"
    shutil.copytree(folder, copy, dirs_exist_ok=True)
    if part == "config":
        content = json.loads((copy / "config.json").read_text())
        change(content)
        (copy / "config.json").write_text(json.dumps(content))
    else:
        content = load_file(copy / f"{part}.safetensors")
        change(content)
        save_file({name: tensor.clone().contiguous() for name, tensor in content.items()}, copy / f"{part}.safetensors")
    return copy


@pytest.mark.parametrize("name", ["trol_internlm2", "phantom_qwen2"])
def test_what_was_recorded(name: str):
    check(RECORDED / name)


@pytest.mark.parametrize(("family", "backbone"), COMBINATIONS)
def test_each_combination(drawn_folder: Folder, family: str, backbone: str):
    check(drawn_folder(family, backbone))


@pytest.mark.parametrize(("family", "backbone", "options"), OTHERS)
def test_other_sizes(drawn_folder: Folder, family: str, backbone: str, options: dict[str, Any]):
    check(drawn_folder(family, backbone, **options))


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


# --- wrong recordings


@pytest.mark.parametrize("name", ["trol_internlm2", "phantom_qwen2"])
def test_one_number_is_enough(tmp_path: Path, name: str):
    """In each tensor that is compared, in turn, one number of a real token: that tensor is missed, and no other."""
    whole = load_file(RECORDED / name / "io.safetensors")
    numbers = [each for each, tensor in whole.items() if tensor.is_floating_point() and each not in INPUTS]
    numbers = [each for each in numbers if not (each == "image_features" and "pixel_values" not in whole)]
    folder = changed(
        tmp_path, RECORDED / name, "io", lambda io: [io[each].flatten()[-1].add_(1e-4) for each in numbers]
    )
    assert missed(folder) == set(numbers)
    folder = changed(tmp_path, RECORDED / name, "io", lambda io: io["decode_logits"][0, 0, 0].fill_(float("nan")))
    assert missed(folder) == {"decode_logits"}


def test_padding_is_nobodys(tmp_path: Path):
    def spoil(io: dict[str, Tensor]) -> None:
        io["prefill_logits"][0, :5] = 99
        io["hidden_states"][1:, 0, :5] = float("nan")
        io["cache_key_layer3"][0, :, :5] = float("inf")
        io["position_ids"][0, :5] = 7
        io["decode_logits_official_forward"][0] = 99

    assert not missed(changed(tmp_path, RECORDED / "trol_internlm2", "io", spoil))


@pytest.mark.parametrize(
    ("recording", "name", "change"),
    [
        ("trol_internlm2", "position_ids", lambda io: io["position_ids"][1].add_(1)),
        ("trol_internlm2", "im_mask", lambda io: io["im_mask"][1].logical_not_()),
        ("trol_internlm2", "decode_tokens", lambda io: io["decode_tokens"][1, 3].fill_(7)),
        (
            "phantom_qwen2",
            "phantom_position",
            lambda io: io["phantom_position"].copy_(io["phantom_position"].roll(1, 1)),
        ),
    ],
)
def test_inputs_that_the_model_finds_by_itself(tmp_path: Path, recording: str, name: str, change: Any):
    assert name in missed(changed(tmp_path, RECORDED / recording, "io", change))


def test_a_tensor_that_nobody_knows_is_named(tmp_path: Path):
    def add(io: dict[str, Tensor]) -> None:
        io["attention_of_layer7"] = io["prefill_logits_eta1e4"] = io["layer0_sos_key"] = torch.zeros(2)
        io["cache_key_layer99"] = io["prefill_logits_backwards"] = torch.zeros(2)

    comparisons = found(changed(tmp_path, RECORDED / "trol_internlm2", "io", add))
    unknown = {name: each.note for name, each in comparisons.items() if each.verdict == "not compared"}
    assert unknown == {
        "attention_of_layer7": "no tensor of this name is known",
        "prefill_logits_eta1e4": "this model has no phantom",
        "layer0_sos_key": "this model has no phantom",
        "cache_key_layer99": "there is no layer 99",
        "prefill_logits_backwards": "no variant is known as backwards",
    }
    assert summary(list(comparisons.values())) == "15 of 15 tensors agree within 2e-05; 5 not compared"


def test_comparing_nothing_is_no_success(tmp_path: Path):
    def pad_both(io: dict[str, Tensor]) -> None:
        io["attention_mask"][1, 0] = 0

    comparisons = found(changed(tmp_path, RECORDED / "trol_internlm2", "io", pad_both))
    assert comparisons["decode_logits_official_forward"].verdict == "MISS"
    assert "nothing to compare" in comparisons["decode_logits_official_forward"].note
    only_inputs = changed(tmp_path, RECORDED / "phantom_qwen2", "io", lambda io: [io.pop(n) for n in set(io) - INPUTS])
    assert not passed(verify(only_inputs))


def test_a_miss_is_told_from_rounding(tmp_path: Path):
    spoil = changed(tmp_path, RECORDED / "phantom_qwen2", "io", lambda io: io["prefill_logits"].add_(0.01))
    comparison = found(spoil)["prefill_logits"]
    assert comparison.difference > 500 * TOLERANCE
    assert float(comparison.note.removeprefix("float32 rounds by ")) < TOLERANCE
    assert passed(verify(RECORDED / "phantom_qwen2", torch.float64))


def test_a_miss_of_float32_alone_is_no_miss(tmp_path: Path):
    """Recorded numbers that float64 meets by a hair, and that rounding puts out of reach of float32."""
    folder = RECORDED / "phantom_qwen2"
    ours = []
    for dtype in (torch.float32, torch.float64):
        io = load_file(folder / "io.safetensors")
        model = load_official(folder, dtype=dtype)
        ours.append(Replay(model, io).answer(Variant()).prefill_logits.double())

    def shift(io: dict[str, Tensor]) -> None:
        away = torch.where(ours[1] >= ours[0], 1.0, -1.0)
        io["prefill_logits"] = (ours[1] + 0.98 * TOLERANCE * away).float()

    comparison = found(changed(tmp_path, folder, "io", shift))["prefill_logits"]
    assert comparison.verdict == "ok" and comparison.difference < TOLERANCE
    assert comparison.note.startswith("in float64; 2.") and "e-05 in float32, which rounds by" in comparison.note
