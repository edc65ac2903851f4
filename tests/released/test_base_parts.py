"""Parts as the hub has them, made into folders of stock classes: every tensor in its place."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizer_files import write_tokenizer
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer, CLIPVisionConfig, CLIPVisionModel

from phantrol.models.parts import part_normalisation
from phantrol.models.released.base_parts import SIZES, BasePart, stretch_positions
from phantrol.models.released.convert import load_official
from phantrol.models.released.parts import CLIP_PX

RECORDED = Path(__file__).parents[1] / "recorded"


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("PHANTROL_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def internlm2(tmp_path):
    """A plain InternLM2 in the official layout: the recorded TroL's decoder without what TroL and the LoRA added."""
    source, folder = RECORDED / "trol_internlm2", tmp_path / "internlm2"
    folder.mkdir()
    write_tokenizer(folder, "trol", "internlm2")
    config = json.loads((source / "config.json").read_text())
    config = {name: value for name, value in config.items() if name not in ("family", "backbone", "image_token_index")}
    (folder / "config.json").write_text(json.dumps(config | {"architectures": ["InternLM2ForCausalLM"]}))
    kept = {
        name.replace(".ffn.", "."): tensor
        for name, tensor in load_file(source / "weights.safetensors").items()
        if name.startswith(("model.", "output.")) and "lora_" not in name and "trol_gating" not in name
    }
    kept["model.tok_embeddings.weight"] = kept["model.tok_embeddings.weight"][: config["vocab_size"]].clone()
    save_file(kept, folder / "model.safetensors")
    return folder


def test_internlm2_becomes_a_llama_tensor_by_tensor(internlm2):
    folder = BasePart(str(internlm2), "internlm2").folder()
    made = AutoModelForCausalLM.from_pretrained(folder)
    assert made.config.model_type == "llama" and AutoTokenizer.from_pretrained(folder).chat_template
    official = load_official(RECORDED / "trol_internlm2", dtype=torch.float32, need_vision=False)
    expected = {
        name.removeprefix("language_model."): tensor
        for name, tensor in official.state_dict().items()
        if name.startswith("language_model.") and "lora_" not in name and "traversal" not in name
    }
    found = made.state_dict()
    assert found.keys() == {name.replace(".base.", ".") for name in expected}
    assert all(found[name].equal(tensor[: len(found[name])]) for name, tensor in expected.items())
    assert BasePart(str(internlm2), "internlm2").folder() == folder  # written once


@pytest.mark.parametrize(("change", "said"), [("drop", "it has no tensor"), ("add", "it has a tensor model.odd")])
def test_what_is_another_model_is_refused_and_leaves_nothing(internlm2, change, said, tmp_path):
    tensors = load_file(internlm2 / "model.safetensors")
    if change == "drop":
        del tensors["model.layers.0.feed_forward.w2.weight"]
    else:
        tensors["model.odd"] = torch.zeros(2)
    save_file(tensors, internlm2 / "model.safetensors")
    with pytest.raises(ValueError, match=said):
        BasePart(str(internlm2), "internlm2").folder()
    assert not any((tmp_path / "cache").glob("[!.]*stock*"))


