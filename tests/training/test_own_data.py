"""A tiny model is taught from files as people have them, with rows among them that cannot be read."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from phantrol.data.collate import Collator
from phantrol.data.mixture import Groups, Mixture
from phantrol.data.sources.file import FileSource
from phantrol.find import find, names
from phantrol.losses.sft import Sft
from phantrol.training.checkpoint import checkpoints
from phantrol.training.recipe import HeldOut
from phantrol.training.recipe_json import recipe_from_json
from phantrol.training.run import run

COLORS = ("red", "green", "blue", "black")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """train.json of LLaVA with 24 pictures, six of its rows without one; triples.jsonl, text only."""
    monkeypatch.setenv("PHANTROL_CACHE", str(tmp_path / "cache"))
    (tmp_path / "pics").mkdir()
    rows = []
    for i in range(24):
        Image.new("RGB", (32, 32), COLORS[i % 4]).save(tmp_path / "pics" / f"{i}.png")
        said = [{"from": "human", "value": "<image>\nWhat color?"}, {"from": "gpt", "value": COLORS[i % 4]}]
        row = {"id": str(i), "image": f"{i}.png", "conversations": said}
        if i % 4 == 3:
            row = {"id": str(i), "conversations": [{"from": "human", "value": "What color is the sky?"}, said[1]]}
        rows.append(row)
    (tmp_path / "train.json").write_text(json.dumps(rows))
    triples = [
        {"question": f"Is {a} {b}?", "answer": "no", "rejected": ["yes", "maybe"]} for a in COLORS for b in "abc"
    ]
    (tmp_path / "triples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in triples))
    return tmp_path


def of_files(recipe, folder, loss=None, steps=6):
    lines = FileSource(str(folder / "train.json"), images=str(folder / "pics"))
    data = Mixture(((2.0, lines), (1.0, FileSource(str(folder / "triples.jsonl")))))
    stages = [
        replace(stage, data=data, loss=loss or stage.loss, max_steps=steps, lr=1e-2, optimiser="adamw", warmup_steps=0)
        for stage in recipe.stages
    ]
    return replace(recipe, stages=(replace(stages[0], train=("*",)),))


def skipped(out):
    path = out / "skipped.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def test_a_model_learns_from_llava_json_and_triples(tiny_recipe, folder, tmp_path, metrics):
    recipe = of_files(tiny_recipe(), folder, steps=10)
    final = run(recipe, tmp_path / "run")
    losses = [line["loss"] for line in metrics(tmp_path / "run")]
    assert sum(losses[-3:]) < 0.8 * sum(losses[:3])
    assert any("reward_accuracy" in line for line in metrics(tmp_path / "run"))  # the triples were met as pairs
    assert skipped(tmp_path / "run") == []
    assert recipe_from_json((final / "recipe.json").read_text()) == recipe


@pytest.fixture
def damaged(folder):
    """As `folder`, with a row that is no JSON, a picture that is cut off, and one that is missing."""
    text = (folder / "train.json").read_text()
    (folder / "train.json").write_text(text.replace('"id": "5"', '"id" "5"'))
    whole = (folder / "pics" / "9.png").read_bytes()
    (folder / "pics" / "9.png").write_bytes(whole[:60])
    (folder / "pics" / "14.png").unlink()
    return folder


@pytest.mark.parametrize("workers", [0, 2])
def test_rows_that_cannot_be_read_are_left_out_and_told_of_once(
    tiny_recipe, damaged, tmp_path, caplog, capsys, workers
):
    recipe = replace(of_files(tiny_recipe(), damaged, Sft(), steps=14), workers=workers)  # 56 groups: rows come twice
    run(recipe, tmp_path / "run")
    told = {line["row"].partition(": ")[0]: line["row"].partition(": ")[2] for line in skipped(tmp_path / "run")}
    assert len(skipped(tmp_path / "run")) == 3
    assert told.keys() == {"train.json[5]", "train.json[9]", "train.json[14]"}
    assert told["train.json[5]"].startswith("not JSON: Expecting ':' delimiter")
    assert "9.png is broken" in told["train.json[9]"] and "14.png: no such file" in told["train.json[14]"]
    assert {line["stage"] for line in skipped(tmp_path / "run")} == {"align"}
    assert sum("row left out: train.json" in record.getMessage() for record in caplog.records) == 3
    assert "3 rows could not be read and were left out" in " ".join(capsys.readouterr().err.split())


def test_a_resumed_run_leaves_out_the_same_rows(tiny_recipe, damaged, tmp_path):
    recipe = of_files(tiny_recipe("save_every_steps=3"), damaged, Sft(), steps=9)
    run(recipe, tmp_path / "whole")
    shutil.copytree(tmp_path / "whole", tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "final")
    for checkpoint in checkpoints(tmp_path / "run"):
        if checkpoint.step > 3:
            shutil.rmtree(checkpoint.path)
    run(recipe, tmp_path / "run", resume=True)
    one, other = (load_file(tmp_path / name / "final" / "model.safetensors") for name in ("whole", "run"))
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert skipped(tmp_path / "run") == skipped(tmp_path / "whole") != []


def test_rows_are_noted_with_the_step_that_left_them_out(tiny_recipe, damaged, tmp_path):
    recipe = of_files(tiny_recipe("log_every_steps=1", "workers=0"), damaged, Sft(), steps=6)
    run(recipe, tmp_path / "run")
    groups, broken = Groups(recipe.stages[0].data, recipe.stage_seed(0), 24), []
    for position in range(24):
        try:
            if groups[position][0].id in ("9", "14"):
                broken.append(position)
        except ValueError:
            broken.append(position)
    noted = skipped(tmp_path / "run")
    assert [line["step"] for line in noted] == sorted(line["step"] for line in noted)
    assert noted[0]["step"] == broken[0] // 4 + 1, "four groups a step"


def test_held_out_rows_that_cannot_be_read_are_told_of(tiny_recipe, damaged, tmp_path):
    recipe = of_files(tiny_recipe("save_every_steps=2"), damaged, Sft(), steps=2)
    stage = recipe.stages[0]
    good = tiny_recipe().stages[0].data
    held_out = replace(stage, data=good, held_out=HeldOut(stage.data, groups=40))
    run(replace(recipe, stages=(held_out,)), tmp_path / "run")
    assert {line["row"].partition(":")[0] for line in skipped(tmp_path / "run")} == {
        "train.json[5]",
        "train.json[9]",
        "train.json[14]",
    }


def test_a_folder_of_images_that_is_not_there_stops_the_run(tiny_recipe, folder, tmp_path):
    recipe = of_files(tiny_recipe(), folder, Sft())
    for images, complaint in (
        ("nowhere", r"^images nowhere: no such folder, expected the folder that paths of images start from$"),
        (str(tmp_path), r"^16 rows one after the other cannot be read, the last because: .*no such file[^\n]*$"),
    ):
        nowhere = Mixture(((1.0, FileSource(str(folder / "train.json"), images=images, stop=3)),))
        recipe = replace(recipe, stages=(replace(recipe.stages[0], data=nowhere),))
        with pytest.raises(ValueError, match=complaint):
            run(recipe, tmp_path / "run")
    recipe = replace(recipe, stages=(replace(recipe.stages[0], data=Mixture(((1.0, FileSource("none.json")),))),))
    with pytest.raises(ValueError, match=r"no file none\.json"):
        run(recipe, tmp_path / "other")


@pytest.mark.parametrize("name", [name for name in names("losses")])
@pytest.mark.parametrize("kind", ["text only", "text and pictures"])
def test_text_only_rows_go_through_every_loss(name, kind, tiny_recipe, folder):
    model, processor = tiny_recipe().model.build()
    texts, lines = FileSource(folder / "triples.jsonl"), FileSource(folder / "train.json", images=folder / "pics")
    groups = [texts[0], texts[4]] + ([lines[0], lines[1]] if kind == "text and pictures" else [])
    loss = find("losses", name)()
    batch = Collator(processor, pairs=loss.needs_pairs)(groups)
    assert ("pixel_values" in batch) == (kind == "text and pictures")
    if loss.needs_reference:
        with torch.no_grad():
            batch["reference_logprobs"] = model(
                **{
                    key: batch[key]
                    for key in ("input_ids", "attention_mask", "position_ids", "pixel_values", "labels")
                    if key in batch
                }
            ).token_logprobs
    output = loss(model, batch, loss.count(batch))
    assert torch.isfinite(output.loss)
    output.loss.backward()
    learns = any(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())
    assert learns or (name == "word_alignment" and kind == "text only")  # which has nothing to align then
