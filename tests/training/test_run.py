"""Whole runs: stopped anywhere and resumed, killed, out of disk, poisoned."""

from __future__ import annotations

import errno
import json
import logging
import os
import shutil
import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import phantrol
from phantrol.training import checkpoint
from phantrol.training.checkpoint import checkpoints, last_whole_checkpoint
from phantrol.training.run import run
from phantrol.training.trainer import StageTrainer

# three steps a line, so that a stop falls between two lines; a checkpoint at each step
EVERY_STEP = ("log_every_steps=3", "save_every_steps=1")


@pytest.fixture(scope="module")
def whole(tiny_recipe, tmp_path_factory) -> Path:
    """A run that nothing disturbed."""
    torch.set_num_threads(1)
    out = tmp_path_factory.mktemp("whole")
    run(tiny_recipe(*EVERY_STEP), out)
    return out


def same_bits(one: Path, other: Path) -> bool:
    a, b = (load_file(run_dir / "final" / "model.safetensors") for run_dir in (one, other))
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def stopped_after(whole: Path, out: Path, stage: int, step: int) -> Path:
    """Copy a run as it was when it had just written a checkpoint, with lines in the log that it has to take back."""
    shutil.copytree(whole, out)
    shutil.rmtree(out / "final")
    for found in checkpoints(out):
        if (found.stage, found.step) > (stage, step):
            shutil.rmtree(found.path)
    with (out / "metrics.jsonl").open("a") as file:
        file.write('{"stage": "tune", "st')
    return out


def test_a_whole_run(whole, metrics):
    assert [(line["stage"], line["step"]) for line in metrics(whole)] == [
        ("align", 3), ("align", 4), ("tune", 3), ("tune", 4)
    ]  # fmt: skip
    assert {"loss", "lr", "grad_norm", "reward_accuracy", "reward_margin"} < set(metrics(whole)[0])
    assert "reward_accuracy" not in metrics(whole)[2]
    assert [(c.stage, c.step) for c in checkpoints(whole)] == [(s, n) for s in (0, 1) for n in (1, 2, 3, 4)]
    model, processor = phantrol.load(whole / "final")
    assert model.config.modifiers and processor.image_token_id
    assert (whole / "final" / "recipe.json").read_text() == (whole / "recipe.json").read_text()
    phantrol.load(checkpoints(whole)[0].path)  # a checkpoint can be tried out, too


def test_another_seed_gives_another_run(whole, tiny_recipe, tmp_path):
    run(tiny_recipe(*EVERY_STEP, "seed=4"), tmp_path)
    assert not same_bits(whole, tmp_path)


@pytest.mark.parametrize("stage, step", [(s, n) for s in (0, 1) for n in (1, 2, 3, 4)])
def test_stop_at_any_step_and_resume(whole, tiny_recipe, metrics, tmp_path, stage, step):
    out = stopped_after(whole, tmp_path / "run", stage, step)
    run(tiny_recipe(*EVERY_STEP), out, resume=True)
    assert metrics(out) == metrics(whole)
    assert same_bits(out, whole)


@pytest.mark.parametrize("lost", ["optimizer.pt", "rng_state.pth", "meters.json", "scheduler.pt"])
def test_each_state_matters(whole, tiny_recipe, metrics, tmp_path, monkeypatch, lost):
    """Negative control: with the state of the first checkpoint in place of the second's, the run is another."""
    out = stopped_after(whole, tmp_path / "run", 0, 2)
    first, second = (found.path for found in checkpoints(out))
    shutil.copy(first / lost, second / lost)
    monkeypatch.setattr("phantrol.training.checkpoint.check_whole", lambda folder: None)
    run(tiny_recipe(*EVERY_STEP), out, resume=True)
    assert metrics(out) != metrics(whole)


def test_resume_from_a_named_checkpoint(whole, tiny_recipe, tmp_path):
    out = tmp_path / "run"
    shutil.copytree(whole, out)
    shutil.rmtree(out / "final")
    run(tiny_recipe(*EVERY_STEP), out, resume=out / "stages/0-align/checkpoint-2")
    assert same_bits(out, whole)


def test_resume_of_a_finished_run_does_nothing(whole, tiny_recipe):
    before = (whole / "final" / "model.safetensors").stat().st_mtime_ns
    assert run(tiny_recipe(*EVERY_STEP), whole, resume=True) == whole / "final"
    assert (whole / "final" / "model.safetensors").stat().st_mtime_ns == before


def test_resume_with_nothing_to_resume_begins(whole, tiny_recipe, tmp_path):
    run(tiny_recipe(*EVERY_STEP), tmp_path / "new", resume=True)
    assert same_bits(tmp_path / "new", whole)


