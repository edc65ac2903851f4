"""With which recipe a run may go on, and what is said where that of the run is broken. No model is built."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from phantrol.losses.word_alignment import WordAlignment
from phantrol.training import run as run_module
from phantrol.training.merging import merge
from phantrol.training.new_model import NewModel
from phantrol.training.recipe import HeldOut
from phantrol.training.recipe_json import recipe_to_json
from phantrol.training.run import run
from phantrol.training.run_status import read_status


class Begun(Exception):
    """The run was not refused."""


@pytest.fixture
def go_on(tmp_path, monkeypatch):
    """`go_on(before, now)` resumes a run of one recipe that has begun with another one, as far as to the model."""

    def build(self):
        raise Begun

    def resume(before, now):
        (tmp_path / "recipe.json").write_text(recipe_to_json(before), "utf-8")
        (tmp_path / "metrics.jsonl").write_text('{"stage": "align", "step": 1, "loss": 1.0}\n')
        run(now, tmp_path, resume=True)

    monkeypatch.setattr(NewModel, "build", build)
    return resume


def first(recipe, **changes):
    return replace(recipe, stages=(replace(recipe.stages[0], **changes), recipe.stages[1]))


def test_micro_batches_stay_where_their_rows_are_compared(tiny_recipe, go_on):
    with pytest.raises(Begun):
        go_on(tiny_recipe(), first(tiny_recipe(), accumulation=1))
    aligned = first(tiny_recipe(), loss=WordAlignment())
    with pytest.raises(Begun):
        go_on(aligned, replace(aligned, stages=(aligned.stages[0], replace(aligned.stages[1], accumulation=2))))
    with pytest.raises(ValueError, match=r"another recipe: got stages\.0\.accumulation: 1, not 2; choose another"):
        go_on(aligned, first(aligned, accumulation=1))


def test_checkpoints_stay_where_the_best_is_taken(tiny_recipe, go_on):
    for take in ("last", "best"):
        held_out = first(tiny_recipe(), held_out=HeldOut(tiny_recipe().stages[0].data, 4, take))
        with pytest.raises(Begun if take == "last" else ValueError, match=r"^$|got save_every_steps: 2, not 1"):
            go_on(held_out, replace(held_out, save_every_steps=2))
        with pytest.raises(Begun):
            go_on(held_out, replace(held_out, keep_checkpoints=1, log_every_steps=2))


def test_what_changes_memory_time_and_watching_alone_may_change(tiny_recipe, go_on):
    with pytest.raises(Begun):
        go_on(tiny_recipe(), first(tiny_recipe(), gradient_checkpointing=True))
    for change in (dict(workers=3), dict(sharding="zero2"), dict(report_to=("tensorboard",))):
        assert run_module._may_change([next(iter(change))], tiny_recipe())
    with pytest.raises(Begun):
        go_on(tiny_recipe(), replace(tiny_recipe(), workers=1, keep_checkpoints=3))
    with pytest.raises(ValueError, match=r"another recipe: got stages\.0\.lr"):
        go_on(tiny_recipe(), first(tiny_recipe(), lr=1e-5))


@pytest.mark.parametrize("broken", [b"", b"{", b"[]", b"\xff", b'{"stages": [{}]}', b'{"stages": 3}'])
def test_a_broken_recipe_is_named_by_all_alike(broken, tiny_recipe, tmp_path):
    path = tmp_path / "recipe.json"
    path.write_bytes(broken)
    said, words = [*read_status(tmp_path).problems], rf"^{re.escape(str(path))} cannot be read \(\w+Error: .*: copy it"
    for action in (lambda: run(tiny_recipe(), tmp_path, resume=True), lambda: merge(tmp_path, tmp_path / "out")):
        with pytest.raises(ValueError, match=words) as caught:
            action()
        said.append(str(caught.value))
    assert len(said) == 3 and len(set(said)) == 1 and "\n" not in said[0]


def test_checkpoints_whose_recipe_is_lost_go_on_with_none(tiny_recipe, tmp_path):
    (tmp_path / "stages" / "0-align" / "checkpoint-1").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"recipe\.json cannot be read \(FileNotFound.* neither go on") as caught:
        run(tiny_recipe(), tmp_path, resume=True)
    assert str(caught.value) in read_status(tmp_path).problems
