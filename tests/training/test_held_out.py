"""The loss of held-out data, and the best checkpoint: kept, taken, found again after a stop."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from dataclasses import dataclass, replace

import peft
import pytest
import torch
from safetensors.torch import load_file

from phantrol.data.mixture import Mixture
from phantrol.losses.base import LossOutput
from phantrol.losses.dpo import Dpo
from phantrol.losses.sft import Sft
from phantrol.losses.word_alignment import WordAlignment
from phantrol.training.checkpoint import checkpoints
from phantrol.training.held_out import HeldOutLoss, best_checkpoint, best_step
from phantrol.training.recipe import HeldOut
from phantrol.training.run import run
from phantrol.training.trainer import StageTrainer

LOSSES = {1: 3.0, 2: 1.0, 3: 2.0, 4: 2.5}  # what the held-out loss is made to be, step by step


def held_out(recipe, take="last", groups=4):
    """One stage, of which a source is held out."""
    align = recipe.stages[0]
    data = Mixture(((1.0, align.data.parts[1][1]),))
    return replace(recipe, stages=(replace(align, held_out=HeldOut(data, groups, take)),), keep_checkpoints=1)


@pytest.fixture(scope="module")
def whole(tiny_recipe, tmp_path_factory):
    torch.set_num_threads(1)
    out = tmp_path_factory.mktemp("whole")
    run(held_out(tiny_recipe()), out)
    return out


def test_it_is_measured_at_each_checkpoint_and_changes_nothing(whole, tiny_recipe, metrics, tmp_path):
    lines = [line for line in metrics(whole) if "eval_loss" in line]
    assert [line["step"] for line in lines] == [1, 2, 3, 4] and len({line["eval_loss"] for line in lines}) == 4
    recipe = held_out(tiny_recipe())
    run(replace(recipe, stages=(replace(recipe.stages[0], held_out=None),)), tmp_path)
    assert [line for line in metrics(whole) if "loss" in line] == metrics(tmp_path)
    for one, other in zip(*(load_file(d / "final/model.safetensors").values() for d in (whole, tmp_path)), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("accumulation, groups", [(2, 4), (1, 3), (2, 3), (4, 3)])
def test_it_is_the_loss_of_the_stage_over_all_groups_at_once(tiny_recipe, tmp_path, accumulation, groups):
    """Just so many of them, however many a micro-batch takes."""
    recipe = held_out(tiny_recipe(f"stages.align.accumulation={accumulation}"), groups=groups)
    torch.manual_seed(0)
    model, processor = recipe.model.build()
    trainer = StageTrainer(model, processor, recipe, 0, tmp_path)
    assert trainer.args.per_device_train_batch_size == 4 // accumulation  # so that there may be several micro-batches
    stage = recipe.stages[0]
    batch = trainer.data_collator([stage.held_out.data.group(index, 0) for index in range(groups)])
    with torch.no_grad():
        expected = stage.loss(model.eval(), batch, stage.loss.count(batch)).loss
    assert HeldOutLoss(trainer).measure() == pytest.approx(float(expected), rel=1e-5)


def test_which_groups_are_held_out_is_no_matter_of_the_step(tiny_recipe, tmp_path):
    """They are fewer than the source has."""
    recipe = held_out(tiny_recipe(), groups=3)
    trainer = StageTrainer(*recipe.model.build(), recipe, 0, tmp_path)
    losses = set()
    for step in (0, 1, 5):
        trainer.state.global_step = step
        losses.add(HeldOutLoss(trainer).measure())
    assert len(losses) == 1


def test_the_last_step_is_measured_whatever_its_number(tiny_recipe, metrics, tmp_path):
    run(held_out(tiny_recipe("save_every_steps=3")), tmp_path)
    assert [line["step"] for line in metrics(tmp_path) if "eval_loss" in line] == [3, 4]


def test_where_rows_are_compared_no_micro_batch_is_cut_short(tiny_recipe, tmp_path):
    recipe = held_out(tiny_recipe(), groups=3)
    recipe = replace(recipe, stages=(replace(recipe.stages[0], loss=WordAlignment(), train=("projector.*",)),))
    trainer = StageTrainer(*recipe.model.build(), recipe, 0, tmp_path)
    # two groups of two examples each
    assert [len(batch["example_ids"]) for batch, weight in HeldOutLoss(trainer)._batches() if weight] == [4, 4]


@dataclass(frozen=True)
class Noisy(Sft):
    """A loss that draws, as a user's may."""

    def __call__(self, model, batch, totals):
        return LossOutput(super().__call__(model, batch, totals).loss * torch.rand(()))


