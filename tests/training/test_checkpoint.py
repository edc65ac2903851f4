from __future__ import annotations

import errno
import json
import os
import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from phantrol.training.checkpoint import (
    MANIFEST,
    beside,
    check_sizes,
    check_whole,
    checkpoint_at,
    checkpoints,
    keep,
    last_whole_checkpoint,
    remove_after,
    where_to_resume,
    written_beside,
)
from phantrol.training.faults import RunFault
from phantrol.whole_files import make_room


def write(folder, text="weights"):
    with written_beside(folder) as writing:
        (writing / "part").mkdir()
        (writing / "part" / "a.bin").write_text(text)
        (writing / "b.bin").write_text("b")


def test_a_folder_appears_whole(tmp_path):
    folder = tmp_path / "checkpoint-1"
    with written_beside(folder) as writing:
        (writing / "a.bin").write_text("a")
        assert not folder.exists()
    check_whole(folder)
    assert json.loads((folder / MANIFEST).read_text())["files"] == {
        "a.bin": {"size": 1, "sha256": "ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb"}
    }
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-1"]


@pytest.mark.parametrize("name", ["a" * 300, "a" * 250, "a" * 300 + "/b"])
def test_a_name_that_is_too_long_for_the_disk_or_for_what_is_written_beside(tmp_path, name):
    make_room(tmp_path / ("a" * 240))  # 9 characters more go beside
    with pytest.raises(ValueError, match=r"a: the name is too long; choose a shorter one|b: the name is too long"):
        make_room(tmp_path / name)


def test_a_failure_leaves_what_was_there(tmp_path):
    folder = tmp_path / "checkpoint-1"
    write(folder, "first")
    with pytest.raises(KeyError), written_beside(folder) as writing:
        (writing / "a.bin").write_text("second")
        raise KeyError
    check_whole(folder)
    assert (folder / "part" / "a.bin").read_text() == "first"
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-1"]


def test_a_broken_folder_is_replaced(tmp_path):
    folder = tmp_path / "checkpoint-1"
    write(folder, "first")
    (folder / "b.bin").unlink()
    write(folder, "second")
    check_whole(folder)
    assert (folder / "part" / "a.bin").read_text() == "second"


@pytest.mark.parametrize("first", ["a", "b"])
def test_two_writers_side_by_side(tmp_path, first):
    """Whoever ends first, or fails, leaves the other's half alone."""
    writers = {name: written_beside(tmp_path / name) for name in ("a", "b")}
    folders = {name: writer.__enter__() for name, writer in writers.items()}
    for name, folder in folders.items():
        (folder / "x.bin").write_text(name)
    with pytest.raises(KeyError), written_beside(tmp_path / "c") as third:
        (third / "x.bin").write_text("c")
        raise KeyError
    for name in sorted(writers, reverse=first == "b"):
        writers[name].__exit__(None, None, None)
    for name in writers:
        check_whole(tmp_path / name)
        assert (tmp_path / name / "x.bin").read_text() == name
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


def test_a_writer_whose_parent_another_one_removes(tmp_path, monkeypatch):
    mkdir, calls = Path.mkdir, []

    def removed_once(self, *args, **kwargs):
        calls.append(self)
        if len(calls) == 1:
            raise FileNotFoundError(self)
        mkdir(self, *args, **kwargs)

    monkeypatch.setattr(Path, "mkdir", removed_once)
    write(tmp_path / "checkpoint-1")
    check_whole(tmp_path / "checkpoint-1")


def interrupted(folder, how):
    """Let the second of the two renames call `how` instead."""
    replace = os.replace
    return lambda source, target: how() if source == beside(folder) else replace(source, target)


def test_a_rename_that_fails_puts_the_old_one_back(tmp_path, monkeypatch):
    folder = tmp_path / "checkpoint-1"
    write(folder, "first")

    def fail():
        raise OSError(errno.EIO, "x")

    monkeypatch.setattr(os, "replace", interrupted(folder, fail))
    with pytest.raises(OSError, match="x"):
        write(folder, "second")
    check_whole(folder)
    assert (folder / "part" / "a.bin").read_text() == "first"
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-1"]


