"""Folders that are whole or not there: written beside, listed in a manifest, then renamed.

A process that is killed while it writes leaves a folder under `.writing/`, never one that looks like a checkpoint.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from phantrol.training.faults import RunFault
from phantrol.whole_files import checksum, write_text

RECIPE, METRICS, FINAL = "recipe.json", "metrics.jsonl", "final"  # of a run, in its folder
MANIFEST = "manifest.json"
_WRITING = ".writing"
_log = logging.getLogger("phantrol")


@dataclass(frozen=True, order=True)
class Checkpoint:
    """stage  number of the stage in the recipe;  step  optimiser steps of that stage that are done"""

    stage: int
    step: int
    path: Path


@contextmanager
def written_beside(folder: Path, of_run: bool = False) -> Iterator[Path]:
    """Give an empty folder to write into; when the block ends, list its files in a manifest and rename it to `folder`.

    of_run  a run writes it, which goes on with --resume
    If the block fails nothing is left and what was at `folder` stays. Raises ValueError when the disk is full.
    """
    writing = beside(folder)
    _tidy(folder)
    try:
        with naming_a_full_disk(folder, of_run):
            _make(writing)
            yield writing
            _write_manifest(writing)
            if folder.exists():  # a broken one of the same name: a folder cannot be renamed onto a full one
                os.replace(folder, _old(folder))
            os.replace(writing, folder)
            _to_disk(folder.parent)
    finally:
        _tidy(folder)


@contextmanager
def naming_a_full_disk(path: Path, of_run: bool = True) -> Iterator[None]:
    """Raise ValueError, in one line, if writing `path` fails because the disk is full; of a run, RunFault."""
    try:
        yield
    except Exception as error:  # torch and safetensors raise their own kinds
        if not _is_disk_full(error, path.parent):
            raise
        reason = f"the disk is full: {path} could not be written"
        if not of_run:
            raise ValueError(f"{reason}; free some space and type the command again") from error
        remedy = "checkpoints before it are whole: free some space and go on with --resume"
        raise RunFault(f"{reason} and is left out", remedy) from error


def beside(folder: Path) -> Path:
    """Return where `folder` is written before it is renamed: on the same disk, out of sight, and nobody else's."""
    return folder.parent / _WRITING / folder.name


def _old(folder: Path) -> Path:
    """Return where what was at `folder` waits until the new one is in its place."""
    return folder.parent / _WRITING / f".old-{folder.name}"


def _make(folder: Path) -> None:
    with suppress(FileNotFoundError):  # whoever writes another folder here may remove the empty parent just then
        folder.mkdir(parents=True)
        return
    folder.mkdir(parents=True)


def _tidy(folder: Path) -> None:
    """Remove what writing `folder` left beside it, now or before it was killed; with no folder, its old one is back."""
    old = _old(folder)
    if old.exists() and not folder.exists():
        os.replace(old, folder)
    for left in (beside(folder), old):
        shutil.rmtree(left, ignore_errors=True)
    with suppress(OSError):  # it is not there, or holds what others write
        old.parent.rmdir()


def check_whole(folder: Path) -> None:
    """Raise ValueError if a file of `folder` is missing or not as its manifest says, naming the file."""
    check_sizes(folder)
    for name, expected in _read_manifest(folder).items():
        path = folder / name
        digest = checksum(path)
        if digest != expected["sha256"]:
            raise ValueError(
                f"{path}: got sha256 {digest[:12]}…, expected {expected['sha256'][:12]}…; use another checkpoint"
            )


def check_sizes(folder: Path) -> None:
    """Raise ValueError if a file of `folder` is missing or not as long as its manifest says, naming the file."""
    for name, expected in _read_manifest(folder).items():
        path = folder / name
        if not path.is_file():
            raise ValueError(f"{path}: got no such file, expected {expected['size']} bytes; use another checkpoint")
        size = path.stat().st_size
        if size != expected["size"]:
            raise ValueError(f"{path}: got {size} bytes, expected {expected['size']}; use another checkpoint")