def test_how_it_runs_may_change_on_resume(whole, tiny_recipe, metrics, tmp_path):
    """In the stage that goes on too: with what it was begun with, step 3 would have a line and a checkpoint."""
    out = stopped_after(whole, tmp_path / "run", 1, 2)
    run(tiny_recipe("log_every_steps=2", "save_every_steps=100", "keep_checkpoints=2"), out, resume=True)
    assert same_bits(out, whole)
    assert [(c.stage, c.step) for c in checkpoints(out)] == [(0, 1), (0, 2), (0, 3), (0, 4), (1, 2), (1, 4)]
    assert [(line["stage"], line["step"]) for line in metrics(out)] == [("align", 3), ("align", 4), ("tune", 4)]


def test_another_recipe_is_refused(whole, tiny_recipe, tmp_path):
    out = stopped_after(whole, tmp_path / "run", 0, 2)
    with pytest.raises(ValueError, match=r"another recipe: got stages\.1\.lr: 0\.5, not 0\.003"):
        run(tiny_recipe(*EVERY_STEP, "stages.tune.lr=0.5"), out, resume=True)


def test_a_folder_in_use_is_refused(whole, tiny_recipe, tmp_path):
    with pytest.raises(ValueError, match=r"a folder in use.*--resume"):
        run(tiny_recipe(*EVERY_STEP), whole)
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="got a file, expected an empty or new folder"):
        run(tiny_recipe(), tmp_path / "file")


BREAK = {
    "got 3 bytes": lambda path: path.write_bytes(b"abc"),
    "got no such file": Path.unlink,
    "got sha256": lambda path: path.write_bytes(bytes([path.read_bytes()[0] ^ 1]) + path.read_bytes()[1:]),
}


@pytest.mark.parametrize(
    "complaint, name", zip(BREAK, ["model.safetensors", "optimizer.pt", "rng_state.pth"], strict=True)
)
def test_a_broken_checkpoint_is_skipped_or_named(whole, tiny_recipe, tmp_path, caplog, complaint, name):
    out = stopped_after(whole, tmp_path / "run", 1, 2)
    broken = out / "stages/1-tune/checkpoint-2"
    BREAK[complaint](broken / name)
    with pytest.raises(ValueError, match=rf"checkpoint-2/{name}: {complaint}.*expected"):
        run(tiny_recipe(*EVERY_STEP), out, resume=broken)
    with caplog.at_level(logging.WARNING):
        run(tiny_recipe(*EVERY_STEP), out, resume=True)
    assert f"{broken} is not whole: skipped" in caplog.text and complaint in caplog.text
    assert same_bits(out, whole)


def test_a_checkpoint_of_another_run_is_refused(whole, tiny_recipe, tmp_path):
    out = stopped_after(whole, tmp_path / "run", 0, 1)
    with pytest.raises(ValueError, match=r"expected a checkpoint of .*checkpoint-1"):
        run(tiny_recipe(*EVERY_STEP), out, resume=whole / "stages/0-align/checkpoint-2")
    with pytest.raises(ValueError, match="expected a checkpoint of"):
        run(tiny_recipe(*EVERY_STEP), out, resume=out / "checkpoint-9")


def killed_in(home, name: str) -> None:
    """Let the process die, without a chance to tidy up, when a function is given the third checkpoint."""
    function = getattr(home, name)

    def wrapped(*args, **kwargs):
        if str(args[-1]).endswith("checkpoint-3"):
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*args, **kwargs)

    setattr(home, name, wrapped)


@pytest.mark.parametrize(
    "home, name",
    [(StageTrainer, "_save"), (StageTrainer, "_save_rng_state"), (checkpoint, "_write_manifest"), (os, "replace")],
)
def test_killed_while_writing_a_checkpoint(whole, tiny_recipe, metrics, tmp_path, caplog, forked, home, name):
    recipe, out = tiny_recipe(*EVERY_STEP), tmp_path / "run"
    assert forked(lambda: killed_in(home, name) or run(recipe, out)) == [-signal.SIGKILL]
    half = out / "stages/0-align/.writing/checkpoint-3"
    assert half.is_dir() and (half / "model.safetensors").is_file() == (name != "_save")
    assert (half / "manifest.json").is_file() == (name == "replace")
    assert [found.step for found in checkpoints(out)] == [1, 2]
    with caplog.at_level(logging.WARNING):
        run(recipe, out, resume=True)
    assert f"{half} was never finished: skipped" in caplog.text
    assert metrics(out) == metrics(whole) and same_bits(out, whole)
    assert not half.exists()


