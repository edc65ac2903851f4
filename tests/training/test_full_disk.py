"""A disk that is really full: a small one in memory, which only the process of the test sees."""

from __future__ import annotations

import ctypes
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from phantrol.training.checkpoint import check_whole, checkpoints, folder_bytes
from phantrol.training.run import run

NEW_NAMESPACE, REMOUNT, PRIVATE = 0x20000, 32, 16384 | (1 << 18)
LIBC = ctypes.CDLL(None, use_errno=True)


def mount(folder: Path, num_bytes: int, flags: int = 0) -> bool:
    return LIBC.mount(b"tmpfs", bytes(folder), b"tmpfs", flags, f"size={num_bytes}".encode()) == 0


def own_disks() -> bool:
    """Let this process mount what no other sees; False if it may not."""
    alone = LIBC.unshare(NEW_NAMESPACE) == 0 and LIBC.mount(b"none", b"/", None, PRIVATE, None) == 0
    return alone and mount(Path("/mnt"), 2**20)


@pytest.fixture(scope="module")
def whole(tiny_recipe, tmp_path_factory):
    torch.set_num_threads(1)
    out = tmp_path_factory.mktemp("whole")
    run(tiny_recipe("stages.tune.max_steps=1"), out)
    return out


@pytest.fixture(autouse=True)
def may_mount(forked):
    if not hasattr(LIBC, "unshare") or forked(lambda: os._exit(0 if own_disks() else 1)) != [0]:
        pytest.skip("this system lets nobody mount a disk of its own")


def filled(recipe, out: Path, num_bytes: int, whole: Path) -> None:
    """Train on a disk of that size until it is full; then on a larger one to the end."""
    assert own_disks() and mount(out, num_bytes)
    with pytest.raises(ValueError, match=r"the disk is full: .*--resume") as caught:
        run(recipe, out)
    assert "\n" not in str(caught.value)
    assert not list(out.glob("**/.writing"))
    for found in checkpoints(out):
        check_whole(found.path)
    assert mount(out, 2**30, REMOUNT)
    run(recipe, out, resume=True)
    one, other = (load_file(folder / "final" / "model.safetensors") for folder in (out, whole))
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("checkpoints_that_fit", [0.3, 1.25, 1.6, 1.99])
def test_the_run_stops_and_what_was_written_is_whole(whole, tiny_recipe, tmp_path, forked, checkpoints_that_fit):
    size = int(folder_bytes(checkpoints(whole)[0].path) * checkpoints_that_fit) + 2**14
    assert forked(lambda: filled(tiny_recipe("stages.tune.max_steps=1"), tmp_path, size, whole)) == [0]
    assert list(tmp_path.iterdir()) == []  # it was somewhere else


def cached(recipe, out: Path, features: Path, whole: Path) -> None:
    """Train with a feature cache on a disk that holds two of its files; then on a larger one to the end."""
    assert own_disks() and mount(features, 2**13)
    with pytest.raises(ValueError, match=rf"the disk is full: {features}/.*\.safetensors .*--resume") as caught:
        run(recipe, out)
    assert "\n" not in str(caught.value)
    files = list(features.glob("*/*/*"))
    assert files and all(load_file(path)["features"].isfinite().all() for path in files)
    assert mount(features, 2**20, REMOUNT)
    run(recipe, out, resume=True)
    assert len(list(features.glob("*/*/*"))) == 5 > len(files)  # as many colors
    one, other = (load_file(folder / "final" / "model.safetensors") for folder in (out, whole))
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_a_full_disk_under_the_feature_cache_is_said(whole, tiny_recipe, tmp_path, forked):
    recipe, features = tiny_recipe("stages.tune.max_steps=1"), tmp_path / "features"
    features.mkdir()
    first = replace(recipe.stages[0], feature_cache=str(features))
    recipe = replace(recipe, stages=(first, recipe.stages[1]))
    assert forked(lambda: cached(recipe, tmp_path / "run", features, whole)) == [0]
