"""`convert`: a folder in the official layout becomes a phantrol model, whole or not at all, in little memory."""

from __future__ import annotations

import gc
import json
import os
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from recordings import COMBINATIONS
from safetensors import safe_open
from safetensors.torch import load_file
from sources import FORMS, draw_source, whole_source, write_source, write_tokenizer
from torch import Tensor
from transformers import AutoModelForImageTextToText, AutoProcessor

import phantrol
from phantrol.models.released import convert as convert_module
from phantrol.models.released.convert import convert, load_official, write_shards

BROKEN = 1e-3
pytestmark = pytest.mark.usefixtures("no_grad")


def picture(width_px: int, height_px: int) -> Image.Image:
    numbers = torch.randint(0, 256, (height_px, width_px, 3), generator=torch.Generator().manual_seed(width_px))
    return Image.fromarray(numbers.to(torch.uint8).numpy())


def chats() -> list[Any]:
    """One with a picture of several tiles, one with a small one, and one without."""

    def chat(text: str, *pictures: Image.Image) -> list[dict[str, Any]]:
        parts = [{"type": "image", "image": each} for each in pictures]
        return [{"role": "user", "content": [*parts, {"type": "text", "text": text}]}]

    return [chat("what", picture(112, 56)), chat("what is it?", picture(40, 40)), chat("hello there, who are you")]


def encode(processor: Any, chat: list[Any]) -> dict[str, Tensor]:
    return processor.apply_chat_template(
        chat, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt", padding=True
    )


@pytest.mark.parametrize(("family", "backbone"), COMBINATIONS)
def test_there_and_back(family: str, backbone: str, sources: Callable[..., Path], tmp_path: Path):
    """What is converted and loaded computes, to the bit, what the official folder does, batched and left-padded."""
    source = sources(family, backbone)
    done = convert(source, tmp_path / "new")
    model, processor = phantrol.load(tmp_path / "new")
    official = load_official(source)
    for parameter in model.parameters():  # where in a file a tensor lies changes the last bit of a product
        parameter.data = parameter.data.clone()
    assert {name: tuple(t.shape) for name, t in model.state_dict().items()} == {
        name: tuple(t.shape) for name, t in official.state_dict().items()
    }
    inputs = encode(processor, chats())
    assert (inputs["attention_mask"][:, 0] == 0).any() and (inputs["input_ids"] == model.config.image_token_id).any()
    assert torch.equal(model(**inputs).logits, official(**inputs).logits)
    assert done.num_tensors == len(load_all(tmp_path / "new"))
    options = {"max_new_tokens": 4, "do_sample": False, "num_beams": 1, "eos_token_id": None}
    together = model.generate(**inputs, **options)[:, inputs["input_ids"].shape[1] :]
    for row, chat in enumerate(chats()):
        alone = encode(processor, [chat])
        answer = model.generate(**alone, **options)[:, alone["input_ids"].shape[1] :]
        assert torch.equal(answer[0], together[row])


def load_all(folder: Path) -> dict[str, Tensor]:
    return {name: tensor for path in folder.glob("*.safetensors") for name, tensor in load_file(path).items()}


def test_the_files_are_those_that_transformers_looks_for(sources: Callable[..., Path], tmp_path: Path):
    out = tmp_path / "my model"
    done = convert(sources("trol", "internlm2", "shards", torch.float16), out)
    names = {path.name for path in out.iterdir()}
    assert names >= {"config.json", "generation_config.json", "model.safetensors", "processor_config.json", "README.md"}
    assert not [name for name in os.listdir(tmp_path) if name != "my model"]
    assert {tensor.dtype for tensor in load_all(out).values()} == {torch.float16} == {done.dtype}
    with safe_open(out / "model.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt"}
    model = AutoModelForImageTextToText.from_pretrained(out)
    assert model.dtype == torch.float16 and model.generation_config.num_beams == 5
    assert AutoProcessor.from_pretrained(out).image_token_id == model.config.image_token_id == 512
    assert [modifier["name"] for modifier in model.config.modifiers] == ["trol", "partial_lora"]
    card = (out / "README.md").read_text("utf-8")
    for words in (
        "arXiv:2406.12246",
        "partial_lora",
        "image features overwrite it",
        "--per-layer-gates",
        "phantrol ask 'my model' picture.png",
        "Engine.open('my model')",
    ):
        assert words in card


@pytest.mark.parametrize("form", FORMS)
def test_each_form_of_a_source_gives_the_same(form: str, sources: Callable[..., Path], tmp_path: Path):
    convert(sources("phantom", "qwen2", form, torch.bfloat16), tmp_path / "new")
    convert(sources("phantom", "qwen2", "shards", torch.bfloat16), tmp_path / "other")
    new, other = load_all(tmp_path / "new"), load_all(tmp_path / "other")
    assert new.keys() == other.keys() and all(torch.equal(new[name], other[name]) for name in new)
    assert all(tensor.dtype == torch.bfloat16 for tensor in new.values())