@pytest.mark.parametrize("num_whole, named", [(1, False), (0, False), (8, True)], ids=["broken", "all broken", "named"])
def test_what_comes_later_pushes_out_nothing_new(whole, tiny_recipe, tmp_path, forked, num_whole, named):
    """Broken checkpoints after the one that a run goes on from, or whole ones of another past."""
    out, recipe = tmp_path / "run", tiny_recipe(*EVERY_STEP, "keep_checkpoints=2")
    shutil.copytree(whole, out)
    shutil.rmtree(out / "final")
    first, *_ = found = checkpoints(out)
    assert len(found) == 8
    for broken in found[num_whole:]:
        (broken.path / "optimizer.pt").write_bytes(b"")
    resume = first.path if named else True
    assert forked(lambda: killed_in(StageTrainer, "_save") or run(recipe, out, resume=resume)) == [-signal.SIGKILL]
    assert [(c.stage, c.step) for c in checkpoints(out)] == [(0, 1), (0, 2)]
    assert last_whole_checkpoint(out).step == 2
    run(recipe, out, resume=True)
    assert same_bits(out, whole)


def signal_in(monkeypatch, number, stage, step, times=1):
    """Let a signal come so many times in the middle of a step."""
    compute_loss, left = StageTrainer.compute_loss, [None] * times

    def wrapped(self, *args, **kwargs):
        if left and (self.stage.name, self.state.global_step + 1) == (stage, step):
            left.pop()
            os.kill(os.getpid(), number)
        return compute_loss(self, *args, **kwargs)

    monkeypatch.setattr(StageTrainer, "compute_loss", wrapped)


@pytest.mark.parametrize(
    "number, stage, step", [(signal.SIGTERM, "align", 4), (signal.SIGTERM, "tune", 1), (signal.SIGINT, "align", 2)]
)
def test_a_signal_saves_and_leaves(whole, tiny_recipe, metrics, tmp_path, monkeypatch, capsys, number, stage, step):
    handler = signal.getsignal(number)
    recipe = tiny_recipe("log_every_steps=3", "save_every_steps=100")
    with monkeypatch.context() as patch:
        signal_in(patch, number, stage, step)
        with pytest.raises(SystemExit) as leaving:
            run(recipe, tmp_path)
    assert leaving.value.code == 128 + number
    assert signal.getsignal(number) == handler
    said = f"stopped by {signal.Signals(number).name} after step {step} of {stage} and saved"
    assert said in " ".join(capsys.readouterr().err.split())
    assert (checkpoints(tmp_path)[-1].path.parent.name[2:], checkpoints(tmp_path)[-1].step) == (stage, step)
    assert not (tmp_path / "final").exists()
    run(recipe, tmp_path, resume=True)
    assert metrics(tmp_path) == metrics(whole) and same_bits(tmp_path, whole)


def test_a_second_interrupt_does_not_wait(tiny_recipe, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        signal_in(patch, signal.SIGINT, "align", 2, times=2)  # one in each of its micro-batches
        with pytest.raises(KeyboardInterrupt):
            run(tiny_recipe("save_every_steps=1"), tmp_path)
    assert [found.step for found in checkpoints(tmp_path)] == [1]


def test_a_run_of_an_older_version_goes_on(whole, tiny_recipe, tmp_path):
    """Its recipe.json does not know a field that came later; another value than the default is another recipe."""
    out = stopped_after(whole, tmp_path / "run", 1, 3)
    recipe = json.loads((out / "recipe.json").read_text())
    for stage in recipe["stages"]:
        del stage["held_out"], stage["final_lr"]
    (out / "recipe.json").write_text(json.dumps(recipe))
    with pytest.raises(ValueError, match=r"another recipe: got stages\.1\.final_lr: 0\.001, not 0\.0"):
        run(tiny_recipe(*EVERY_STEP, "stages.tune.final_lr=0.001"), out, resume=True)
    run(tiny_recipe(*EVERY_STEP), out, resume=True)
    assert same_bits(out, whole)


def test_a_full_disk(whole, tiny_recipe, metrics, tmp_path, monkeypatch):
    save, calls = torch.save, []

    def full(*args, **kwargs):
        calls.append(1)
        if len(calls) > 4:  # in the second checkpoint
            raise OSError(errno.ENOSPC, "No space left on device")
        save(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", full)
        with pytest.raises(ValueError, match=r"the disk is full: .*checkpoint-2 .*--resume") as caught:
            run(tiny_recipe(*EVERY_STEP), tmp_path)
    assert "\n" not in str(caught.value)
    assert [c.step for c in checkpoints(tmp_path)] == [1]
    assert not (tmp_path / "stages/0-align/.writing").exists()
    run(tiny_recipe(*EVERY_STEP), tmp_path, resume=True)
    assert metrics(tmp_path) == metrics(whole) and same_bits(tmp_path, whole)