def folder_bytes(folder: Path) -> int:
    """Return how much the files of a folder hold."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def last_whole_checkpoint(run_dir: Path) -> Checkpoint | None:
    """Return the newest checkpoint of a run that is whole, or None; warns of each newer one that is not."""
    for left in sorted(run_dir.glob(f"stages/*/{_WRITING}/checkpoint-*")):
        _log.warning("%s was never finished: skipped", left)
    for checkpoint in sorted(checkpoints(run_dir), reverse=True):
        try:
            check_whole(checkpoint.path)
        except ValueError as error:
            _log.warning("%s is not whole: skipped (%s)", checkpoint.path, error)
            continue
        return checkpoint
    return None


def checkpoints(run_dir: Path) -> list[Checkpoint]:
    """Return all checkpoints of a run, whole or not, the oldest first."""
    found = [checkpoint_at(path) for path in run_dir.glob("stages/*/checkpoint-*") if path.is_dir()]
    return sorted(checkpoint for checkpoint in found if checkpoint)


def checkpoint_at(path: Path) -> Checkpoint | None:
    """Return the checkpoint in the folder `path`, or None if its name is not that of one."""
    match = re.search(r"/(\d+)-[^/]+/checkpoint-(\d+)$", path.absolute().as_posix())
    return Checkpoint(int(match[1]), int(match[2]), path) if match else None


def stage_dir(run_dir: Path, number: int, name: str) -> Path:
    """Return the folder that holds the checkpoints of a stage."""
    return run_dir / "stages" / f"{number}-{name}"


def keep(folder: Path, newest: int, best: int | None = None) -> None:
    """Remove the checkpoints of a stage but for the newest so many and that of the step `best`."""
    found = sorted(filter(None, map(checkpoint_at, folder.glob("checkpoint-*"))))
    for checkpoint in found[:-newest]:
        if checkpoint.step != best:
            shutil.rmtree(checkpoint.path)


def remove_after(start: Checkpoint | None, run_dir: Path) -> None:
    """Remove what a run has written after the checkpoint that it goes on from, or all of it, the newest first.

    The run writes these checkpoints anew. Left there, broken ones would count as the newest for `keep`, which would
    then remove each new one, and a run that is killed would go on from those of another past.
    """
    for checkpoint in sorted(checkpoints(run_dir), reverse=True):
        if start is None or (checkpoint.stage, checkpoint.step) > (start.stage, start.step):
            _log.warning("%s comes after where the run goes on: removed", checkpoint.path)
            shutil.rmtree(checkpoint.path)
    for half_written in run_dir.glob(f"stages/*/{_WRITING}"):
        shutil.rmtree(half_written)


def where_to_resume(run_dir: Path) -> str:
    """Return in words which checkpoint a run would go on from, without looking into it."""
    found = checkpoints(run_dir)
    if not found:
        return "there is no checkpoint yet, so a resumed run begins at step 1 of the first stage"
    last = found[-1]
    stage = last.path.parent.name.partition("-")[2]  # it may be at its end: the next step is then another stage's
    return f"the last checkpoint is {last.path}, so a resumed run goes on after step {last.step} of stage {stage}"


def replace_text(folder: Path, name: str, text: str) -> None:
    """Write a small file of a whole folder anew, and its line in the manifest."""
    listed = _read_manifest(folder)
    write_text(folder / name, text)
    listed[name] = {"size": (folder / name).stat().st_size, "sha256": checksum(folder / name)}
    write_text(folder / MANIFEST, json.dumps({"files": listed}, indent=1))


def _write_manifest(folder: Path) -> None:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    for path in files:
        _to_disk(path)  # or else a machine that loses its power keeps a name and not what is in it
    listed = {p.relative_to(folder).as_posix(): {"size": p.stat().st_size, "sha256": checksum(p)} for p in files}
    write_text(folder / MANIFEST, json.dumps({"files": listed}, indent=1))
    for path in (folder / MANIFEST, *{p.parent for p in files}, folder):
        _to_disk(path)


def _read_manifest(folder: Path) -> dict[str, dict[str, int | str]]:
    path = folder / MANIFEST
    if not path.is_file():
        raise ValueError(
            f"{path}: got no such file, expected the list of the checkpoint's files; use another checkpoint"
        )
    try:
        return dict(json.loads(path.read_text("utf-8"))["files"])
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"{path}: got no readable list of files, expected one; use another checkpoint") from None


def _to_disk(path: Path) -> None:
    """Wait until a file or a folder's list of names is on the disk."""
    if os.name == "nt" and path.is_dir():  # which cannot be opened there
        return
    opened = os.open(path, os.O_RDONLY if os.name != "nt" else os.O_RDWR)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def os_error(error: Exception) -> int | None:
    """Return the number of the system's fault behind an error, if that is one; safetensors tells it in words alone."""
    told = re.search(r"\(os error (\d+)\)", str(error)) if type(error).__name__ == "SafetensorError" else None
    return int(told[1]) if told else getattr(error, "errno", None)


def _is_disk_full(error: Exception, folder: Path) -> bool:
    if os_error(error) in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return True
    if "No space left" in str(error):
        return True
    # torch says nothing of the system's; a quota and a limit on the size of files leave the disk itself room
    of_writing = any(words in str(error) for words in ("inline_container.cc", "iostream error"))
    return isinstance(error, RuntimeError) and (of_writing or shutil.disk_usage(folder).free < 2**20)