def test_a_loss_that_draws_leaves_chance_to_training(tiny_recipe, tmp_path):
    recipe = held_out(tiny_recipe())
    recipe = replace(recipe, stages=(replace(recipe.stages[0], loss=Noisy()),))
    measured = HeldOutLoss(StageTrainer(*recipe.model.build(), recipe, 0, tmp_path))
    before = torch.get_rng_state()
    assert measured.measure() and torch.equal(torch.get_rng_state(), before)


def test_dropout_takes_no_part_though_a_reference_goes_through_the_model(tiny_recipe, tmp_path):
    recipe = held_out(tiny_recipe())
    recipe = replace(recipe, stages=(replace(recipe.stages[0], loss=Dpo(), train=("*lora_*",)),))
    model, processor = recipe.model.build()
    model = peft.get_peft_model(model, peft.LoraConfig(r=2, lora_dropout=0.5, target_modules=["q_proj", "v_proj"]))
    trainer = StageTrainer(model, processor, recipe, 0, tmp_path)
    assert trainer.reference.copy is None
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)  # as if they had been trained
    measured = HeldOutLoss(trainer)
    losses = [torch.manual_seed(seed) and measured.measure() for seed in (0, 1)]
    assert losses[0] == losses[1]


def pretended(monkeypatch):
    monkeypatch.setattr(HeldOutLoss, "measure", lambda self: LOSSES[self.trainer.state.global_step])


def test_the_best_is_kept_beside_the_newest(tiny_recipe, tmp_path, monkeypatch):
    pretended(monkeypatch)
    run(held_out(tiny_recipe()), tmp_path)
    assert [found.step for found in checkpoints(tmp_path)] == [2, 4]
    assert best_checkpoint(tmp_path / "stages/0-align").step == 2


@pytest.mark.parametrize("take, step", [("last", 4), ("best", 2)])
def test_what_the_final_model_is(tiny_recipe, tmp_path, monkeypatch, take, step):
    pretended(monkeypatch)
    final = run(held_out(tiny_recipe(), take), tmp_path)
    taken = load_file(tmp_path / f"stages/0-align/checkpoint-{step}/model.safetensors")
    saved = load_file(final / "model.safetensors")
    assert all(torch.equal(saved[name], taken[name]) for name in set(saved) & set(taken)) and set(saved) & set(taken)
    other = load_file(tmp_path / f"stages/0-align/checkpoint-{6 - step}/model.safetensors")
    assert not all(torch.equal(saved[name], other[name]) for name in set(saved) & set(other))
    assert ("best checkpoint is taken" in (final / "README.md").read_text()) == (take == "best")


def test_the_best_is_taken_by_a_run_that_is_resumed_after_its_last_step(tiny_recipe, tmp_path, monkeypatch):
    pretended(monkeypatch)
    recipe = held_out(tiny_recipe(), "best")
    first = load_file(run(recipe, tmp_path) / "model.safetensors")
    shutil.rmtree(tmp_path / "final")
    again = load_file(run(recipe, tmp_path, resume=True) / "model.safetensors")
    assert all(torch.equal(first[name], again[name]) for name in first)
    shutil.rmtree(tmp_path / "final")
    (tmp_path / "stages/0-align/checkpoint-2/model.safetensors").write_bytes(b"")
    with pytest.raises(ValueError, match=r"checkpoint-2/model\.safetensors: got 0 bytes, expected"):
        run(recipe, tmp_path, resume=True)


def test_a_signal_does_not_wait_for_it_and_it_is_made_up_for(whole, tiny_recipe, metrics, tmp_path, monkeypatch):
    recipe = held_out(tiny_recipe())
    with monkeypatch.context() as patch:
        compute_loss = StageTrainer.compute_loss

        def wrapped(self, *args, **kwargs):
            if self.state.global_step == 1:
                os.kill(os.getpid(), signal.SIGTERM)
            return compute_loss(self, *args, **kwargs)

        patch.setattr(StageTrainer, "compute_loss", wrapped)
        with pytest.raises(SystemExit):
            run(recipe, tmp_path)
    assert [line["step"] for line in metrics(tmp_path) if "eval_loss" in line] == [1]
    with monkeypatch.context() as patch:  # killed as soon as it is made up for, which no checkpoint knows
        begin = HeldOutLoss.on_train_begin

        def killed(self, *args, **kwargs):
            begin(self, *args, **kwargs)
            raise KeyboardInterrupt

        patch.setattr(HeldOutLoss, "on_train_begin", killed)
        with pytest.raises(KeyboardInterrupt):
            run(recipe, tmp_path, resume=True)
    assert [line["step"] for line in metrics(tmp_path) if "eval_loss" in line] == [1, 2]
    run(recipe, tmp_path, resume=True)
    assert metrics(tmp_path) == metrics(whole)


