from __future__ import annotations

import errno
import json

import pytest

from phantrol.training.checkpoint import (
    MANIFEST,
    beside,
    check_sizes,
    check_whole,
    checkpoint_at,
    checkpoints,
    keep,
    last_whole_checkpoint,
    where_to_resume,
    written_beside,
)


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


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "x"), OSError(errno.EDQUOT, "x"), RuntimeError("write: No space left on device")]
)
def test_a_full_disk_is_one_line(tmp_path, error):
    complaint = r"the disk is full: .*checkpoint-1 could not be written"
    with pytest.raises(ValueError, match=complaint), written_beside(tmp_path / "checkpoint-1"):
        raise error
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


def test_sizes_alone_do_not_see_a_flipped_byte(tmp_path):
    write(tmp_path / "checkpoint-1")
    (tmp_path / "checkpoint-1" / "b.bin").write_text("c")
    check_sizes(tmp_path / "checkpoint-1")
    with pytest.raises(ValueError, match="got sha256"):
        check_whole(tmp_path / "checkpoint-1")
    (tmp_path / "checkpoint-1" / "b.bin").write_text("cc")
    with pytest.raises(ValueError, match="got 2 bytes, expected 1"):
        check_sizes(tmp_path / "checkpoint-1")


def test_where_a_run_would_go_on(tmp_path):
    assert (
        where_to_resume(tmp_path) == "there is no checkpoint yet, so a resumed run begins at step 1 of the first stage"
    )
    write(tmp_path / "stages/0-align/checkpoint-4")
    assert where_to_resume(tmp_path).endswith("checkpoint-4, so a resumed run goes on with step 5")


def test_names_of_checkpoints(tmp_path):
    assert checkpoint_at(tmp_path / "stages/3-a-b/checkpoint-20").step == 20
    assert checkpoint_at(tmp_path / "stages/3-a-b/checkpoint-20").stage == 3
    assert checkpoint_at(tmp_path / "stages/a/checkpoint-20") is None
    assert checkpoint_at(tmp_path / "final") is None
