"""The recipes that a newcomer copies: rows kept back, wrong answers, and a new model from two parts that were saved."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, SiglipVisionConfig

import phantrol
from phantrol.models.tokenizer import train_tokenizer
from phantrol.modifiers.partial_lora import PartialLoraConfig
from phantrol.training.recipe import load_recipe
from phantrol.training.run import run
from phantrol.training.trainable import named_parameters, train_only

COLOURS = ("red", "green", "blue", "white")
SIZES = dict(hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2)


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """A decoder, a tower, 16 rows with pictures, and the same rows with wrong answers."""
    rows = []
    for i in range(16):
        Image.new("RGB", (32, 32), COLOURS[i % 4]).save(tmp_path / f"{i}.png")
        rows.append({"image": f"{i}.png", "question": "What color is it?", "answer": COLOURS[i % 4]})
    wrong = [row | {"rejected": [COLOURS[(i + 1) % 4]]} for i, row in enumerate(rows)]
    (tmp_path / "mine.json").write_text(json.dumps(rows))
    (tmp_path / "wrong.json").write_text(json.dumps(wrong))
    tokenizer = train_tokenizer(["What color is it? " + " ".join(COLOURS)] * 4, 300)
    torch.manual_seed(0)
    text = AutoConfig.for_model("llama", vocab_size=len(tokenizer), tie_word_embeddings=True, **SIZES)
    AutoModelForCausalLM.from_config(text).save_pretrained(tmp_path / "decoder")
    tokenizer.save_pretrained(tmp_path / "decoder")
    vision = SiglipVisionConfig(image_size=32, patch_size=8, **SIZES)
    AutoModel.from_config(vision).save_pretrained(tmp_path / "tower")
    normalised = json.dumps({"image_mean": [0.5] * 3, "image_std": [0.5] * 3})
    (tmp_path / "tower" / "preprocessor_config.json").write_text(normalised)
    return tmp_path


def train(here: Path, name: str, words: Sequence[str]) -> Path:
    return run(load_recipe(name, list(words)), here / f"run-{len(list(here.glob('run-*')))}")


def new_vlm(here: Path, method: str, *words: str) -> Path:
    parts = [f"text={here / 'decoder'}", f"vision={here / 'tower'}", f"data={here / 'mine.json'}", f"method={method}"]
    return train(here, "new_vlm", [*parts, "align_steps=2", "steps=2", *words])


@pytest.mark.parametrize(
    ("method", "added"),
    [("plain", []), ("trol", ["*traversal_gate*"]), ("phantom", ["*.phantom.*"]), ("both", ["*gate*", "*.phantom.*"])],
)
def test_two_parts_become_a_model_with_a_method(method, added, here):
    model, processor = phantrol.load(new_vlm(here, method))
    names = list(model.state_dict())
    assert [any(fnmatchcase(name, pattern) for name in names) for pattern in added] == [True] * len(added)
    assert added or not any("traversal" in name or ".phantom." in name for name in names)
    chat = [
        {"role": "user", "content": [{"type": "image", "image": here / "0.png"}, {"type": "text", "text": "What?"}]}
    ]
    assert isinstance(phantrol.Engine(model, processor).answer(chat, max_new_tokens=2).text, str)


def test_what_a_method_adds_learns_before_the_adapters_come(here):
    words = [f"{name}=x" for name in ("text", "vision", "data")]
    align, tune = load_recipe("new_vlm", words).stages
    assert align.train == ("projector.*", "*traversal_gate*", "*.phantom.*")
    assert tune.train == (*align.train, "*lora_*")
    with pytest.raises(ValueError, match="method: got 'half', expected one of plain, trol, phantom, both"):
        load_recipe("new_vlm", [*words, "method=half"])


def test_a_partial_lora_that_a_model_came_with_stays_as_it_is(here):
    """In TroL-1.8B it is ten times as large as the adapters and the projector."""
    model, _ = phantrol.build(str(here / "decoder"), str(here / "tower"), [PartialLoraConfig(rank=2, alpha=2)])
    assert any(name.endswith(".lora_A.weight") for name, _ in named_parameters(model))
    recipe = load_recipe("finetune_lora", ["model=x", "data=x"])
    adapted = recipe.model.lora.put_on(model)
    train_only(adapted, recipe.stages[0].train)
    trained = [name for name, parameter in named_parameters(adapted) if parameter.requires_grad]
    assert {"A", "B"} <= {found[1] for name in trained if (found := re.search(r"\.lora_(.)\.default\.", name))}
    assert all(".default." in name or name.startswith("projector.") for name in trained)


@pytest.mark.parametrize("loss", ["phantom_optimization", "dpo"])
def test_rows_with_wrong_answers_teach_a_preference(loss, here):
    words = [f"model={new_vlm(here, 'both')}", "steps=2", f"loss={loss}"]
    final = train(here, "finetune_lora", [*words, f"data={here / 'wrong.json'}"])
    logged = [json.loads(line) for line in (final.parent / "metrics.jsonl").read_text().splitlines()]
    assert any("reward" in key for line in logged for key in line)
    with pytest.raises(ValueError, match="no rejected answer in the first 8 groups"):
        train(here, "finetune_lora", [*words, f"data={here / 'mine.json'}"])


def test_a_preference_wants_wrong_answers_among_the_rows_that_are_kept_too(here):
    rows = json.loads((here / "wrong.json").read_text())
    for row in rows[:4]:
        del row["rejected"]
    (here / "half.json").write_text(json.dumps(rows))
    words = [f"model={new_vlm(here, 'plain')}", "steps=2", "loss=dpo", f"data={here / 'half.json'}"]
    with pytest.raises(ValueError, match="no rejected answer in the held-out 4 groups"):
        train(here, "finetune_lora", [*words, "kept=4"])
    assert train(here, "finetune_lora", [*words, "kept=5"]).is_dir()


def test_fields_of_one_s_own_and_rows_that_are_not_there(here):
    rows = json.loads((here / "mine.json").read_text())
    own = [{"bild": row["image"], "frage": row["question"], "antwort": row["answer"]} for row in rows]
    (here / "own.json").write_text(json.dumps(own))
    words = [f"model={new_vlm(here, 'plain')}", "steps=1", f"data={here / 'own.json'}"]
    fields = "fields=image=bild,question=frage,answer=antwort"
    assert train(here, "finetune_lora", [*words, fields, "kept=2"]).is_dir()
    with pytest.raises(ValueError, match="name your own: fields=question=frage,answer=antwort"):
        train(here, "finetune_lora", words)
    with pytest.raises(ValueError, match=r"own.json has no row after the first 16; give it rows"):
        train(here, "finetune_lora", [*words, fields, "kept=16"])
    with pytest.raises(ValueError, match="kept: got -1, expected 0 or more rows"):
        load_recipe("finetune_lora", [*words, "kept=-1"])


def test_rows_that_are_kept_are_measured_and_never_learnt(here):
    recipe = load_recipe("finetune_lora", ["model=x", f"data={here / 'mine.json'}", "kept=5"])
    (stage,) = recipe.stages
    learnt, kept = stage.data.parts[0][1], stage.held_out.data.parts[0][1]
    names = [[source[i][0].id for i in range(len(source))] for source in (learnt, kept)]
    assert len(names[0]) == 11 and len(names[1]) == stage.held_out.groups == 5 and not {*names[0]} & {*names[1]}
    assert stage.held_out.take == "best"
    final = new_vlm(here, "trol", "kept=5", "stages.tune.lr=1e-3")
    assert "eval_loss" in (final.parent / "metrics.jsonl").read_text()
