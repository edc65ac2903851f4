"""scripts/profile_recipe.py and profile_demo.py, on a clock that only parts of a run move: so the lines are known."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.utils.data.dataloader import _BaseDataLoaderIter

from phantrol import demo
from phantrol.find import import_file
from phantrol.training import run
from phantrol.training.new_model import NewModel
from phantrol.training.trainer import StageTrainer

TESTS = Path(__file__).parents[1]
SCRIPTS = TESTS.parent / "scripts"
TINY = str(TESTS / "training" / "tiny_recipe.py")
OVERRIDES = ["stages.*.max_steps=2", "stages.1.optimiser=adamw", "workers=0", "save_every_steps=100"]


class Clock:
    def __init__(self) -> None:
        self.now_s, self.batch_s = 100.0, 1.0

    def perf_counter(self) -> float:
        return self.now_s

    def after(self, seconds: float, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function; each call moves the clock."""

        def call(*args: Any, **kwargs: Any) -> Any:
            self.now_s += seconds
            return function(*args, **kwargs)

        return call


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def recipes(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """profile_recipe.py, where a batch takes 1 s, a pass 4 and an optimiser's step 3."""
    script = import_file(SCRIPTS / "profile_recipe.py")
    monkeypatch.setattr(script, "time", clock)
    monkeypatch.setattr(script, "FIRST_STEPS", 1)
    monkeypatch.setattr(StageTrainer, "training_step", clock.after(4, StageTrainer.training_step))
    monkeypatch.setattr(script.Watched, "training_step", StageTrainer.training_step, raising=False)
    batch = _BaseDataLoaderIter.__next__
    monkeypatch.setattr(_BaseDataLoaderIter, "__next__", lambda loader: clock.after(clock.batch_s, batch)(loader))
    hook = register_optimizer_step_post_hook(clock.after(3, lambda *_: None))
    yield script
    hook.remove()
    script.spent_s.clear()


def test_steps_of_a_recipe(recipes: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture):
    """A step of `align` has two batches, one of `tune` one; the first step of each stage is left out."""
    words = [TINY, "--steps", "2", "workers=0", "stages.1.optimiser=adamw"]
    monkeypatch.setattr("sys.argv", ["profile_recipe.py", *words])
    recipes.main()
    lines = capsys.readouterr().out.splitlines()
    assert f"{TINY}, workers=0, 1 threads" in lines
    assert [line for line in lines if line.startswith(("| align", "| tune"))] == [
        "| align | 13.000 | 15.4% | 61.5% | 23.1% |",  # 2 · 1 s, 2 · 4 s and 3 s
        "| tune | 8.000 | 12.5% | 50.0% | 37.5% |",
    ]


@pytest.fixture
def demos(clock: Clock, recipes: ModuleType, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """profile_demo.py, of whose demo the parts do little, and take a known time."""
    monkeypatch.setitem(sys.modules, "profile_recipe", recipes)
    script = import_file(SCRIPTS / "profile_demo.py")
    script.seen_s.clear()
    clock.batch_s = 0  # the last batch of a stage is asked for and not used
    monkeypatch.setattr(script, "time", clock)
    monkeypatch.setattr(script, "BEGAN_S", clock.now_s)
    for place, name in ((run, "StageTrainer"), (demo, "evaluate"), (demo, "run"), (Future, "result")):
        monkeypatch.setattr(place, name, getattr(place, name))  # what the script puts there is taken away again
    engine = SimpleNamespace(model=torch.nn.Linear(1, 1))
    engine.model.__class__ = type("Model", (torch.nn.Linear,), {"generate": clock.after(40, lambda self, limit: limit)})

    def evaluate(engine: Any, benchmark: Any, split: str, limit: int, seed: int) -> Any:
        done: Future[int] = Future()
        done.set_result(1)
        clock.now_s += 2
        assert (done.result(), engine.model.generate(limit)) == (1, 3)
        return SimpleNamespace(write=lambda path: None, write_samples=lambda path: None, table=lambda: "")

    monkeypatch.setattr(script, "evaluate", evaluate)
    monkeypatch.setattr(Future, "result", clock.after(8, Future.result))
    monkeypatch.setattr(demo, "load_recipe", clock.after(5, lambda *_: recipes.load_recipe(TINY, OVERRIDES)))
    monkeypatch.setattr(NewModel, "build", clock.after(7, NewModel.build))
    monkeypatch.setattr(demo.Engine, "open", clock.after(6, lambda *_: engine))
    for name, seconds in (("_ask", 10), ("_write_report", 20)):
        monkeypatch.setattr(demo, name, clock.after(seconds, lambda *_: None))
    monkeypatch.setattr(demo, "benchmark_for", lambda recipe, split: None)
    return script


def test_the_whole_demo(demos: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    """Training is its real trainer: two steps of 2 batches, then two of 1."""
    monkeypatch.setattr("sys.argv", ["profile_demo.py", "--out", str(tmp_path / "run"), "--limit", "3"])
    demos.main()
    shown = capsys.readouterr().out.splitlines()
    assert "1 threads; the first step was done after 16.0 s" in shown  # 5 + 7 + 4
    assert shown[-10:] == [
        "| training | 43.0 | 32.1% |",
        "| - stage align, 2 steps | 22.0 | 16.4% |",  # two of 2 · 4 s and 3 s
        "| - stage tune, 2 steps | 14.0 | 10.4% |",
        "| - building, saving | 7.0 | 5.2% |",
        "| evaluation | 50.0 | 37.3% |",
        "| - the model | 40.0 | 29.9% |",
        "| - waiting for prompts | 8.0 | 6.0% |",
        "| questions, maps and report | 30.0 | 22.4% |",
        "| start, and the rest | 11.0 | 8.2% |",  # reading the recipe and opening the model
        "| all | 134.0 | 100.0% |",
    ]
