"""A signal to one of several ranks: all finish what they do, one checkpoint is written, and all leave."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

import pytest
import torch
from rank_processes import exit_codes, needs_deepspeed, needs_fork, on_ranks, start_ranks

from phantrol.data.mixture import Mixture
from phantrol.losses.sft import Sft
from phantrol.training.checkpoint import checkpoints
from phantrol.training.ranks import RANKS_WAIT, process_state
from phantrol.training.recipe import HeldOut
from phantrol.training.run import run
from phantrol.training.trainer import StageTrainer

pytestmark = [needs_fork, pytest.mark.usefixtures("deepspeed_imported")]


@pytest.mark.parametrize(
    "sharding, moment",
    [
        ("none", "compute_loss"),
        ("fsdp", "compute_loss"),
        pytest.param("zero2", "compute_loss", marks=needs_deepspeed),
        ("none", "_save_checkpoint"),
    ],
)
def test_sigterm_to_one_rank_stops_all(two_stages, tmp_path, monkeypatch, sharding, moment):
    """It comes while a step is computed, or while a stage writes its last checkpoint; other ranks know nothing."""
    untold = getattr(StageTrainer, moment)

    def told(trainer, *args, **kwargs):
        if trainer.state.global_step == (1 if moment == "compute_loss" else 2) and os.environ["RANK"] == "1":
            os.kill(os.getpid(), signal.SIGTERM)
        return untold(trainer, *args, **kwargs)

    monkeypatch.setattr(StageTrainer, moment, told)
    recipe = replace(two_stages(2, sharding), save_every_steps=100)
    assert exit_codes(start_ranks(lambda: run(recipe, tmp_path / "run"), 2)) == [143, 143]
    assert [(found.stage, found.step) for found in checkpoints(tmp_path / "run")] == [(0, 2)]


@dataclass(frozen=True)
class Stopping(Sft):
    """Notes each time that it is asked in files of its rank; in the second round of held-out data a signal comes to the
    last rank, while their tokens are counted or while their loss is measured."""

    folder: str = ""
    moment: str = "measure"

    def count(self, batch):
        self.note("count", batch)
        return super().count(batch)

    def __call__(self, model, batch, totals):
        self.note("measure", batch)
        return super().__call__(model, batch, totals)

    def note(self, moment, batch):
        kind = "held" if batch["example_ids"][0].startswith("held") else "step"
        with Path(self.folder, f"{kind}-{moment}-{os.environ.get('RANK', '0')}").open("a") as file:
            file.write(".")
        is_last = int(os.environ.get("RANK", 0)) == int(os.environ.get("WORLD_SIZE") or 1) - 1
        if (kind, moment) == ("held", self.moment) and is_last and Path(file.name).stat().st_size == 2:
            os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize(
    "moment, ranks, sharding",
    [
        ("count", 0, "none"),
        ("measure", 0, "none"),
        ("count", 2, "none"),
        ("measure", 2, "none"),
        ("measure", 2, "fsdp"),
    ],
)
def test_sigterm_ends_a_held_out_pass_in_its_round(two_stages, tmp_path, moment, ranks, sharding):
    """Of four rounds the second is the last, no other step is taken, and there is the checkpoint."""
    count = max(ranks, 1)
    recipe = two_stages(count, sharding)
    colors = recipe.stages[0].data.parts[0][1]
    held_out = HeldOut(Mixture(((1.0, replace(colors, name="held")),)), groups=4 * count)
    stage = replace(recipe.stages[0], loss=Stopping(str(tmp_path), moment), held_out=held_out)
    recipe = replace(recipe, stages=(stage,), save_every_steps=1)
    assert exit_codes(start_ranks(lambda: run(recipe, tmp_path / "run"), ranks)) == [143] * count
    assert [(found.stage, found.step) for found in checkpoints(tmp_path / "run")] == [(0, 1)]
    for rank in range(count):
        asked = {path.name[:-2]: path.stat().st_size for path in tmp_path.glob(f"*-{rank}")}
        counted = {"held-count": 2} if moment == "count" else {"held-count": 4, "held-measure": 2}
        assert asked.pop("step-count") >= stage.accumulation  # workers count what they prepare, ahead of the steps
        assert asked == {"step-measure": stage.accumulation, **counted}


def test_ranks_wait_for_hours_for_one_that_is_busy():
    """Torch's own 10 minutes under NCCL are less than merging, checking or downloading a large model takes."""

    def ask() -> None:
        assert process_state().num_processes == 2
        options = torch.distributed.group.WORLD._get_backend(torch.device("cpu")).options
        assert options._timeout == RANKS_WAIT

    assert timedelta(hours=1) <= RANKS_WAIT
    on_ranks(2, ask)
