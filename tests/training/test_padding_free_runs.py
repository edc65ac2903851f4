"""A run without padding: the losses of a padded one, and the same bits after a stop."""

from __future__ import annotations

import shutil
from dataclasses import replace

import pytest

from phantrol.losses.word_alignment import WordAlignment
from phantrol.training.run import run
from phantrol.training.trainer import StageTrainer


@pytest.fixture(scope="module")
def recipe(tiny_recipe):
    made = tiny_recipe()
    model = replace(made.model, text={**made.model.text, "attention_dropout": 0.0})  # draws depend on the shape
    stages = (replace(made.stages[0], optimiser="adamw"), replace(made.stages[1], optimiser="adamw", lr=1e-3))
    return replace(made, model=model, stages=stages)


def free(recipe, **changes):
    return replace(recipe, stages=tuple(replace(stage, padding_free=True, **changes) for stage in recipe.stages))


def test_losses_are_those_of_padded_rows(recipe, tmp_path, metrics):
    run(recipe, tmp_path / "padded")
    run(free(recipe), tmp_path / "free")
    padded, one_row = metrics(tmp_path / "padded"), metrics(tmp_path / "free")
    assert len(padded) == len(one_row) == 8
    for a, b in zip(padded, one_row, strict=True):
        assert a["loss"] == pytest.approx(b["loss"], abs=2e-4) and a["grad_norm"] == pytest.approx(b["grad_norm"], 0.01)


def test_a_stopped_run_goes_on_to_the_same_bits(tiny_recipe, tmp_path, metrics):
    whole = free(tiny_recipe(), precision="bfloat16", gradient_checkpointing=True)  # with dropout
    whole = replace(whole, stages=whole.stages[1:])
    run(whole, tmp_path / "run")
    before = metrics(tmp_path / "run"), (tmp_path / "run/final/model.safetensors").read_bytes()
    for path in (tmp_path / "run/final", *(tmp_path / f"run/stages/0-tune/checkpoint-{step}" for step in (2, 3, 4))):
        shutil.rmtree(path)
    run(whole, tmp_path / "run", resume=True)
    assert (metrics(tmp_path / "run"), (tmp_path / "run/final/model.safetensors").read_bytes()) == before


def test_what_cannot_be_one_row(recipe, tmp_path):
    with pytest.raises(ValueError, match="padding_free=True with WordAlignment"):
        replace(recipe.stages[0], padding_free=True, loss=WordAlignment())
    model, processor = recipe.model.build()
    model.set_attn_implementation("flex_attention")
    stages = tuple(replace(stage, pack=False) for stage in free(recipe).stages)
    with pytest.raises(ValueError, match="got flex_attention for a row of several sequences"):
        StageTrainer(model, processor, replace(recipe, stages=stages), 0, tmp_path).train()
