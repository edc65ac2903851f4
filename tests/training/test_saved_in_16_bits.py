"""A model saved in float16 or bfloat16 is trained in float32: steps in 16 bits blow up, or are rounded away."""

from __future__ import annotations

import shutil
from dataclasses import replace

import pytest
import torch

import phantrol
from phantrol.models.quantised import is_quantised
from phantrol.training.new_model import Lora, SavedModel
from phantrol.training.run import run
from phantrol.training.weights import in_float32, trained_tensors

pytest.importorskip("peft")
TRAINED = ("projector.*", "*lora_*")


@pytest.fixture(scope="module")
def saved(tiny_recipe, tmp_path_factory):
    """`saved(dtype)` is one tiny model in that dtype, and `saved(dtype, wide=True)` the same numbers in float32."""
    torch.manual_seed(0)
    model, processor = tiny_recipe().model.build()
    start = {name: tensor.clone() for name, tensor in model.state_dict().items()}

    def folder(dtype: torch.dtype, wide: bool = False) -> str:
        path = tmp_path_factory.mktemp("saved")
        model.float().load_state_dict(start)
        model.to(dtype).to(torch.float32 if wide else dtype).save_pretrained(path)
        processor.save_pretrained(path)
        return str(path)

    return folder


def recipe_of(tiny_recipe, folder: str, **lora):
    made = tiny_recipe()
    model = SavedModel(folder, **lora)
    stages = tuple(
        replace(stage, max_steps=2, lr=2e-4, warmup_steps=0, optimiser="adamw", train=TRAINED if lora else ("*",))
        for stage in made.stages
    )
    return replace(made, model=model, stages=stages)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_it_learns_as_the_same_numbers_in_float32(tiny_recipe, saved, metrics, tmp_path, dtype):
    for wide in (False, True):
        run(recipe_of(tiny_recipe, saved(dtype, wide)), tmp_path / str(wide))
    assert metrics(tmp_path / "False") == metrics(tmp_path / "True")
    one, other = (phantrol.load(tmp_path / folder / "final")[0].state_dict() for folder in ("False", "True"))
    assert {tensor.dtype for tensor in one.values()} == {torch.float32}
    assert all(torch.equal(one[name], other[name]) for name in other)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_steps_under_adapters_are_as_large_as_the_rate_says(tiny_recipe, saved, tmp_path, dtype):
    folder = saved(dtype)
    final = run(recipe_of(tiny_recipe, folder, lora=Lora(rank=2)), tmp_path / "run")
    before, after = (dict(phantrol.load(path)[0].named_parameters()) for path in (folder, final))
    assert {parameter.dtype for parameter in after.values()} == {torch.float32}
    for name in before:
        if name.startswith("projector"):
            moved = (after[name] - before[name].float()).abs()
            assert moved.mean() > 0 and moved.max() < 2 * 4 * 2e-4, name  # in four steps


def test_a_stopped_run_goes_on_with_every_digit(tiny_recipe, saved, metrics, tmp_path):
    """Also from the end of a stage, where the next one's model is built anew."""
    recipe = recipe_of(tiny_recipe, saved(torch.float16), lora=Lora(rank=2))
    run(recipe, tmp_path / "whole")
    shutil.copytree(tmp_path / "whole", tmp_path / "halves")
    for name in ("final", "stages/1-tune"):
        shutil.rmtree(tmp_path / "halves" / name)
    run(recipe, tmp_path / "halves", resume=True)
    assert metrics(tmp_path / "halves") == metrics(tmp_path / "whole")


def test_quantised_weights_stay_as_they_are(tiny_recipe, saved):
    pytest.importorskip("torchao")
    model, _ = SavedModel(saved(torch.float16), lora=Lora(rank=2), weights="int8").build()
    before = [parameter for parameter in model.parameters() if is_quantised(parameter)]
    in_float32(model)
    assert before and [p for p in model.parameters() if is_quantised(p)] == before
    assert {p.dtype for p in model.parameters() if not is_quantised(p)} == {torch.float32}


def test_buffers_are_widened_too(tiny_recipe):
    model, _ = tiny_recipe().model.build()
    model.register_buffer("statistics", torch.ones(3, dtype=torch.float16))
    model.register_buffer("counts", torch.ones(3, dtype=torch.long))
    in_float32(model.to(torch.bfloat16))
    assert {p.dtype for p in (*model.parameters(), *model.buffers())} == {torch.float32, torch.long}


def test_buffers_are_saved_beside_what_is_trained():
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2))
    assert set(trained_tensors(model, ("0.weight",))) == {
        "0.weight",
        *(f"1.{name}" for name in ("running_mean", "running_var", "num_batches_tracked")),
    }
