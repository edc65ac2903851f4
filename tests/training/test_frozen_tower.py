"""A tower with batch norms that is not trained stands still: its statistics are those it came with, to the bit."""

from __future__ import annotations

from dataclasses import replace

import pytest

from phantrol.data.messages import Example, Message
from phantrol.training.run import run
from phantrol.training.trainer import StageTrainer

TOWER = dict(model_type="efficientnet_lite", num_stages=3, image_size=32)


@pytest.fixture(scope="module")
def recipe(tiny_recipe):
    small = tiny_recipe("stages.align.max_steps=2", "stages.tune.max_steps=2", "stages.tune.batch_size=4")
    align, tune = small.stages
    stages = (align, replace(tune, train=("projector.*", "language_model.*")))
    return replace(small, model=replace(small.model, vision=TOWER), stages=stages)


@pytest.fixture
def towers(monkeypatch):
    """The state of the tower, a copy after each stage, before the final model is written."""
    states, train = [], StageTrainer.train

    def watched(trainer, *args):
        before = {name: tensor.clone() for name, tensor in trainer.model.vision_tower.state_dict().items()}
        finished = train(trainer, *args)
        after = trainer.model.vision_tower.state_dict()
        states.append({name for name, tensor in after.items() if not tensor.equal(before[name])})
        return finished

    monkeypatch.setattr(StageTrainer, "train", watched)
    return states


def test_statistics_do_not_move(recipe, towers, tmp_path):
    run(recipe, tmp_path / "run")
    assert towers == [set(), set()]


@pytest.mark.parametrize("mistake", ["train", "frozen_towers"])
def test_they_would(recipe, towers, tmp_path, monkeypatch, mistake):
    """Where the tower is trained, and where nobody puts a frozen one in eval mode."""
    if mistake == "train":
        recipe = replace(recipe, stages=tuple(replace(stage, train=("*",)) for stage in recipe.stages))
    else:
        monkeypatch.setattr("phantrol.training.trainer.frozen_towers", lambda model: [])
    run(recipe, tmp_path / "run")
    for moved in towers:
        assert any(name.endswith("running_mean") for name in moved)
        assert any(name.endswith("conv.weight") for name in moved) == (mistake == "train")


def test_an_idle_picture_is_no_part_of_them(recipe, tmp_path):
    """Which a rank without pictures runs so that all take part; where they are trained, a picture that is shown is."""
    stage = replace(recipe.stages[1], train=("*",))
    recipe = replace(recipe, stages=(recipe.stages[0], stage))
    model, processor = recipe.model.build()
    trainer = StageTrainer(model, processor, recipe, 1, tmp_path)
    trainer.behind_pictures = list(model.vision_tower.parameters())  # as under DDP
    text = (Example("text", (Message("user", ("Hi?",)), Message("assistant", ("Yes.",)))),)
    rows = (trainer.data_collator([stage.data.group(index, 0)]) for index in range(9))
    shown = next(row for row in rows if "pixel_values" in row)
    moved = []
    for batch in (trainer.data_collator([text]), shown):
        before = {name: buffer.clone() for name, buffer in model.named_buffers() if "running" in name}
        batch = trainer._prepare_inputs(batch)
        assert "pixel_values" in batch
        trainer.compute_loss(model.train(), batch, num_items_in_batch=stage.loss.count(batch)).backward()
        after = dict(model.named_buffers())
        moved.append([name for name in before if not after[name].equal(before[name])])
    assert not moved[0] and moved[1]
