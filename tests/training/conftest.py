"""A tiny recipe for every test of the training floor, read as a user's file is."""

from __future__ import annotations

import gc
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from phantrol.training.recipe import Recipe, load_recipe

TINY = Path(__file__).with_name("tiny_recipe.py")


@pytest.fixture(autouse=True)
def one_thread():
    """Sums in parallel may be taken in another order: bits are compared here."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session", autouse=True)
def fewer_objects():
    """Trainer collects garbage when it begins; what was imported need not be walked each time."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def tiny_path() -> Path:
    return TINY


@pytest.fixture(scope="session")
def tiny_recipe() -> Callable[..., Recipe]:
    """`tiny_recipe("stages.0.lr=1e-4", ...)` returns the tiny recipe with these overrides."""
    return lambda *overrides: load_recipe(str(TINY), overrides)


@pytest.fixture(scope="session")
def metrics() -> Callable[[Path], list[dict]]:
    """`metrics(run_dir)` returns the lines of metrics.jsonl, without what depends on the clock."""

    def read(run_dir: Path) -> list[dict]:
        lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
        return [{name: value for name, value in line.items() if name != "pictures_per_s"} for line in lines]

    return read
