"""A signal to one of several ranks: all finish their step, one checkpoint is written, and all leave."""

from __future__ import annotations

import os
import signal
from dataclasses import replace

import pytest
from rank_processes import exit_codes, needs_deepspeed, needs_fork, start_ranks

from phantrol.training.checkpoint import checkpoints
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