def test_what_a_killed_writer_left_is_gone_with_the_next_one(tmp_path, monkeypatch, forked):
    folder = tmp_path / "checkpoint-1"
    write(folder, "first")
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", interrupted(folder, lambda: os.kill(os.getpid(), signal.SIGKILL)))
        assert forked(lambda: write(folder, "second")) == [-signal.SIGKILL]
    assert beside(folder).is_dir() and not folder.exists()
    with written_beside(folder) as writing:
        assert list(writing.iterdir()) == []
        assert (folder / "part" / "a.bin").read_text() == "first"  # until the new one is whole
    assert list(json.loads((folder / MANIFEST).read_text())["files"]) == []
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-1"]


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "x"), OSError(errno.EDQUOT, "x"), RuntimeError("write: No space left on device")]
)
def test_a_full_disk_is_one_line(tmp_path, error):
    folder, complaint = tmp_path / "checkpoint-1", r"the disk is full: .*checkpoint-1 could not be written"
    with pytest.raises(ValueError, match=rf"{complaint}; free some") as caught, written_beside(folder):
        raise error
    assert "--resume" not in str(caught.value)
    with pytest.raises(RunFault, match=rf"{complaint}.*--resume"), written_beside(folder, of_run=True):
        raise error
    assert list(tmp_path.iterdir()) == []


def test_a_limit_on_the_size_of_files_is_a_full_disk(tmp_path, forked):
    """`ulimit -f`: what Python, torch and safetensors say of it differs."""
    resource = pytest.importorskip("resource")
    zeros = torch.zeros(10**6)
    for write in (
        lambda path: path.write_bytes(bytes(10**6)),
        lambda path: torch.save(zeros, path),
        lambda path: torch.save(zeros[:24_700].clone(), path),
        lambda path: save_file({"a": zeros}, path),
    ):

        def limited(write=write):
            resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
            with pytest.raises(RunFault, match="the disk is full"), written_beside(tmp_path / "c", True) as writing:
                write(writing / "a")

        assert forked(limited) == [0]
    assert list(tmp_path.iterdir()) == []


def test_another_os_error_is_itself(tmp_path):
    with pytest.raises(PermissionError), written_beside(tmp_path / "checkpoint-1"):
        raise PermissionError


@pytest.mark.parametrize("text", ["", "{", "[]", '{"files": 3}'])
def test_a_broken_manifest(tmp_path, text):
    folder = tmp_path / "checkpoint-1"
    write(folder)
    (folder / MANIFEST).write_text(text)
    with pytest.raises(ValueError, match=f"{MANIFEST}: got no readable list"):
        check_whole(folder)
    (folder / MANIFEST).unlink()
    with pytest.raises(ValueError, match=f"{MANIFEST}: got no such file"):
        check_whole(folder)


def test_the_newest_whole_one_is_found(tmp_path, caplog):
    assert last_whole_checkpoint(tmp_path) is None
    stages = [tmp_path / "stages" / name for name in ("0-align", "1-tune", "10-last")]
    for step in (2, 10, 9):
        write(stages[0] / f"checkpoint-{step}")
    for stage in stages[1:]:
        write(stage / "checkpoint-1")
    (stages[0] / "notes").mkdir()
    found = [(c.stage, c.step) for c in checkpoints(tmp_path)]
    assert found == [(0, 2), (0, 9), (0, 10), (1, 1), (10, 1)]  # by number, not by letter
    assert last_whole_checkpoint(tmp_path).path == stages[2] / "checkpoint-1"
    assert caplog.text == ""
    (stages[2] / "checkpoint-1" / "b.bin").write_text("c")
    (stages[1] / "checkpoint-1" / "b.bin").unlink()
    beside(stages[1] / "checkpoint-5").mkdir(parents=True)
    assert last_whole_checkpoint(tmp_path).path == stages[0] / "checkpoint-10"
    assert len(caplog.records) == 3 and "checkpoint-5 was never finished: skipped" in caplog.text


def test_only_the_newest_are_kept(tmp_path):
    stage = tmp_path / "stages" / "0-align"
    for step in (1, 2, 10, 3):
        write(stage / f"checkpoint-{step}")
    keep(stage, 2)
    assert sorted(path.name for path in stage.iterdir()) == ["checkpoint-10", "checkpoint-3"]


def test_the_best_is_kept_too(tmp_path):
    stage = tmp_path / "stages" / "0-align"
    for step in (1, 2, 3, 4):
        write(stage / f"checkpoint-{step}")
    keep(stage, 1, best=2)
    assert sorted(path.name for path in stage.iterdir()) == ["checkpoint-2", "checkpoint-4"]


