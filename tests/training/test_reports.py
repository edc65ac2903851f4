"""W&B and Trackio through `report_to`, with stand-ins that have what transformers' callbacks call and no more."""

from __future__ import annotations

import sys
from dataclasses import replace
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace

import pytest

from phantrol.training.run import run


class Config(dict):
    def update(self, values, allow_val_change):
        super().update(values)


class Service(ModuleType):
    """Keeps the runs that were begun, and what each was told."""

    def __init__(self, name: str):
        super().__init__(name)
        self.__spec__, self.config, self.runs, self.run = ModuleSpec(name, None), Config(), [], None
        self.context_vars = SimpleNamespace(current_space_id=SimpleNamespace(get=lambda: None))

    def init(self, project, name, **options):
        self.run = SimpleNamespace(
            project=project, name=name, logs=[], is_over=False, summary={}, _label=lambda code: None
        )
        self.runs.append(self.run)

    def log(self, values):
        self.run.logs.append(values)

    def finish(self):
        if self.run is not None:
            self.run.is_over, self.run = True, None


@pytest.fixture
def service(monkeypatch):
    """`service(name)` is a stand-in for that package."""

    def stand_in(name: str) -> Service:
        found = Service(name)
        errors = ModuleType("wandb.sdk.lib.config_util")
        errors.ConfigError = type("ConfigError", (Exception,), {})
        monkeypatch.setitem(sys.modules, errors.__name__, errors)
        monkeypatch.setitem(sys.modules, name, found)
        return found

    return stand_in


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_each_stage_is_a_run_of_its_own(tiny_recipe, tmp_path, metrics, service, name, monkeypatch):
    monkeypatch.setenv("WANDB_PROJECT", "to be put back")
    monkeypatch.delenv("WANDB_PROJECT")
    told = service(name)
    run(replace(tiny_recipe("stages.tune.max_steps=2"), report_to=(name,)), tmp_path / "mine")
    assert [(one.name, one.is_over) for one in told.runs] == [("mine-align", True), ("mine-tune", True)]
    assert {one.project for one in told.runs} == {"phantrol"}
    logged = [[(v["train/global_step"], v["train/loss"]) for v in one.logs if "train/loss" in v] for one in told.runs]
    lines = metrics(tmp_path / "mine")
    assert logged == [
        [(line["step"], line["loss"]) for line in lines if line["stage"] == stage] for stage in ("align", "tune")
    ]
    assert [len(steps) for steps in logged] == [4, 2]


def test_a_run_that_is_not_ended_is_noticed(tiny_recipe, tmp_path, monkeypatch, service):
    """The control: W&B alone has to be told that a stage is over."""
    monkeypatch.setattr("phantrol.training.run._end_reports", lambda recipe: None)
    monkeypatch.setenv("WANDB_PROJECT", "mine")
    told = service("wandb")
    recipe = tiny_recipe("stages.align.max_steps=1", "stages.tune.max_steps=1")
    run(replace(recipe, report_to=("wandb",)), tmp_path / "mine")
    assert [(one.name, one.project) for one in told.runs] == [("mine-align", "mine")]
