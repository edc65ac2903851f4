"""`phantrol describe` of models: parts, and memory at a given prompt."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

RECORDED = Path(__file__).parents[1] / "recorded"


def sizes(text: str, phase: str) -> list[float]:
    """Weights, cache, activations and sum of a row, in MiB."""
    row = next(line for line in text.splitlines() if phase in line)
    found = re.findall(r"([\d.]+) (MiB|GiB)", row)
    return [float(number) * (1024 if unit == "GiB" else 1) for number, unit in found]


@pytest.fixture(scope="module")
def phantom_1_8b(phantrol):
    done = phantrol("describe", "Phantom-1.8B", "--prompt-tokens", 256, "--answer-tokens", 64)
    assert done.code == 0, done.error
    return done.out


def test_a_released_model_by_its_name(phantom_1_8b):
    for words in ("vision_tower", "304,012,288", "in all", "2,210,442,288", "at most 7", "bfloat16", "phantom"):
        assert words in phantom_1_8b
    weights, cache, activations, whole = sizes(phantom_1_8b, "reading the prompt")
    assert weights == pytest.approx(2 * 2_210_442_288 / 2**20, rel=2e-3)
    tokens, anchors = 256 + 7 * 256, 24 * 2 * (16 + 8 + 8) * 128 * 2
    assert cache == pytest.approx((2 * 2 * tokens * 24 * 8 * 128 * 2 + anchors) / 2**20, abs=0.1)
    assert activations > 50 and whole == pytest.approx(weights + cache + activations, rel=5e-3)


@pytest.mark.parametrize("name", ["phantom-0.5b", "bk-lee/Phantom-0.5B"])
def test_a_release_is_known_in_any_case_and_by_its_owner(phantrol, name):
    done = phantrol("describe", name)
    assert done.code == 0 and "Phantom-0.5B, as released" in done.out, done.error
    assert "phantrol convert BK-Lee/Phantom-0.5B Phantom-0.5B" in done.out


def test_flags_change_what_they_are_for(phantrol, phantom_1_8b):
    before = sizes(phantom_1_8b, "reading the prompt")
    flags = ["--prompt-tokens", 256, "--answer-tokens", 64, "--images", 2, "--tiles", 1, "--batch-size", 2]
    after = sizes(phantrol("describe", "Phantom-1.8B", *flags, "--dtype", "int4").out, "reading the prompt")
    assert after[0] < 0.55 * before[0]  # embeddings, head and vision tower stay in bfloat16
    assert after[1] / before[1] == pytest.approx(2 * (256 + 2 * 256) / (256 + 7 * 256), rel=1e-2)


@pytest.mark.parametrize("name", ["trol_internlm2", "phantom_qwen2"])
def test_a_folder_in_the_official_layout(phantrol, name):
    done = phantrol("describe", RECORDED / name, "--dtype", "float16")
    assert done.code == 0, done.error
    assert "in the official layout" in " ".join(done.out.split()) and "phantrol convert" in done.out
    assert ("partial_lora" in done.out) == (name == "trol_internlm2")
    text = phantrol("describe", RECORDED / name, "--images", 0).out
    assert "seeing the pictures" in done.out and "seeing the pictures" not in text and "reading the prompt" in text


def test_a_model_that_was_trained_here(here, phantrol):
    done = phantrol("describe", "runs/demo/final")
    assert done.code == 0, done.error
    for words in ("grafted: trol", "float32", "at most 1", "phantrol ask runs/demo/final"):
        assert words in done.out
    weights, *_ = sizes(done.out, "writing the answer")
    assert weights == pytest.approx((here / "runs/demo/final/model.safetensors").stat().st_size / 2**20, rel=0.02)


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["Phantom-7B", "--dtype", "int2"], ["int2", "int8"]),
        (["Phantom-7B", "--tiles", 8], ["--tiles 8", "expected at most 7"]),
        (["Phantom-7B", "stages.tune.lr=1"], ["Phantom-7B is a model", "recipes"]),
        (["Phantom-8B"], ["Phantom-8B is no folder, no recipe and no release", "phantom_7b", "Phantom-7B"]),
        (["models/Phantom-8B"], ["no folder", "Phantom-7B"]),
    ],
)
def test_what_cannot_be_described_is_one_line(phantrol, args, words):
    done = phantrol("describe", *args)
    assert done.code == 2
    for word in words:
        assert word in done.error


def test_a_file_of_another_kind_is_no_module(phantrol, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "picture.png").touch()
    done = phantrol("describe", "picture.png")
    assert done.code == 2 and done.error.startswith("phantrol: picture.png is no folder, no recipe and no release")


def test_a_folder_of_another_model_is_one_line(phantrol, tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "bert", "architectures": ["BertModel"]}')
    done = phantrol("describe", tmp_path)
    assert done.code == 2 and len(done.error.strip().splitlines()) == 1


def set_dtype(folder):
    config = json.loads((folder / "config.json").read_text("utf-8"))
    (folder / "config.json").write_text(json.dumps({**config, "dtype": "x"}), "utf-8")


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda folder: (folder / "config.json").write_text("[1]"), ["config.json holds a list", "copy"]),
        (lambda folder: (folder / "config.json").write_text("null"), ["config.json holds a NoneType", "copy"]),
        (lambda folder: (folder / "processor_config.json").write_text("{}"), ["KeyError: 'image_processor'", "copy"]),
        (lambda folder: (folder / "processor_config.json").write_text("[]"), ["TypeError", "copy"]),
        (set_dtype, ["has no attribute 'x'", "copy"]),
    ],
    ids=["a list", "null", "no image processor", "a list of the processor", "dtype"],
)
def test_a_corrupt_model_folder_is_one_line(here, phantrol, tmp_path, spoil, words):
    folder = Path(shutil.copytree("runs/demo/final", tmp_path / "model"))
    spoil(folder)
    done = phantrol("describe", folder)
    assert done.code == 2 and len(done.error.strip().splitlines()) == 1, done.error
    for word in ("phantrol: ", str(folder), *words):
        assert word in done.error


def test_an_official_folder_that_no_model_can_be_built_of_is_one_line(phantrol, tmp_path):
    folder = Path(shutil.copytree(RECORDED / "phantom_qwen2", tmp_path / "model"))
    config = json.loads((folder / "config.json").read_text("utf-8"))
    config["llm_config"]["hidden_act"] = "x"
    (folder / "config.json").write_text(json.dumps(config), "utf-8")
    done = phantrol("describe", folder)
    assert done.code == 2 and len(done.error.strip().splitlines()) == 1, done.error
    assert "KeyError: 'x'" in done.error