def test_gates_of_each_layer(sources: Callable[..., Path], tmp_path: Path):
    source = sources("trol", "phi3")
    done, each = convert(source, tmp_path / "one"), convert(source, tmp_path / "each", per_layer_gates=True)
    assert done.notes[0] == "the gates of the 4 layers are 4 different ones: the last one serves every layer"
    assert each.notes == ("the gates of the 4 layers are 4 different ones: each layer keeps its own",)
    gates = torch.load(source / "trol_gating.pt", weights_only=True)
    one, all_four = load_all(tmp_path / "one"), load_all(tmp_path / "each")
    name = "language_model.model.layers.{}.traversal_gate.weight"
    assert torch.equal(one[name.format(0)], gates["3.weight"]) and name.format(1) not in one
    assert all(torch.equal(all_four[name.format(i)], gates[f"{i}.weight"]) for i in range(4))
    (shared, processor), (own, _) = phantrol.load(tmp_path / "one"), phantrol.load(tmp_path / "each")
    inputs = encode(processor, chats())
    assert float((shared(**inputs).logits - own(**inputs).logits).abs().max()) > BROKEN


def test_equal_gates_are_one(tmp_path: Path):
    config, weights = draw_source("trol", "phi3")
    weights |= {name: weights[f"trol_gating.pt/0.{name.split('.')[-1]}"] for name in weights if "trol_gating" in name}
    write_tokenizer(write_source(tmp_path / "s", config, weights), "trol", "phi3", 500)
    notes = convert(tmp_path / "s", tmp_path / "new").notes
    assert notes == ("the entries of trol_gating are equal: one gate serves all layers",)


def test_a_tied_head_stays_tied(tmp_path: Path):
    source = whole_source(tmp_path / "s", "phantom", "qwen2", tie_word_embeddings=True)
    convert(source, tmp_path / "new")
    assert "language_model.lm_head.weight" not in load_all(tmp_path / "new")
    model, processor = phantrol.load(tmp_path / "new")
    assert model.language_model.lm_head.weight is model.get_input_embeddings().weight
    inputs = encode(processor, chats())
    assert torch.equal(model(**inputs).logits, load_official(source)(**inputs).logits)


def test_the_image_token_may_stand_in_the_tokenizer_alone(tmp_path: Path):
    config, weights = draw_source("trol", "phi3")
    del config["image_token_index"]
    write_tokenizer(write_source(tmp_path / "s", config, weights), "trol", "phi3", 500)
    convert(tmp_path / "s", tmp_path / "new")
    assert phantrol.load(tmp_path / "new")[0].config.image_token_id == 500


def test_shards_have_the_names_of_the_hub(tmp_path: Path):
    tensors = {f"t{i}": torch.full((100,), i, dtype=torch.float32) for i in range(7)} | {"big": torch.zeros(1000)}
    assert write_shards(tensors.items(), tmp_path, shard_bytes=1000) == (8, 400 * 7 + 4000)
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text("utf-8"))
    assert index["metadata"]["total_size"] == 6800
    assert sorted(path.name for path in tmp_path.glob("*.safetensors")) == [
        f"model-0000{i}-of-00005.safetensors" for i in range(1, 6)
    ]
    for name, file in index["weight_map"].items():
        assert torch.equal(load_file(tmp_path / file)[name], tensors[name])


@pytest.mark.parametrize("form", ["shards", "pickled"])
def test_no_more_than_one_shard_is_held(form: str, sources: Callable[..., Path], tmp_path: Path, monkeypatch: Any):
    """Bytes of converted tensors that are alive at once: a shard of the result and one tensor, whatever the model's."""
    alive, peak = [0], [0]
    apply = convert_module._converted

    def released(size: int) -> None:
        alive[0] -= size

    def watched(*args: Any) -> Iterator[tuple[str, Tensor]]:
        for name, tensor in apply(*args):
            alive[0] += tensor.nbytes
            weakref.finalize(tensor, released, tensor.nbytes)
            peak[0] = max(peak[0], alive[0])
            yield name, tensor
            del tensor

    monkeypatch.setattr(convert_module, "_converted", watched)
    shard_bytes = 150_000
    done = convert(sources("phantom", "internlm2", form), tmp_path / "new", shard_bytes=shard_bytes)
    gc.collect()
    largest = 512 * 64 * 4
    assert done.num_bytes > 6 * shard_bytes and alive[0] == 0
    assert peak[0] <= shard_bytes + 2 * largest
    assert len(list((tmp_path / "new").glob("model-*.safetensors"))) > 6
    phantrol.load(tmp_path / "new")
