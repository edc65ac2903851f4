"""`convert`, when config.json, the tokenizer's files or single tensors are of a kind that nothing can be made of: one
line; and of a kind that is worth one."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizer_files import write_tokenizer
from transformers import CLIPVisionConfig, LlamaConfig

import phantrol
from phantrol.models.configuration import PhantrolConfig
from phantrol.models.released.convert import convert
from phantrol.models.released.parts import internvit_config
from phantrol.models.released.processor import released_processor
from phantrol.models.released.tokenizer import fast_tokenizer

CONFIGS = [
    ("llm_config", "hidden_act", "x", "KeyError: 'x'"),
    ("vision_config", "norm_type", "x", "KeyError: 'x'"),
    ("llm_config", "pad_token_id", 600, "AssertionError: Padding_idx must be within num_embeddings"),
]
TOKENIZERS = [
    ("tokenizer_config.json", {"added_tokens_decoder": [1]}),
    ("tokenizer_config.json", {"bos_token": -1}),
    ("tokenizer_config.json", {"bos_token": [3]}),
    ("tokenizer_config.json", {"bos_token": {"a": 1}}),
    ("tokenizer_config.json", {"additional_special_tokens": -1}),
    ("tokenizer_config.json", {"added_tokens_decoder": {"0": None}}),
    ("tokenizer_config.json", {"added_tokens_decoder": {"0": {}}}),
    ("tokenizer_config.json", {"added_tokens_decoder": {"0": {"content": 5}}}),
    ("tokenizer_config.json", {"chat_template": [3]}),
    ("added_tokens.json", {"a": "b"}),
]


@pytest.mark.parametrize(("part", "key", "value", "reason"), CONFIGS, ids=[case[1] for case in CONFIGS])
def test_a_config_that_no_model_can_be_built_of(
    part: str,
    key: str,
    value: Any,
    reason: str,
    copy_of: Callable[..., Path],
    run: Callable[..., Any],
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
):
    source = copy_of("phantom", "qwen2")
    config = json.loads((source / "config.json").read_text("utf-8"))
    config[part][key] = value
    (source / "config.json").write_text(json.dumps(config), "utf-8")
    capsys.readouterr()
    status, _, complaint = run("convert", source, tmp_path / "new")
    assert status == 2 and complaint.count("\n") == 1, complaint
    assert f"config.json describes no model that can be built: {reason}" in complaint and "copy" in complaint
    assert os.listdir(tmp_path) == ["spoilt"], "nothing is written"


def test_a_tokenizer_of_another_family_is_told(copy_of: Callable[..., Path], run: Callable[..., Any], tmp_path: Path):
    source = copy_of("phantom", "qwen2")
    for path in source.glob("*token*"):
        path.unlink()
    write_tokenizer(source, "trol", "internlm2")
    status, _, complaint = run("convert", source, tmp_path / "new")
    assert status == 2 and "has no <|im_end|>, which ends a turn of phantom on qwen2: expected the tok" in complaint


def open_tokenizer(folder: Path, backbone: str = "internlm2") -> Any:
    config = PhantrolConfig(LlamaConfig(), CLIPVisionConfig(image_size=490), image_px=490, image_grid=35)
    return released_processor(folder, "trol", backbone, config).tokenizer


@pytest.fixture(scope="module")
def internlm2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tokenizer(tmp_path_factory.mktemp("tokenizer"), "trol", "internlm2")


@pytest.mark.parametrize(("name", "change"), TOKENIZERS, ids=[json.dumps(change) for _, change in TOKENIZERS])
def test_a_tokenizer_whose_settings_are_malformed(name: str, change: dict[str, Any], internlm2: Path, tmp_path: Path):
    folder = Path(shutil.copytree(internlm2, tmp_path / "spoilt"))
    before = json.loads((folder / name).read_text("utf-8")) if (folder / name).is_file() else {}
    (folder / name).write_text(json.dumps({**before, **change}), "utf-8")
    with pytest.raises(ValueError, match=f"the tokenizer of {folder} cannot be read: ") as caught:
        open_tokenizer(folder)
    assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="cannot be read: "):  # as the base decoder of a recipe opens it
        fast_tokenizer(folder / "tokenizer.model")


def test_what_a_tokenizer_says_itself_passes_as_it_is(internlm2: Path, tmp_path: Path):
    folder = Path(shutil.copytree(internlm2, tmp_path / "spoilt"))
    (folder / "tokenizer.model").write_bytes(b"")
    with pytest.raises(ValueError, match=r"^\S*tokenizer.model is no SentencePiece model"):
        open_tokenizer(folder)


@pytest.mark.parametrize(
    ("backbone", "other", "file"), [("internlm2", "phi3", "tokenizer.json"), ("phi3", "internlm2", "tokenizer.model")]
)
def test_of_both_files_internlm2_takes_its_model_and_another_its_whole_tokenizer(
    backbone: str, other: str, file: str, tmp_path: Path
):
    folder = write_tokenizer(tmp_path / "both", "trol", backbone)
    ids = open_tokenizer(folder, backbone)("a cat").input_ids
    shutil.copy(write_tokenizer(tmp_path / "other", "trol", other) / file, folder)
    assert open_tokenizer(folder, backbone)("a cat").input_ids == ids


def test_every_end_that_the_configuration_names_ends_an_answer(
    copy_of: Callable[..., Path], run: Callable[..., Any], tmp_path: Path
):
    source = copy_of("phantom", "qwen2")
    config = json.loads((source / "config.json").read_text("utf-8"))
    config["eos_token_id"] = config["llm_config"]["eos_token_id"] = [5, 7]
    (source / "config.json").write_text(json.dumps(config), "utf-8")
    assert run("convert", source, tmp_path / "new")[0] == 0
    ends = json.loads((tmp_path / "new" / "generation_config.json").read_text("utf-8"))["eos_token_id"]
    assert {5, 7} < set(ends) and len(ends) == 3, "and the token that ends a turn"


def test_an_end_that_is_no_token_is_told(copy_of: Callable[..., Path], tmp_path: Path):
    source = copy_of("phantom", "qwen2")
    config = json.loads((source / "config.json").read_text("utf-8"))
    config["eos_token_id"] = config["llm_config"]["eos_token_id"] = 99999
    (source / "config.json").write_text(json.dumps(config), "utf-8")
    told = "config.json names end-of-sequence 99999, which is no token: the tokenizer's </s> is taken"
    assert told in convert(source, tmp_path / "new").notes


@pytest.mark.parametrize(
    ("family", "backbone", "head"), [("trol", "internlm2", "output"), ("phantom", "phi3", "lm_head")]
)
def test_a_head_that_the_released_class_does_not_tie(
    family: str, backbone: str, head: str, copy_of: Callable[..., Path], tmp_path: Path
):
    """They name no head to tie, so that the checkpoint's is theirs, whatever the configuration says."""
    source = copy_of(family, backbone, "whole")
    config = json.loads((source / "config.json").read_text("utf-8"))
    untied = f"config.json ties the head to the embeddings, but the released {backbone} keeps its own"
    assert untied not in convert(source, tmp_path / "plain").notes
    (config.get("llm_config") or config)["tie_word_embeddings"] = True
    (source / "config.json").write_text(json.dumps(config), "utf-8")
    assert untied in convert(source, tmp_path / "new").notes
    official = load_file(source / "model.safetensors")
    (kept,) = (tensor for name, tensor in official.items() if name.endswith(f"{head}.weight") and "vision" not in name)
    model = phantrol.load(tmp_path / "new")[0]
    assert torch.equal(model.language_model.lm_head.weight, kept)
    assert model.language_model.lm_head.weight is not model.get_input_embeddings().weight