@pytest.mark.parametrize("every", [1, 4])
def test_a_signal_in_the_last_pass_leaves_it_to_the_resumed_run(every, tiny_recipe, metrics, tmp_path, monkeypatch):
    """With every=4 no other checkpoint was measured either; with 1 another one would be taken for the best."""
    losses = LOSSES | {4: 0.5}
    recipe = replace(held_out(tiny_recipe(), "best"), save_every_steps=every)

    def measure(self):
        step = self.trainer.state.global_step
        if step == 4 and not self.trainer.stop_signal.received and not stopped:
            stopped.append(step)
            os.kill(os.getpid(), signal.SIGTERM)
            return None
        return losses[step]

    stopped = ["never"]
    monkeypatch.setattr(HeldOutLoss, "measure", measure)
    whole = load_file(run(recipe, tmp_path / "whole") / "model.safetensors")
    stopped.clear()
    with pytest.raises(SystemExit):
        run(recipe, tmp_path / "stopped")
    final = load_file(run(recipe, tmp_path / "stopped", resume=True) / "model.safetensors")
    assert stopped == [4] and all(torch.equal(whole[name], final[name]) for name in whole)
    assert best_checkpoint(tmp_path / "stopped/stages/0-align").step == 4  # which reads its manifest too
    assert metrics(tmp_path / "stopped") == metrics(tmp_path / "whole")


def test_held_out_data_that_cannot_be_read_are_found_before_anything_is_built(tiny_recipe, tmp_path, monkeypatch):
    from phantrol.training.new_model import NewModel

    monkeypatch.setattr(NewModel, "build", lambda self: pytest.fail("built"))
    recipe = held_out(tiny_recipe())
    empty = replace(recipe.stages[0], held_out=HeldOut(Mixture(((1.0, ()),))))
    with pytest.raises(ValueError, match="part 0 of the mixture is empty"):
        run(replace(recipe, stages=(empty,)), tmp_path / "run")
    assert not (tmp_path / "run").exists()  # so that it can be begun again as it was typed


def test_a_loss_that_is_not_finite_stops(tiny_recipe, tmp_path, monkeypatch):
    monkeypatch.setattr(HeldOutLoss, "measure", lambda self: float("nan"))
    with pytest.raises(ValueError, match="got a held-out loss of nan, expected a finite number"):
        run(held_out(tiny_recipe()), tmp_path)


@pytest.mark.parametrize("change", [{"groups": 0}, {"take": "first"}, {"data": None}])
def test_options_out_of_range(tiny_recipe, change):
    good = {"data": tiny_recipe().stages[0].data}
    with pytest.raises(ValueError, match=f"held_out: got {next(iter(change))}="):
        HeldOut(**(good | change))


def test_the_first_of_equals_is_best(tmp_path):
    history = [{"step": step, "eval_loss": loss} for step, loss in ((1, 2.0), (2, 1.0), (3, 1.0), (4, 0.5))]
    for step in (1, 2, 3):  # the best of all is not there any more
        (tmp_path / f"checkpoint-{step}").mkdir()
    assert best_step(history, tmp_path) == 2
    assert best_step([{"step": 1, "loss": 2.0}], tmp_path) is None


def test_a_stage_whose_newest_checkpoint_has_no_held_out_loss(tmp_path):
    (tmp_path / "0-align" / "checkpoint-3").mkdir(parents=True)
    log = {"log_history": [{"step": 3, "loss": 2.0}]}
    (tmp_path / "0-align" / "checkpoint-3" / "trainer_state.json").write_text(json.dumps(log))
    for stage in ("0-align", "1-none"):
        with pytest.raises(ValueError, match=f"{stage}: got no checkpoint with a held-out loss"):
            best_checkpoint(tmp_path / stage)


def test_its_time_is_not_that_of_training(tiny_recipe, tmp_path, monkeypatch):
    recipe = held_out(tiny_recipe())
    trainer = StageTrainer(*recipe.model.build(), recipe, 0, tmp_path)
    monkeypatch.setattr(trainer.held_out, "measure", lambda: time.sleep(0.2) or 1.0)
    trainer.speed.begin()
    began_s = trainer.speed.since_s
    assert trainer.evaluate() == {"eval_loss": 1.0}
    assert trainer.speed.since_s - began_s >= 0.2