def test_internvit_becomes_the_stock_class(tmp_path):
    small = dict(hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2)
    torch.manual_seed(0)
    tensors = {
        "embeddings.class_embedding": torch.randn(1, 1, 32),
        "embeddings.position_embedding": torch.randn(1, 17, 32),
        "embeddings.patch_embedding.weight": torch.randn(32, 3, 7, 7),
        "embeddings.patch_embedding.bias": torch.randn(32),
    }
    shapes = {
        "ls1": (32,),
        "ls2": (32,),
        "attn.qkv.weight": (96, 32),
        "attn.qkv.bias": (96,),
        "mlp.fc1.weight": (48, 32),
    }
    shapes |= {"attn.proj.weight": (32, 32), "attn.proj.bias": (32,), "mlp.fc1.bias": (48,), "mlp.fc2.bias": (32,)}
    shapes |= {"mlp.fc2.weight": (32, 48)} | {f"norm{i}.{part}": (32,) for i in (1, 2) for part in ("weight", "bias")}
    for layer in range(2):
        tensors |= {f"encoder.layers.{layer}.{name}": torch.randn(shape) for name, shape in shapes.items()}
    save_file(tensors, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({**small, "image_size": 28, "patch_size": 7, "qkv_bias": True}))
    imagenet = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"size": 448, **imagenet}))
    folder = BasePart(str(tmp_path), "internvit").folder()
    assert part_normalisation(folder) == {name: pytest.approx(values) for name, values in imagenet.items()}
    made = AutoModel.from_pretrained(folder)
    assert made.config.model_type == "internvl_vision"
    layer, fused = made.encoder.layer[1], tensors["encoder.layers.1.attn.qkv.weight"]
    rows = [layer.attention.q_proj.weight, layer.attention.k_proj.weight, layer.attention.v_proj.weight]
    assert torch.cat(rows).equal(fused) and layer.lambda_2.equal(tensors["encoder.layers.1.ls2"])
    assert made(torch.randn(1, 3, 28, 28)).last_hidden_state.shape == (1, 17, 32)


def test_a_stretched_clip_keeps_its_normalisation_and_not_its_size(tmp_path):
    config = CLIPVisionConfig(hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2)
    CLIPVisionModel(config).save_pretrained(tmp_path / "clip")
    bytes_of = {"do_rescale": False, "image_mean": [127.5] * 3, "image_std": [64] * 3}
    (tmp_path / "clip/preprocessor_config.json").write_text(json.dumps({"crop_size": 224, **bytes_of}))
    folder = BasePart(str(tmp_path / "clip"), "clip").folder()
    assert json.loads((folder / "preprocessor_config.json").read_text()) == bytes_of
    assert part_normalisation(folder)["image_mean"] == [0.5] * 3
    assert AutoModel.from_pretrained(folder).config.image_size == CLIP_PX


def test_clip_sees_larger_pictures_with_positions_stretched():
    config = CLIPVisionConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=32, patch_size=8
    )
    model = CLIPVisionModel(config)
    module = getattr(model, "vision_model", model)
    with torch.no_grad():  # a ramp from left to right
        grid = torch.arange(4.0).repeat(4)[:, None].expand(16, 16)
        module.embeddings.position_embedding.weight.copy_(torch.cat([torch.full((1, 16), 9.0), grid]))
        stretch_positions(model, 56)
    table = module.embeddings.position_embedding.weight
    assert table.shape == (50, 16) and (table[0] == 9).all()
    rows = table[1:].reshape(7, 7, 16)
    assert rows[0].allclose(rows[6], atol=1e-5) and (rows[0, 1:] > rows[0, :-1]).all()
    assert abs(rows[3, 3, 0] - 1.5) < 1e-4 and not table.equal(table.flip(0))
    assert model(torch.randn(1, 3, 56, 56)).last_hidden_state.shape == (1, 50, 16)


@pytest.mark.parametrize("hub_id", SIZES)
def test_sizes_are_known_without_the_hub(hub_id):
    kinds = {"internlm2": "internlm2", "Phi-3": "phi3", "Qwen2": "qwen2", "InternViT": "internvit", "clip": "clip"}
    kind = next(kind for word, kind in kinds.items() if word in hub_id)
    assert BasePart(hub_id, kind).configuration().num_hidden_layers in (24, 32)


def test_what_is_not_known_is_said():
    with pytest.raises(ValueError, match="kind is 'gemma': expected one of internlm2, phi3"):
        BasePart("a/b", "gemma")
    with pytest.raises(ValueError, match="the sizes of a/b are not known"):
        BasePart("a/b", "qwen2").configuration()
    with pytest.raises(ValueError, match="the hub gives no"):
        BasePart("nobody/nothing-there", "clip").folder()