def test_a_phantom_has_no_gates_to_keep(copy_of: Callable[..., Path], run: Callable[..., Any], tmp_path: Path):
    status, _, complaint = run("convert", copy_of("phantom", "qwen2"), tmp_path / "new", "--per-layer-gates")
    assert status == 2 and "Phantom" in complaint and "leave --per-layer-gates out" in complaint
    assert os.listdir(tmp_path) == ["spoilt"], "nothing is written"


def test_a_gate_in_pieces_that_is_not_loaded(copy_of: Callable[..., Path], run: Callable[..., Any], tmp_path: Path):
    source = copy_of("trol", "phi3")
    gates = torch.load(source / "trol_gating.pt", weights_only=True)
    torch.save({name: tensor for name, tensor in gates.items() if name != "0.bias"}, source / "trol_gating.pt")
    assert run("convert", source, tmp_path / "new")[0] == 0
    torch.save({**gates, "3.bias": gates["3.bias"].to_sparse()}, source / "trol_gating.pt")
    status, _, complaint = run("convert", source, tmp_path / "other")
    assert status == 2 and "'3.bias', a tensor of layout torch.sparse_coo: expected" in complaint
    torch.save({**gates, "3.bias": gates["3.bias"].to("meta")}, source / "trol_gating.pt")
    status, _, complaint = run("convert", source, tmp_path / "other")
    assert status == 2 and "'3.bias', a tensor without data: expected" in complaint


