"""`verify` misses what is wrong in a recording, says why something was not compared, and forgives padding."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from verifying import INPUTS, RECORDED, changed, found, missed

from phantrol.models.released.convert import load_official
from phantrol.models.released.replay import Replay, Variant
from phantrol.models.released.verify import TOLERANCE, passed, summary, verify


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
        io["cache_key_layer99"] = io["prefill_logits_backwards"] = io["prefill_logits_eta1.2.3"] = torch.zeros(2)

    comparisons = found(changed(tmp_path, RECORDED / "trol_internlm2", "io", add))
    unknown = {name: each.note for name, each in comparisons.items() if each.verdict == "not compared"}
    assert unknown == {
        "attention_of_layer7": "no tensor of this name is known",
        "prefill_logits_eta1e4": "this model has no phantom",
        "layer0_sos_key": "this model has no phantom",
        "cache_key_layer99": "there is no layer 99",
        "prefill_logits_backwards": "no variant is known as backwards",
        "prefill_logits_eta1.2.3": "no variant is known as eta1.2.3",
    }
    agree = 15 - (comparisons["hidden_states"].verdict == "rounds")
    rounded = "" if agree == 15 else "; 1 but for what float32 rounds"
    assert summary(list(comparisons.values())) == f"{agree} of 15 tensors agree within 2e-05{rounded}; 6 not compared"


@pytest.mark.parametrize(("times", "verdict"), [(1.5, "rounds"), (3.0, "MISS")])
def test_what_float32_rounds_is_no_miss_and_more_is(tmp_path: Path, times: float, verdict: str):
    """One number of the token that rounds most in a layer, so many times what float32 takes it from float64; in another
    layer, or in the token that rounds least, it would be a miss."""
    folder = RECORDED / "trol_internlm2"
    io = load_file(folder / "io.safetensors")
    ours, exact = (
        Replay(load_official(folder, dtype=dtype, need_vision=False), io).answer(Variant()).hidden_states
        for dtype in (torch.float32, torch.float64)
    )
    by_token = (ours - exact).abs().amax(-1).float()  # [layers, B, N]
    rounding = by_token[:, io["attention_mask"] == 1].amax(1)
    assert rounding[3] > 2e-5 > rounding[4]
    most, least = (by_token[3] == rounding[3]).nonzero()[0], by_token[3].where(io["attention_mask"] == 1, 1.0).argmin()
    least = divmod(int(least), by_token.shape[-1])
    assert by_token[3][least] < rounding[3] / 8

    def spoil(io: dict[str, Tensor], layer: int = 3, token: Any = tuple(most)) -> None:
        io["hidden_states"].copy_(ours)
        io["hidden_states"][layer][token][0] += times * rounding[3]

    found_here = found(changed(tmp_path, folder, "io", spoil))
    assert found_here["hidden_states"].verdict == verdict
    assert passed(list(found_here.values())) is (verdict == "rounds")
    assert missed(changed(tmp_path, folder, "io", lambda io: spoil(io, layer=4))) == {"hidden_states"}
    assert missed(changed(tmp_path, folder, "io", lambda io: spoil(io, token=least))) == {"hidden_states"}


def test_without_an_answer_the_prompt_is_compared(tmp_path: Path):
    comparisons = found(changed(tmp_path, RECORDED / "phantom_qwen2", "io", lambda io: io.pop("decode_tokens")))
    unknown = {name for name, each in comparisons.items() if each.verdict == "not compared"}
    assert unknown == {name for name in comparisons if name.startswith("cache_") or "decode" in name}
    assert all(comparisons[name].note == "there are no decode_tokens to feed" for name in unknown)
    assert passed(list(comparisons.values())) and comparisons["hidden_states"].verdict == "ok"


@pytest.mark.parametrize("also", [set(), {"position_ids", "phantom_position"}, {"decode_tokens"}], ids=len)
def test_comparing_nothing_that_the_weights_compute_is_no_success(tmp_path: Path, also: set[str]):
    """What is counted is right with any weights, and so is a choice of tokens with many."""
    folder = changed(
        tmp_path, RECORDED / "phantom_qwen2", "io", lambda io: [io.pop(each) for each in set(io) - INPUTS - also]
    )
    comparisons = verify(folder)
    assert {each.name for each in comparisons if each.verdict == "ok"} == also
    assert not passed(comparisons) and "MISS" not in {each.verdict for each in comparisons}
    assert summary(comparisons).endswith("; nothing that the weights compute was compared")


def test_what_the_original_gets_wrong_in_every_row_is_not_compared(tmp_path: Path):
    """The row without padding is left out."""

    def leave_out(io: dict[str, Tensor]) -> None:
        for name in set(io):
            if not name.startswith("unpadded_"):
                io[name] = io[name][:, :1] if name == "hidden_states" else io[name][:1]

    comparisons = found(changed(tmp_path, RECORDED / "trol_internlm2", "io", leave_out))
    (name,) = [each.name for each in comparisons.values() if each.verdict == "not compared"]
    assert name == "decode_logits_official_forward"
    assert comparisons[name].note == "every row has padding, and those are wrong in the original"
    assert passed(list(comparisons.values()))


def test_the_weights_that_were_recorded_are_read_and_no_others(tmp_path: Path):
    def keep(io: dict[str, Tensor]) -> None:
        pass

    folder = changed(tmp_path, RECORDED / "phantom_qwen2", "io", keep)
    weights = {name: 1.1 * tensor for name, tensor in load_file(folder / "weights.safetensors").items()}
    save_file(weights, folder / "model.safetensors")
    assert passed(verify(folder))


@pytest.mark.parametrize(
    ("recording", "name"), [("phantom_qwen2", "pixel_values"), ("trol_internlm2", "image_features")]
)
def test_what_went_in_has_its_dimensions(tmp_path: Path, recording: str, name: str):
    def flatten(io: dict[str, Tensor]) -> None:
        io[name] = torch.tensor(1.0)

    with pytest.raises(ValueError, match=rf"{name} in io.safetensors is \[\]: expected"):
        verify(changed(tmp_path, RECORDED / recording, "io", flatten))


def test_a_miss_is_told_from_rounding(tmp_path: Path):
    spoil = changed(tmp_path, RECORDED / "phantom_qwen2", "io", lambda io: io["prefill_logits"].add_(0.01))
    comparison = found(spoil)["prefill_logits"]
    assert comparison.difference > 500 * TOLERANCE
    assert float(comparison.note.removeprefix("float32 rounds by ")) < TOLERANCE
    assert passed(verify(RECORDED / "phantom_qwen2", torch.float64))


@pytest.mark.parametrize(
    ("recording", "function"),
    [
        ("trol_internlm2", "phantrol.modifiers.trol.mix_passes"),
        ("phantom_qwen2", "phantrol.modifiers.phantom_attention.merge_halves"),
    ],
)
def test_a_fault_that_shows_in_float32_alone_is_no_rounding(monkeypatch: Any, recording: str, function: str):
    """The last argument, a ratio or its score, is half of itself in float32; in float64 all is well."""
    right = import_module(function.rpartition(".")[0]).__dict__[function.rpartition(".")[2]]

    def wrong(first: Tensor, second: Tensor, ratio: Tensor) -> Tensor:
        return right(first, second, ratio * (0.5 if first.dtype == torch.float32 else 1))

    monkeypatch.setattr(function, wrong)
    comparisons = found(RECORDED / recording)
    assert comparisons["prefill_logits"].verdict == comparisons["hidden_states"].verdict == "MISS"
    assert "from float64 here, too far for rounding" in comparisons["prefill_logits"].note


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
