from __future__ import annotations

import io
import json
import tempfile
from dataclasses import replace

import pytest
from rich.console import Console

from phantrol.data.mixture import Mixture
from phantrol.data.sources.file import FileSource
from phantrol.losses.word_alignment import WordAlignment
from phantrol.training.dry_run import dry_run
from phantrol.training.recipe import HeldOut, load_recipe


def said(recipe) -> str:
    console = Console(file=io.StringIO(), width=120)
    dry_run(recipe, console)
    return console.file.getvalue()


def test_it_shows_everything_and_writes_nothing(tiny_recipe, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    text = said(tiny_recipe("stages.tune.lr=0.00017"))
    assert list(tmp_path.iterdir()) == []
    shown, _ = json.JSONDecoder().raw_decode(text)
    assert shown["stages"][1]["lr"] == 0.00017 and shown["stages"][1]["max_grad_norm"] == 1.0
    assert text.count("one step on made-up data: loss ") == 2 and "nan" not in text
    assert "stage align" in text and "projector.*" in text and "whole model" in text


def test_it_does_not_look_at_the_data(tiny_recipe):
    recipe = tiny_recipe()
    kind = type(recipe.stages[0].data.parts[0][1])
    assert isinstance(recipe.stages[0].data, Mixture)
    with pytest.MonkeyPatch.context() as patch:
        build, get = type(recipe.model).build, kind.__getitem__
        patch.setattr(kind, "__getitem__", lambda self, i: get(self, i) if building else pytest.fail("looked"))
        building = False

        def building_may_look(self):
            nonlocal building
            building = True  # its tokenizer is trained on the source
            try:
                return build(self)
            finally:
                building = False

        patch.setattr(type(recipe.model), "build", building_may_look)
        said(recipe)


def test_a_recipe_of_the_papers_says_in_a_line_what_is_not_here(recwarn):
    text = said(load_recipe("trol_7b", ["root=[nowhere]", "stages.*.padding_free=false", "stages.*.accumulation=2"]))
    parts = "internlm/internlm2-chat-7b and openai/clip-vit-large-patch14-336"
    assert f"\nnot downloaded for this: {parts}; counts and steps below are those of a small stand-in\n" in text
    (line,) = [
        line for line in text.splitlines() if line.startswith("no data there yet: [nowhere]/sharegpt4v_*.json, ")
    ]
    assert line.count("[nowhere]/") == 9 and text.count("one step on made-up data: loss ") == 2
    assert not [warning for warning in recwarn if "Torchao" in str(warning.message)]


def test_a_recipe_that_cannot_run_is_found(tiny_recipe):
    with pytest.raises(ValueError, match="'nothing', which matches no parameter"):
        said(tiny_recipe("stages.tune.train=nothing"))


def test_it_writes_into_no_feature_cache_and_reads_no_held_out_data(tiny_recipe, tmp_path):
    recipe, features = tiny_recipe(), tmp_path / "features"
    absent = Mixture(((1.0, FileSource(str(tmp_path / "held.json"))),))
    align = replace(recipe.stages[0], feature_cache=str(features), held_out=HeldOut(absent, 4))
    text = said(replace(recipe, stages=(align, recipe.stages[1])))
    assert list(tmp_path.iterdir()) == []
    assert f"no data there yet: {tmp_path}/held.json\n" in text
    assert text.count("one step on made-up data: loss ") == 2
    tune = replace(recipe.stages[1], feature_cache=str(features))
    with pytest.raises(ValueError, match="feature_cache"):  # the tower is trained
        said(replace(recipe, stages=(recipe.stages[0], tune)))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, r"no file .*mine\.json: expected"),
        ("", r"mine\.json is empty: 0 bytes"),
        ("[]", r"part 1 of the mixture is empty: .*mine\.json"),
        ('[{"question": "What?"}]', "cannot be read, the last because: .*expected .* an answer"),
    ],
)
def test_a_file_to_train_on_has_a_row_that_can_be_read(tiny_recipe, tmp_path, text, message):
    recipe, file = tiny_recipe(), tmp_path / "mine.json"
    if text is not None:
        file.write_text(text)
    (tmp_path / "good.json").write_text('[{"question": "What?", "answer": "That."}]')
    parts = (1.0, FileSource(tmp_path / "good.json")), (1.0, FileSource(file, together=4))
    own = replace(recipe.stages[0], data=Mixture(parts))
    with pytest.raises(ValueError, match=message):
        said(replace(recipe, stages=(own,)))
    file.write_text('[{"question": "What?", "answer": "This."}]')
    assert "one step on made-up data: loss " in said(replace(recipe, stages=(own,)))


def test_it_refuses_what_train_refuses(tiny_recipe, monkeypatch):
    recipe = tiny_recipe()
    alone = replace(recipe.stages[0], loss=WordAlignment(), train=("projector.*",), batch_size=1, accumulation=1)
    with pytest.raises(ValueError, match="got 1 of batch_size=1 in a micro-batch, expected at least 2"):
        said(replace(recipe, stages=(alone,)))
    monkeypatch.setattr("phantrol.training.run.get_available_reporting_integrations", lambda: [])
    with pytest.raises(ValueError, match="report_to: got 'wandb', expected one that is installed"):
        said(tiny_recipe("report_to=wandb"))