def test_what_comes_after_where_a_run_goes_on_is_removed(tmp_path, caplog):
    stages = [tmp_path / "stages" / name for name in ("0-align", "1-tune")]
    for step in (2, 9, 10):
        write(stages[0] / f"checkpoint-{step}")
    write(stages[1] / "checkpoint-1")
    beside(stages[0] / "checkpoint-5").mkdir(parents=True)
    remove_after(checkpoint_at(stages[1] / "checkpoint-1"), tmp_path)
    assert len(checkpoints(tmp_path)) == 4 and caplog.text == ""
    assert sorted(path.name for path in stages[0].iterdir()) == ["checkpoint-10", "checkpoint-2", "checkpoint-9"]
    remove_after(checkpoint_at(stages[0] / "checkpoint-9"), tmp_path)
    assert [(c.stage, c.step) for c in checkpoints(tmp_path)] == [(0, 2), (0, 9)]
    assert "checkpoint-10 comes after where the run goes on: removed" in caplog.text
    remove_after(None, tmp_path)
    assert checkpoints(tmp_path) == []


def test_sizes_alone_do_not_see_a_flipped_byte(tmp_path):
    write(tmp_path / "checkpoint-1")
    (tmp_path / "checkpoint-1" / "b.bin").write_text("c")
    check_sizes(tmp_path / "checkpoint-1")
    with pytest.raises(ValueError, match="got sha256"):
        check_whole(tmp_path / "checkpoint-1")
    (tmp_path / "checkpoint-1" / "b.bin").write_text("cc")
    with pytest.raises(ValueError, match="got 2 bytes, expected 1"):
        check_sizes(tmp_path / "checkpoint-1")


def test_the_last_digit_of_a_sha256_counts_too(tmp_path):
    write(tmp_path / "checkpoint-1")
    manifest = tmp_path / "checkpoint-1" / MANIFEST
    sha256 = json.loads(manifest.read_text())["files"]["b.bin"]["sha256"]
    manifest.write_text(manifest.read_text().replace(sha256, sha256[:-1] + "0"))
    with pytest.raises(ValueError, match=r"b\.bin: got sha256 3e23"):
        check_whole(tmp_path / "checkpoint-1")


def test_a_file_in_a_folder_of_a_checkpoint_is_listed_too(tmp_path):
    write(tmp_path / "checkpoint-1")
    path = tmp_path / "checkpoint-1" / "part" / "a.bin"
    path.write_text("heights")
    with pytest.raises(ValueError, match=r"part/a\.bin: got sha256"):
        check_whole(tmp_path / "checkpoint-1")
    path.unlink()
    with pytest.raises(ValueError, match=r"part/a\.bin: got no such file"):
        check_whole(tmp_path / "checkpoint-1")


def test_files_are_on_the_disk_before_their_folder_has_its_name(tmp_path, monkeypatch):
    folder, done = tmp_path / "checkpoint-1", []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda file: done.append(os.fstat(file).st_ino) or fsync(file))
    monkeypatch.setattr(os, "replace", lambda source, target: done.append(Path(target)) or replace(source, target))
    write(folder)
    named = done.index(folder)
    synced = ("part/a.bin", "b.bin", MANIFEST, "part", ".")
    assert {(folder / name).stat().st_ino for name in synced} <= set(done[:named])
    assert tmp_path.stat().st_ino in done[named:]


def test_where_a_run_would_go_on(tmp_path):
    assert (
        where_to_resume(tmp_path) == "there is no checkpoint yet, so a resumed run begins at step 1 of the first stage"
    )
    write(tmp_path / "stages/1-fine-tune/checkpoint-4")
    told = where_to_resume(tmp_path)
    assert told.endswith("1-fine-tune/checkpoint-4, so a resumed run goes on after step 4 of stage fine-tune")


def test_names_of_checkpoints(tmp_path):
    assert checkpoint_at(tmp_path / "stages/3-a-b/checkpoint-20").step == 20
    assert checkpoint_at(tmp_path / "stages/3-a-b/checkpoint-20").stage == 3
    assert checkpoint_at(tmp_path / "stages/a/checkpoint-20") is None
    assert checkpoint_at(tmp_path / "final") is None
