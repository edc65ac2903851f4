"""Killed at random moments; and one process at a time in the folder of a run."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from phantrol.training.checkpoint import checkpoints, last_whole_checkpoint, written_beside
from phantrol.training.run import run
from phantrol.training.run_lock import FILE, held, holder
from phantrol.training.stopping import leave_process_group


@pytest.fixture(scope="module")
def script(load_script):
    return load_script("kill_test")


def test_four_kills_and_the_same_bits(script, tiny_recipe, tmp_path, capsys):
    recipe = tiny_recipe("log_every_steps=2", "stages.align.max_steps=3", "stages.tune.max_steps=2")
    found = script.kill_test(recipe, tmp_path, kills=4, seed=1)
    assert sum(found.values()) == 4 and not found["differing"], capsys.readouterr().out
    assert found["saving"] >= 1


def test_the_script_sees_a_difference(script, tiny_recipe, tmp_path):
    """Negative control: another run has other bits and other lines."""
    short = ("stages.align.max_steps=1", "stages.tune.max_steps=1")
    run(tiny_recipe(*short), tmp_path / "whole")
    run(tiny_recipe(*short, "seed=5"), tmp_path / "other")
    assert script.same_bits(tmp_path / "whole", tmp_path / "whole")
    assert not script.same_bits(tmp_path / "whole", tmp_path / "other")
    assert script.lines(tmp_path / "whole") != script.lines(tmp_path / "other")


def waiting(path: Path, seconds: float = 240) -> None:
    until_s = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < until_s, path
        time.sleep(0.02)


@pytest.fixture
def somebody():
    """`somebody(action)` starts a process that does something and then waits; it is killed in the end."""
    children = []

    def start(action):
        child = os.fork()
        if not child:
            try:
                action()
            finally:
                os._exit(1)
        children.append(child)
        return child

    yield start
    for child in children:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def hold(folder: Path) -> None:
    with held(folder):
        (folder / "here").touch()
        time.sleep(1000)


def test_a_run_in_use_is_refused_until_its_process_is_killed(tiny_recipe, tmp_path, somebody):
    child = somebody(lambda: hold(tmp_path))
    waiting(tmp_path / "here")
    assert holder(tmp_path).pid == child
    with pytest.raises(ValueError, match=rf"in use by process {child} on .* since .*expected one that no run uses"):
        run(tiny_recipe(), tmp_path, resume=True)
    assert holder(tmp_path).pid == child  # the refusal did not take it away
    os.kill(child, signal.SIGKILL)
    until_s = time.monotonic() + 240
    while holder(tmp_path):
        assert time.monotonic() < until_s
        time.sleep(0.01)
    assert (tmp_path / FILE).exists()  # what a kill leaves behind does not matter
    with held(tmp_path):
        assert holder(tmp_path).pid == os.getpid()
    assert holder(tmp_path) is None


def test_a_forked_process_does_not_hold_on(tmp_path, somebody):
    """As a loader of data would that outlives a killed run for a moment."""
    with held(tmp_path):
        somebody(lambda: (tmp_path / "forked").touch() or time.sleep(1000))
        waiting(tmp_path / "forked")
    assert holder(tmp_path) is None


def test_a_disk_without_locks_is_said(tmp_path, caplog, monkeypatch):
    def refuse(*_):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr("fcntl.flock", refuse)
    with held(tmp_path):
        assert "two processes that write to it would not notice" in caplog.text
    monkeypatch.setattr("phantrol.file_lock.fcntl", None)
    with held(tmp_path):
        assert "this system has no locks of files" in caplog.text


def test_a_folder_that_cannot_be_made_is_said(tmp_path, monkeypatch):
    def refuse(*_, **__):  # as /proc does
        raise FileNotFoundError(2, "No such file or directory")

    monkeypatch.setattr("pathlib.Path.mkdir", refuse)
    with pytest.raises(ValueError, match=r"run: no folder can be made there \(No such"), held(tmp_path / "run"):
        pass


def test_a_lock_alone_does_not_make_a_folder_used(tiny_recipe, tmp_path, monkeypatch):
    """A run that ended before it began, as with broken data, can be begun again."""
    with held(tmp_path):
        pass
    recipe = tiny_recipe("stages.align.max_steps=1", "stages.tune.max_steps=1")
    run(recipe, tmp_path)
    with pytest.raises(ValueError, match="a folder in use"):
        run(recipe, tmp_path)


def test_a_kill_while_old_checkpoints_are_removed(tmp_path):
    """Half of one that was to go is left: the newer one is found."""
    for step in (1, 2):
        with written_beside(tmp_path / f"stages/0-align/checkpoint-{step}") as writing:
            (writing / "a.bin").write_text("a")
    checkpoints(tmp_path)[0].path.joinpath("a.bin").unlink()
    assert last_whole_checkpoint(tmp_path).step == 2


def test_a_system_without_forks_and_process_groups(tmp_path, monkeypatch):
    """As Windows is: nothing has to be kept from a process that is forked, and a worker stays where it is."""
    monkeypatch.delattr("os.register_at_fork")
    monkeypatch.delattr("os.setpgid")
    with held(tmp_path):
        assert holder(tmp_path).pid == os.getpid()
    leave_process_group(0)
