"""How many processes prepare batches: what was asked for, or what the machine has room for."""

from __future__ import annotations

import multiprocessing
from types import SimpleNamespace

import pytest

from phantrol.training import workers
from phantrol.training.recipe import load_recipe
from phantrol.training.workers import ROOM_BYTES, workers_for


@pytest.fixture
def machine(monkeypatch, tmp_path):
    def of(cores: int, free: int = 2 * ROOM_BYTES, ranks: int = 1) -> None:
        monkeypatch.setenv("LOCAL_WORLD_SIZE", str(ranks))
        monkeypatch.setattr(workers, "_cores", lambda: cores)
        monkeypatch.setattr(workers, "SHARED_MEMORY", tmp_path)
        monkeypatch.setattr(workers.shutil, "disk_usage", lambda path: SimpleNamespace(free=free))

    return of


@pytest.mark.parametrize("cores, ranks, expected", [(16, 1, 8), (16, 4, 3), (4, 1, 3), (2, 1, 1), (1, 1, 0), (4, 8, 0)])
def test_beside_a_gpu_the_cores_that_are_left(machine, cores, ranks, expected):
    machine(cores, ranks=ranks)
    assert workers_for(None, on_gpu=True) == expected


@pytest.mark.parametrize("cores, ranks, expected", [(16, 1, 1), (2, 1, 1), (2, 2, 0), (4, 2, 1), (1, 1, 0)])
def test_on_a_cpu_one_if_it_has_a_core(machine, monkeypatch, cores, ranks, expected):
    machine(cores, ranks=ranks)
    monkeypatch.setattr(workers, "_forks", lambda: True)
    assert workers_for(None, on_gpu=False) == expected
    monkeypatch.setattr(workers, "_forks", lambda: False)
    assert workers_for(None, on_gpu=False) == 0, "one that imports torch anew takes seconds"


@pytest.mark.parametrize("method", multiprocessing.get_all_start_methods())
def test_how_processes_begin_here(monkeypatch, method):
    monkeypatch.setattr(multiprocessing, "get_start_method", lambda allow_none: method)
    assert workers._forks() is (method == "fork")


@pytest.mark.parametrize("on_gpu", [False, True])
@pytest.mark.parametrize("wanted", [0, 3])
def test_what_was_asked_for_is_what_comes(machine, wanted, on_gpu):
    machine(2, free=0)
    assert workers_for(wanted, on_gpu) == wanted


def test_too_little_shared_memory_is_said(machine, caplog):
    machine(8, free=64 << 20)
    assert workers_for(None, on_gpu=True) == 0
    assert "got 64 MiB of shared memory, expected at least 1024" in caplog.text and "--shm-size" in caplog.text


def test_a_recipe_leaves_it_open():
    assert load_recipe("primer_tiny").workers is None and load_recipe("primer_tiny", ["workers=2"]).workers == 2
    with pytest.raises(ValueError, match="workers"):
        load_recipe("primer_tiny", ["workers=-1"])
