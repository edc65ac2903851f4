"""A worker or another rank that is gone, as the system ends one when memory runs out: said in one line, as a fault."""

from __future__ import annotations

import os
import signal
from dataclasses import replace

import pytest
from rank_processes import exit_codes, needs_fork, start_ranks
from torch._utils import ExceptionWrapper
from torch.utils.data import get_worker_info

from phantrol.training.faults import RunFault, naming_lost_processes
from phantrol.training.run import run
from phantrol.training.trainer import StageTrainer

pytestmark = [needs_fork, pytest.mark.usefixtures("deepspeed_imported")]


def test_a_worker_that_is_killed(tiny_recipe, tmp_path, monkeypatch, forked):
    recipe = tiny_recipe("workers=1")
    recipe = replace(recipe, stages=recipe.stages[:1])
    source = type(recipe.stages[0].data.parts[0][1])

    def read(data, index, unhurt=source.__getitem__):
        if get_worker_info() and (tmp_path / "run/stages/0-align/checkpoint-1").is_dir():
            os.kill(os.getpid(), signal.SIGKILL)
        return unhurt(data, index)

    monkeypatch.setattr(source, "__getitem__", read)

    def train() -> None:
        words = r"^a process that prepares batches is gone: DataLoader worker .*; the last checkpoint is .*workers=0"
        with pytest.raises(RunFault, match=words) as caught:
            run(recipe, tmp_path / "run")
        assert "\n" not in str(caught.value)
        assert run(replace(recipe, workers=0), tmp_path / "run", resume=True).is_dir()

    assert forked(train) == [0]


class Narrower(ValueError):
    pass


@pytest.mark.parametrize("kind", [ValueError, Narrower])
@pytest.mark.parametrize("words", ["mine.json[3]: no such file", "row 3 is wrong:\ncolumn: price\nremedy: mend it"])
def test_what_a_worker_says_is_said_without_its_traceback(kind, words):
    def fail() -> None:
        try:
            raise KeyError("the cause")
        except KeyError as error:
            raise kind(words) from error

    try:
        fail()
    except ValueError:
        sent = ExceptionWrapper(where="in DataLoader worker process 0")
    with pytest.raises(ValueError) as caught, naming_lost_processes(lambda: "nowhere"):
        sent.reraise()
    assert str(caught.value) == words


@pytest.mark.parametrize("sharding", ["none", "fsdp"])
def test_a_rank_that_is_killed(two_stages, tmp_path, monkeypatch, sharding):
    untold = StageTrainer.compute_loss

    def compute(trainer, *args, **kwargs):
        if trainer.state.global_step == 1 and os.environ["RANK"] == "1":
            os._exit(0)
        return untold(trainer, *args, **kwargs)

    monkeypatch.setattr(StageTrainer, "compute_loss", compute)
    recipe = replace(two_stages(2, sharding), save_every_steps=1)

    def train() -> None:
        words = r"^another rank of this run is gone: .*; the last checkpoint is .*checkpoint-1, .*--resume"
        with pytest.raises(RunFault, match=words) as caught:
            run(recipe, tmp_path / "run")
        assert "\n" not in str(caught.value)
        os._exit(0)  # without waiting for the other one

    assert exit_codes(start_ranks(train, 2)) == [0, 0]


@pytest.mark.parametrize("words", ["Caught ValueError in DataLoader worker process 0.", "out of memory", ""])
def test_other_faults_stay_as_they_are(words):
    with pytest.raises(RuntimeError) as caught, naming_lost_processes(lambda: "nowhere"):
        raise RuntimeError(words)
    assert not isinstance(caught.value, ValueError) and str(caught.value) == words
