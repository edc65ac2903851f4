"""The tiny recipe of the training tests, and a benchmark about its colored squares, both read as a user's files are."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from phantrol.training.recipe import Recipe, load_recipe

TINY = Path(__file__).parents[1] / "training" / "tiny_recipe.py"
QUICK = tuple(f"stages.{s}.{o}" for s in ("align", "tune") for o in ("max_steps=2", "warmup_steps=0", "accumulation=1"))


@pytest.fixture(scope="session")
def tiny_path() -> str:
    return str(TINY)


@pytest.fixture(scope="session")
def quick() -> tuple[str, ...]:
    """Overrides that make the tiny recipe a matter of a second."""
    return QUICK


@pytest.fixture(scope="session")
def tiny_recipe() -> Callable[..., Recipe]:
    """`tiny_recipe("stages.0.lr=1e-4", ...)` returns the tiny recipe with these overrides."""
    return lambda *overrides: load_recipe(str(TINY), overrides)


@pytest.fixture(scope="session")
def squares() -> str:
    """The path of a benchmark with two tasks, in two splits."""
    return str(Path(__file__).with_name("squares.py"))
