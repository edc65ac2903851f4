"""A tiny recipe for every test of the training floor, read as a user's file is."""

from __future__ import annotations

import gc
import importlib.util
import json
import os
import sys
import traceback
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

import pytest

from phantrol.training.recipe import Recipe, load_recipe

sys.path.append(str(Path(__file__).parent))  # rank_processes.py is no test: see there

TINY = Path(__file__).with_name("tiny_recipe.py")
CLOCK = {"step_s", "waited", "tokens_per_s", "pictures_per_s", "tflops", "mfu"}  # what another run has otherwise


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
        return [{name: value for name, value in line.items() if name not in CLOCK} for line in lines]

    return read


@pytest.fixture(scope="session")
def load_script() -> Callable[[str], ModuleType]:
    """`load_script(name)` is scripts/NAME.py as a module."""

    def load(name: str) -> ModuleType:
        spec = importlib.util.spec_from_file_location(name, Path(__file__).parents[2] / "scripts" / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return load


@pytest.fixture(scope="session")
def forked() -> Callable[..., list[int]]:
    """`forked(action, ...)` runs each action in a process of its own, at once; returns their exit codes (-9: killed).

    A copy of this process starts in no time, where a new one would spend seconds on imports.
    """

    def start(action: Callable[[], object]) -> int:
        child = os.fork()
        if child:
            return child
        try:
            action()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)

    def run(*actions: Callable[[], object]) -> list[int]:
        children = [start(action) for action in actions]
        return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]

    return run


@pytest.fixture(scope="session")
def two_stages(tiny_recipe) -> Callable[..., Recipe]:
    """Two steps of each stage on four groups a step, one group in a micro-batch however many ranks there are."""

    def recipe(ranks: int, sharding: str = "none") -> Recipe:
        text = {**tiny_recipe().model.text, "attention_dropout": 0.0}  # ranks draw their own
        changes = [f"model.text={text}", "stages.tune.optimiser=adamw", f"sharding={sharding}"]
        for stage in ("align", "tune"):
            changes += [f"stages.{stage}.max_steps=2", f"stages.{stage}.accumulation={4 // ranks}"]
        return tiny_recipe("log_every_steps=1", *changes)

    return recipe


@pytest.fixture(scope="session")
def deepspeed_imported():
    """A forked rank then need not import it."""
    if find_spec("deepspeed") is not None:
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
        import deepspeed  # noqa: F401
