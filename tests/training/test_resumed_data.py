"""With which data, and on how many ranks, a run may go on."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import pytest

from phantrol.data.mixture import Mixture
from phantrol.data.sources.file import FileSource
from phantrol.losses.word_alignment import WordAlignment
from phantrol.training.checkpoint import checkpoints
from phantrol.training.new_model import NewModel
from phantrol.training.recipe import HeldOut
from phantrol.training.run import run
from phantrol.training.same_data import FILE, check_same_data, note_data


def write(path, count, answer="red"):
    rows = [{"question": f"What color, {i}?", "answer": answer} for i in range(count)]
    path.write_text(json.dumps(rows))


def test_a_run_goes_on_with_as_many_rows_alone(tiny_recipe, tmp_path):
    made, data, out = tiny_recipe("workers=0"), tmp_path / "d.json", tmp_path / "run"

    def recipe():  # a source that is asked anew, as in another process
        source = Mixture(((1.0, FileSource(str(data))),))
        return replace(made, stages=(replace(made.stages[1], data=source, optimiser="adamw", max_steps=2),))

    write(data, 12)
    run(recipe(), out)
    shutil.rmtree(out / "final")
    shutil.rmtree(checkpoints(out)[-1].path)
    write(data, 30)
    with pytest.raises(ValueError, match=r"other data: got 30 groups in stages\.tune\.data\.parts\.0 \(.*expected 12;"):
        run(recipe(), out, resume=True)
    assert len(checkpoints(out)) == 1  # nothing was touched
    write(data, 12, "green")  # a mended example is no other data
    assert run(recipe(), out, resume=True).is_dir() and len(checkpoints(out)) == 2
    shutil.rmtree(out / "final")
    (out / FILE).unlink()  # of a run that was begun before there was a note
    write(data, 30)
    assert run(recipe(), out, resume=True).is_dir() and (out / FILE).is_file()


def test_rows_stay_as_many_where_several_are_a_group(tiny_recipe, tmp_path):
    made, data = tiny_recipe(), tmp_path / "d.json"

    def recipe():
        source = Mixture(((1.0, FileSource(str(data), together=4)),))
        return replace(made, stages=(replace(made.stages[1], data=source),))

    write(data, 12)
    note_data(tmp_path, recipe(), 1)
    check_same_data(tmp_path, recipe(), 1)
    write(data, 10)  # three groups still
    with pytest.raises(ValueError, match=r"other data: got 10 rows in stages\.tune\.data\.parts\.0 \(.*expected 12;"):
        check_same_data(tmp_path, recipe(), 1)
    noted = json.loads((tmp_path / FILE).read_text())
    del noted["rows"]  # as an older run noted it
    (tmp_path / FILE).write_text(json.dumps(noted))
    check_same_data(tmp_path, recipe(), 1)


def test_other_data_are_no_matter_before_the_first_checkpoint(tiny_recipe, tmp_path, monkeypatch):
    made, data, out = tiny_recipe(), tmp_path / "d.json", tmp_path / "run"

    def recipe():
        return replace(made, stages=(replace(made.stages[1], data=Mixture(((1.0, FileSource(str(data))),))),))

    def killed(self):
        raise KeyboardInterrupt

    monkeypatch.setattr(NewModel, "build", killed)
    for count in (12, 11):
        write(data, count)
        with pytest.raises(KeyboardInterrupt):
            run(recipe(), out, resume=True)
        assert list(json.loads((out / FILE).read_text())["groups"].values()) == [count]


def test_ranks_stay_where_the_rows_of_a_micro_batch_are_compared(tiny_recipe, tmp_path):
    recipe = tiny_recipe()
    note_data(tmp_path, recipe, 2)
    check_same_data(tmp_path, recipe, 4)
    compares = replace(recipe, stages=(replace(recipe.stages[0], loss=WordAlignment()), recipe.stages[1]))
    check_same_data(tmp_path, compares, 2)
    with pytest.raises(ValueError, match=r"begun with 2 ranks: got 4, expected the same, .* 'align' compares"):
        check_same_data(tmp_path, compares, 4)


@pytest.mark.parametrize("broken", ["", "[]", "{}", '{"groups": 3, "ranks": 1}'])
def test_a_broken_note_is_named(tiny_recipe, tmp_path, broken):
    (tmp_path / FILE).write_text(broken)
    with pytest.raises(ValueError, match=f"{FILE} cannot be read: remove it"):
        check_same_data(tmp_path, tiny_recipe(), 1)


def test_held_out_rows_stay_as_many_too(tiny_recipe, tmp_path):
    made, data = tiny_recipe(), tmp_path / "d.json"

    def recipe():
        held_out = HeldOut(Mixture(((1.0, FileSource(str(data))),)), groups=4)
        return replace(made, stages=(replace(made.stages[1], held_out=held_out),))

    write(data, 12)
    note_data(tmp_path, recipe(), 1)
    check_same_data(tmp_path, recipe(), 1)
    write(data, 11)
    with pytest.raises(ValueError, match=r"got 11 groups in stages\.tune\.held_out\.data\.parts\.0 \(.*expected 12;"):
        check_same_data(tmp_path, recipe(), 1)
