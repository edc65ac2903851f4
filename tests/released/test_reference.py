"""The reference of these tests against what the official modules gave: else it could prove nothing about phantrol."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from io_tensors import record, write_folder
from recordings import COMBINATIONS
from reference import Reference
from safetensors.torch import load_file
from torch import Tensor

RECORDED = Path(__file__).parents[1] / "recorded"
AGREEMENT, BROKEN = 2e-5, 1e-3
INPUTS = {"input_ids", "attention_mask", "position_ids", "im_mask", "phantom_position", "pixel_values"}


def differences(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> dict[str, float]:
    """The largest difference of each tensor on real tokens."""
    real = theirs["attention_mask"].bool()
    with_answer = torch.cat([real, real.new_ones(2, 4)], dim=1)
    found = {}
    for name, tensor in theirs.items():
        difference = (ours[name].double() - tensor.double()).abs()
        if name.startswith("prefill"):
            difference = difference[real]
        elif name.startswith("hidden"):
            # hidden states of 40 are held to as many digits as numbers of 10
            difference = difference[:, real] / max(1.0, float(tensor[:, real].abs().max()) / 10)
        elif name.startswith("cache"):
            difference = difference.transpose(1, 2)[with_answer]
        found[name] = float(difference.max())
    return found


def replay(folder: Path, **changes: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return what the reference gives for the inputs of a recording, and the recording."""
    weights, io = load_file(folder / "weights.safetensors"), load_file(folder / "io.safetensors")
    inputs = INPUTS | ({"image_features"} if "pixel_values" not in io else set())
    model = Reference({**weights, **changes}, json.loads((folder / "config.json").read_text()))
    with torch.no_grad():
        return record(model, {name: tensor for name, tensor in io.items() if name in inputs}), io


@pytest.mark.parametrize("name", ["trol_internlm2", "phantom_qwen2"])
def test_every_recorded_tensor(name: str):
    """Row 0 of the recorded decode without a padding mask included, which the official code gets wrong."""
    ours, theirs = replay(RECORDED / name)
    assert ours.keys() == theirs.keys()
    found = differences(ours, theirs)
    assert max(found.values()) < AGREEMENT, found


def test_another_weight_would_show():
    name = "language_model.model.layers.3.self_attn.gating_phantom_2.bias"
    weight = load_file(RECORDED / "phantom_qwen2" / "weights.safetensors")[name]
    found = differences(*replay(RECORDED / "phantom_qwen2", **{name: weight + 0.1}))
    assert found["prefill_logits"] > BROKEN and found["layer0_sos_key"] < AGREEMENT


@pytest.mark.parametrize(("family", "backbone"), COMBINATIONS)
def test_drawn_folders_hold_what_the_recorded_ones_do(tmp_path: Path, family: str, backbone: str):
    folder = write_folder(tmp_path, family, backbone, seed=3)
    found = {part: load_file(folder / f"{part}.safetensors") for part in ("weights", "io")}
    recorded = RECORDED / f"{family}_{backbone}"
    if recorded.exists():
        for part, tensors in found.items():
            theirs = load_file(recorded / f"{part}.safetensors")
            assert {k: (t.shape, t.dtype) for k, t in tensors.items()} == {
                k: (t.shape, t.dtype) for k, t in theirs.items()
            }
    io = found["io"]
    heads = 2 if backbone == "internlm2" else 4
    if family == "phantom":
        assert io["layer0_sos_key"].shape == io["layer0_sos_value"].shape == (2, heads, 16)
        assert differences({**io, "prefill_logits": io["prefill_logits_eta1e4"]}, io)["prefill_logits"] > 1e-5
    # what was ablated matters, and padding does not
    for name in ("no_traversal", "no_plora", "phantom_off"):
        if f"prefill_logits_{name}" in io:
            assert differences({**io, "prefill_logits": io[f"prefill_logits_{name}"]}, io)["prefill_logits"] > 0.1
    assert float((io["unpadded_row0_prefill_logits"] - io["prefill_logits"][:1, 5:]).abs().max()) < AGREEMENT
    assert float((io["unpadded_row0_decode_logits"] - io["decode_logits"][:1]).abs().max()) < AGREEMENT
