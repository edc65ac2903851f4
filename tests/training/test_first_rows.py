"""What is read of the data before anything is built, and that a mistake in a recipe does not use its folder up."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from PIL import Image

from phantrol.data.mixture import Mixture
from phantrol.data.sources.file import FileSource
from phantrol.losses.sft import Sft
from phantrol.training.dry_run import dry_run
from phantrol.training.new_model import Lora, NewModel
from phantrol.training.recipe import HeldOut
from phantrol.training.run import run


@pytest.fixture
def file(tmp_path):
    """mine.jsonl: 20 questions about pictures in the folder pics, and a folder without them."""
    for name in ("pics", "elsewhere"):
        (tmp_path / name).mkdir()
    rows = [{"image": f"{i}.png", "question": "What color?", "answer": "red"} for i in range(20)]
    for row in rows:
        Image.new("RGB", (32, 32), "red").save(tmp_path / "pics" / row["image"])
    (tmp_path / "mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path / "mine.jsonl"


class Built(Exception):
    """Nothing was refused before the model was built."""


@pytest.fixture
def built(monkeypatch):
    def build(self):
        raise Built

    monkeypatch.setattr(NewModel, "build", build)


def learning(recipe, data, held_out=None):
    """One stage, whose data may come after good ones in a mixture."""
    good = recipe.stages[0].data.parts[0]
    held_out = held_out and HeldOut(Mixture(((1.0, held_out),)), groups=4)
    stage = replace(recipe.stages[0], loss=Sft(), data=Mixture((good, (0.001, data))), held_out=held_out)
    return replace(recipe, stages=(recipe.stages[1], stage))


def test_wrong_pictures_of_any_source_are_found_first(tiny_recipe, file, tmp_path, built):
    good, nowhere = (FileSource(file, images=tmp_path / name) for name in ("pics", "elsewhere"))
    for recipe in (learning(tiny_recipe(), nowhere), learning(tiny_recipe(), good, nowhere)):
        with pytest.raises(ValueError, match=r"^16 rows one after the other .*mine\.jsonl, line .*elsewhere.*no such"):
            run(recipe, tmp_path / "run")
        assert not (tmp_path / "run").exists()
    with pytest.raises(Built):
        run(learning(tiny_recipe(), good, good), tmp_path / "run")


def test_a_dry_run_finds_them_too(tiny_recipe, file, tmp_path, built):
    for together in (1, 4):
        with pytest.raises(ValueError, match=r"16 rows one after the other cannot be read, .*no such file"):
            dry_run(learning(tiny_recipe(), FileSource(file, images=tmp_path / "elsewhere", together=together)))
    with pytest.raises(Built):
        dry_run(learning(tiny_recipe(), FileSource(file, images=tmp_path / "pics")))


def test_what_training_would_leave_out_refuses_nothing(tiny_recipe, file, tmp_path, built):
    for number in range(0, 20, 2):
        (tmp_path / "pics" / f"{number}.png").write_bytes(b"")
    for together in (1, 4):
        source = FileSource(file, images=tmp_path / "pics", together=together)
        recipe = learning(tiny_recipe(), source, source)
        with pytest.raises(Built):
            dry_run(recipe)
        with pytest.raises(Built):
            run(recipe, tmp_path / f"run-{together}")


@pytest.mark.parametrize("resume", [False, True])
@pytest.mark.parametrize("mistake", ["no model", "layers of adapters", "a pattern"])
def test_a_mended_recipe_takes_the_folder_of_one_that_never_began(tiny_recipe, tmp_path, mistake, resume):
    recipe = tiny_recipe("stages.align.max_steps=1", "stages.tune.max_steps=1")
    wrong = {
        "no model": replace(recipe, model=replace(recipe.model, text=str(tmp_path / "nowhere"))),
        "layers of adapters": replace(recipe, model=replace(recipe.model, lora=Lora(targets=("no_such_proj",)))),
        "a pattern": replace(recipe, stages=(replace(recipe.stages[0], train=("projektor.*",)), recipe.stages[1])),
    }[mistake]
    out = tmp_path / "run"
    with pytest.raises(ValueError, match=r"nowhere|no_such_proj|projektor"):
        run(wrong, out)
    assert run(recipe, out, resume=resume).is_dir()
    assert json.loads((out / "recipe.json").read_text())["stages"][0]["train"] == list(recipe.stages[0].train)
    with pytest.raises(ValueError, match="got a folder in use"):
        run(recipe, out)


@pytest.mark.parametrize(
    "left", [{"notes.txt": "mine"}, {"recipe.json": "{}"}, {".lock": "", "metrics.jsonl": "{"}, {".lock": "", "a": ""}]
)
def test_what_is_not_a_run_that_never_began_is_left_alone(tiny_recipe, tmp_path, left):
    for name, text in left.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match="got a folder in use"):
        run(tiny_recipe(), tmp_path)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == left


def test_features_kept_in_the_folder_of_a_run_that_never_began_do_not_take_it(tiny_recipe, tmp_path):
    out, short = tmp_path / "run", tiny_recipe("stages.align.max_steps=1", "stages.tune.max_steps=1")
    frozen = replace(short.stages[0], feature_cache=str(out / "seen" / "features"))
    recipe = replace(short, stages=(frozen, short.stages[1]))
    with pytest.raises(ValueError, match="nowhere"):
        run(replace(recipe, model=replace(recipe.model, text=str(tmp_path / "nowhere"))), out)
    (out / "seen" / "features").mkdir(parents=True)
    with pytest.raises(ValueError, match="got a folder in use"):
        run(short, out)  # which would not go on with them
    assert run(recipe, out).is_dir()


def without_rejected(data):
    class Agreeing:
        def __len__(self):
            return len(data.parts[0][1])

        def __getitem__(self, index):
            return tuple(replace(example, rejected=()) for example in data.parts[0][1][index])

    return Mixture(((1.0, Agreeing()),))


def test_held_out_rows_need_wrong_answers_too(tiny_recipe, tmp_path, built):
    align = tiny_recipe().stages[0]  # whose loss compares answers
    for data, refused in ((align.data, False), (without_rejected(align.data), True)):
        recipe = replace(tiny_recipe(), stages=(replace(align, held_out=HeldOut(data, groups=4)),))
        with pytest.raises(
            ValueError if refused else Built, match="no rejected answer in the held-out 4" if refused else None
        ):
            run(recipe, tmp_path / "run")


def test_the_first_rows_are_those_that_training_begins_with(tiny_recipe, tmp_path, built, monkeypatch):
    looked = []
    monkeypatch.setattr("phantrol.training.run.check_data", lambda stage, seed: looked.append((stage.name, seed)))
    recipe = tiny_recipe()
    with pytest.raises(Built):
        run(recipe, tmp_path / "run")
    assert looked == [(stage.name, recipe.stage_seed(number)) for number, stage in enumerate(recipe.stages)]