@pytest.mark.parametrize("flags", [(), ("--per-layer-gates",)])
def test_a_gate_beyond_the_last_layer(
    flags: tuple, copy_of: Callable[..., Path], run: Callable[..., Any], tmp_path: Path
):
    source = copy_of("trol", "phi3")
    gates = torch.load(source / "trol_gating.pt", weights_only=True)
    torch.save(gates | {"4.weight": gates["3.weight"], "4.bias": gates["3.bias"]}, source / "trol_gating.pt")
    status, _, complaint = run("convert", source, tmp_path / "new", *flags)
    assert status == 2 and "2 tensors such as trol_gating.pt/4." in complaint and "left over" in complaint
    assert os.listdir(tmp_path) == ["spoilt"], "nothing is written"


def test_tensors_of_several_kinds_are_told(sources: Callable[..., Path], tmp_path: Path):
    source = Path(shutil.copytree(sources("phantom", "qwen2", "whole"), tmp_path / "mixed"))
    weights = load_file(source / "model.safetensors")
    name = next(name for name in weights if name.endswith("layers.0.mlp.up_proj.weight"))
    save_file({**weights, name: weights[name].bfloat16()}, source / "model.safetensors", {"format": "pt"})
    notes = convert(source, tmp_path / "new").notes
    told = "its tensors are bfloat16 and float32, as they were, and loaded as float32; "
    assert told + "`--weights` of ask, chat, eval and serve chooses" in notes


def test_sizes_that_the_tensors_have_otherwise_are_told(copy_of: Callable[..., Path], tmp_path: Path):
    source = copy_of("phantom", "qwen2")
    config = json.loads((source / "config.json").read_text("utf-8"))
    config["llm_config"] |= {"vocab_size": 600, "num_key_value_heads": 4}
    (source / "config.json").write_text(json.dumps(config), "utf-8")
    notes = convert(source, tmp_path / "new").notes
    assert "config.json says vocab_size 600, the tensors 512: theirs is taken" in notes
    assert "config.json says num_key_value_heads 4, the tensors 2: theirs is taken" in notes
    assert not any("hidden_size" in note or "intermediate_size" in note for note in notes)


@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
def test_weights_that_are_no_numbers_are_told(value: float, sources: Callable[..., Path], tmp_path: Path):
    source = Path(shutil.copytree(sources("phantom", "qwen2", "whole"), tmp_path / "mixed"))
    weights = load_file(source / "model.safetensors")
    names = sorted(name for name in weights if name.endswith("mlp.up_proj.weight"))[:2]
    for name in names:
        weights[name][3, 5] = value
    save_file(weights, source / "model.safetensors", {"format": "pt"})
    (told,) = (note for note in convert(source, tmp_path / "new").notes if "NaN or infinite" in note)
    assert told.startswith((f"{names[0]} and 1 more: ", f"{names[1]} and 1 more: "))
    assert told in (tmp_path / "new" / "README.md").read_text("utf-8")


def test_norms_of_queries_and_keys_with_another_epsilon():
    shapes = {"vision_model.encoder.layers.0.attn.q_norm.weight": (64,)}
    sizes = dict(hidden_size=64, patch_size=8, image_size=16, num_hidden_layers=1, num_attention_heads=2)
    options = dict(sizes, intermediate_size=96)
    assert internvit_config(options, shapes).use_qk_norm and internvit_config({**options, "layer_norm_eps": 1e-5}, {})
    with pytest.raises(
        ValueError, match=r"layer_norm_eps 1e-05, and there are norms of queries and keys, .*: expected"
    ):
        internvit_config({**options, "layer_norm_eps": 1e-5}, shapes)
