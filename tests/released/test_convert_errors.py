"""`convert`, when something is wrong: one line that says what, and nothing half-written."""

from __future__ import annotations

import json
import os
import pickle
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from phantrol.models.released.convert import load_official

pytestmark = pytest.mark.usefixtures("no_grad")


def spoil_config(folder: Path, **changes: Any) -> None:
    config = json.loads((folder / "config.json").read_text("utf-8"))
    (folder / "config.json").write_text(json.dumps({**config, **changes}), "utf-8")


def spoil_weights(folder: Path, change: Callable[[dict[str, Tensor]], None], within: str | None = None) -> None:
    """In the shard that holds the tensor `within`, by default O_PROJ."""
    path = next(path for path in folder.glob("*.safetensors") if (within or O_PROJ) in load_file(path))
    weights = load_file(path)
    change(weights)
    save_file(weights, path)
    for index in folder.glob("*.index.json"):
        table = json.loads(index.read_text("utf-8"))
        table["weight_map"] = {name: path.name for name in weights} | {
            name: file for name, file in table["weight_map"].items() if file != path.name
        }
        index.write_text(json.dumps(table), "utf-8")


class Payload:
    def __reduce__(self) -> Any:
        return os.system, ("touch /nonexistent/pwned",)


def other_model(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()
    config = LlamaConfig(vocab_size=8, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1)
    LlamaForCausalLM(config).save_pretrained(folder)


def missing_shard(folder: Path) -> None:
    (folder / "model-00002-of-00002.safetensors").unlink()


def wrong_shape(folder: Path) -> None:
    spoil_weights(folder, lambda weights: weights.update({O_PROJ: torch.zeros(3, 5)}))


def unknown_backbone(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text("utf-8"))
    spoil_config(folder, llm_config={**config["llm_config"], "architectures": ["GemmaForCausalLM"]})


def code(folder: Path) -> None:
    for path in folder.glob("*.safetensors*"):
        path.unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps({"x": Payload()}, protocol=2))


def code_of_a_newer_protocol(folder: Path) -> None:
    for path in folder.glob("*.safetensors*"):
        path.unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps({"x": Payload()}, protocol=4))


def zipped_code(folder: Path) -> None:
    for path in folder.glob("*.safetensors*"):
        path.unlink()
    torch.save({"x": Payload()}, folder / "pytorch_model.bin")


def no_tensors(folder: Path) -> None:
    for path in folder.glob("*.safetensors*"):
        path.unlink()
    torch.save([1, 2], folder / "pytorch_model.bin")


def truncated(folder: Path) -> None:
    path = folder / "model-00001-of-00002.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def truncated_zip(folder: Path) -> None:
    no_tensors(folder)
    path = folder / "pytorch_model.bin"
    path.write_bytes(path.read_bytes()[:-100])


def no_header(folder: Path) -> None:
    (folder / "model-00001-of-00002.safetensors").write_bytes(b"no safetensors at all")


def no_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def broken_config(folder: Path) -> None:
    (folder / "config.json").write_text("{", "utf-8")


def a_config_without_heads(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text("utf-8"))
    del config["llm_config"]["max_position_embeddings"]
    spoil_config(folder, llm_config=config["llm_config"])


def quantised(folder: Path) -> None:
    spoil_weights(folder, lambda weights: weights.update({O_PROJ: weights[O_PROJ].to(torch.int8)}))


def flat_patches(folder: Path) -> None:
    spoil_weights(folder, lambda weights: weights.update({PATCHES: torch.zeros(7)}), PATCHES)


def no_keys(folder: Path) -> None:
    spoil_weights(folder, lambda weights: weights.update({K_PROJ: torch.zeros(3, 64)}), K_PROJ)


def flat_words(folder: Path) -> None:
    spoil_weights(folder, lambda weights: weights.update({WORDS: torch.zeros(7)}), WORDS)


def missing_tensor(folder: Path) -> None:
    spoil_weights(folder, lambda weights: weights.pop(O_PROJ))


def no_last_layer(folder: Path, layer: str = "language_model.model.layers.3.") -> None:
    """Index and shards agree: nothing but config.json knows of it."""
    for path in folder.glob("*.safetensors"):
        save_file({name: tensor for name, tensor in load_file(path).items() if not name.startswith(layer)}, path)
    index = folder / "model.safetensors.index.json"
    table = json.loads(index.read_text("utf-8"))["weight_map"]
    table = {name: file for name, file in table.items() if not name.startswith(layer)}
    index.write_text(json.dumps({"weight_map": table}), "utf-8")


def no_last_layer_of_vision(folder: Path) -> None:
    no_last_layer(folder, "vision_model.encoder.layers.1.")


def a_stray_layer(folder: Path) -> None:
    spoil_weights(folder, lambda weights: weights.update({O_PROJ.replace("s.0.", "s.4."): torch.ones(64, 64)}))


def extra_tensor(folder: Path) -> None:
    spoil_weights(
        folder, lambda weights: weights.update({"language_model.model.layers.0.adapter.weight": torch.ones(2)})
    )


def whole_numbers(folder: Path) -> None:
    for path in folder.glob("*.safetensors"):
        save_file({name: tensor.to(torch.int8) for name, tensor in load_file(path).items()}, path)


def a_name_for_a_list(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text("utf-8"))
    spoil_config(folder, llm_config={**config["llm_config"], "architectures": "GemmaForCausalLM"})


def outside(folder: Path) -> None:
    index = folder / "model.safetensors.index.json"
    table = json.loads(index.read_text("utf-8"))
    table["weight_map"] = {name: f"../{file}" for name, file in table["weight_map"].items()}
    index.write_text(json.dumps(table), "utf-8")


def no_weights(folder: Path) -> None:
    for path in folder.glob("*.safetensors*"):
        path.unlink()


def no_tokenizer(folder: Path) -> None:
    for path in folder.glob("tokenizer*"):
        path.unlink()


def another_image_token(folder: Path) -> None:
    spoil_config(folder, image_token_index=7)


O_PROJ = "language_model.model.layers.0.self_attn.o_proj.weight"
K_PROJ = "language_model.model.layers.0.self_attn.k_proj.weight"
WORDS, PATCHES = "language_model.model.embed_tokens.weight", "vision_model.embeddings.patch_embedding.weight"
SPOILS = [
    (other_model, r"found architectures \['LlamaForCausalLM'\], model_type 'llama', .*expected vision_proj"),
    (
        missing_shard,
        "shard model-00002-of-00002.safetensors is missing in .* though model.safetensors.index.json names",
    ),
    (wrong_shape, rf"{O_PROJ} has shape \[3, 5\]: expected \[64, 64\], as config.json .*; .*: download the weights"),
    (unknown_backbone, "found architectures .*GemmaForCausalLM"),
    (a_name_for_a_list, r"found architectures \[.*'GemmaForCausalLM'\]"),
    (whole_numbers, "torch.int8: expected torch.float16"),
    (code, r"pytorch_model.bin is a pickle that wants to run \w+\.system: refused"),
    (code_of_a_newer_protocol, r"pytorch_model.bin is a pickle that wants to run \w+\.system: refused"),
    (zipped_code, r"pytorch_model.bin is a pickle that wants to run \w+\.system: refused"),
    (no_tensors, "holds a list: expected a table of tensors"),
    (truncated, "model-00001-of-00002.safetensors is broken or not whole"),
    (truncated_zip, "pytorch_model.bin is broken or not whole: .*; copy it again"),
    (no_header, "model-00001-of-00002.safetensors is broken or not whole"),
    (no_config, "no config.json in"),
    (broken_config, "config.json is broken"),
    (a_config_without_heads, "config.json names no max_position_embeddings"),
    (quantised, rf"{O_PROJ} is of torch.int8: expected torch.float16"),
    (flat_words, rf"{WORDS} has shape \[7\]: expected more dimensions"),
    (flat_patches, rf"{PATCHES} has shape \[7\]: expected at least 4"),
    (no_keys, f"{K_PROJ} has 3 rows, which makes 0 key/value heads for 4 query heads"),
    (missing_tensor, f"tensor {O_PROJ} is missing; .* download the weights again"),
    (no_last_layer, r"num_hidden_layers 4, .* of 3 layers, up to language_model.model.layers.2: .*; a shard may be"),
    (a_stray_layer, r"num_hidden_layers 4, .* of 5 layers, up to language_model.model.layers.4: .*; a shard may be"),
    (
        no_last_layer_of_vision,
        r"num_hidden_layers 2 in vision_config, .* of 1 layers, up to vision_model.encoder.layer",
    ),
    (
        extra_tensor,
        "tensor language_model.model.layers.0.adapter.weight is left over: no part of a phantom model on qwen2; .*",
    ),
    (outside, "shard ../model-00001-of-00002.safetensors is missing"),
    (no_weights, "no weights in .*expected model.safetensors"),
    (no_tokenizer, "has no tokenizer"),
    (another_image_token, "the image token is 7 in the weights' configuration and 500 in the tokenizer"),
]


@pytest.mark.parametrize(("spoil", "message"), SPOILS, ids=[spoil.__name__ for spoil, _ in SPOILS])
def test_what_a_user_can_get_wrong(
    spoil: Callable[[Path], None],
    message: str,
    copy_of: Callable[..., Path],
    run: Callable[..., Any],
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
):
    source = copy_of("phantom", "qwen2")
    spoil(source)
    capsys.readouterr()
    status, _, complaint = run("convert", source, tmp_path / "new")
    assert status == 2 and complaint.count("\n") == 1, complaint
    assert re.search(message, complaint), complaint
    assert os.listdir(tmp_path) == ["spoilt"], "nothing is written"


def test_trol_without_its_gates(copy_of: Callable[..., Path], run: Callable[..., Any], tmp_path: Path):
    source = copy_of("trol", "phi3")
    (source / "trol_gating.pt").unlink()
    status, _, complaint = run("convert", source, tmp_path / "new")
    assert status == 2 and "no trol_gating.pt beside the weights" in complaint
    assert "nor model.trol_gating or a Phantom's xattn_*_phantom in them" in complaint
    assert "download it too" in complaint
    for protocol in (2, 4):
        (source / "trol_gating.pt").write_bytes(pickle.dumps({"0.weight": Payload()}, protocol=protocol))
        with warnings.catch_warnings(record=True) as warned:
            status, _, complaint = run("convert", source, tmp_path / "new")
        assert status == 2 and "trol_gating.pt is a pickle that wants to run posix.system: refused" in complaint
        assert not warned and complaint.count("\n") == 1
    safetensors = next(source.glob("*.safetensors"))
    (source / "trol_gating.pt").write_bytes(safetensors.read_bytes())
    status, _, complaint = run("convert", source, tmp_path / "new")
    assert status == 2 and "is no plain table of tensors: refused" in complaint and "weights_only" not in complaint
    (source / "trol_gating.pt").write_text("Repository not found")
    status, _, complaint = run("convert", source, tmp_path / "new")
    assert status == 2 and "trol_gating.pt is broken or not whole" in complaint and complaint.count("\n") == 1
    assert not (tmp_path / "new").exists()


def test_describing_whole_numbers(copy_of: Callable[..., Path], run: Callable[..., Any]):
    source = copy_of("phantom", "qwen2")
    whole_numbers(source)
    status, _, complaint = run("describe", source)
    assert status == 2 and "holds whole numbers alone: expected weights as released" in complaint


def test_describing_what_nobody_released(drawn_folder: Callable[..., Path], run: Callable[..., Any]):
    """Its prompts are unknown, so that no `convert` is recommended."""
    status, output, _ = run("describe", drawn_folder("trol", "qwen2"))
    assert status == 0 and "phantrol convert refuses it: no released model is trol on qwen2" in output
    assert "Next:" not in output


def test_what_lies_beside_whole_weights_does_no_harm(copy_of: Callable[..., Path], tmp_path: Path):
    source = copy_of("phantom", "qwen2")
    table = {"weight_map": {O_PROJ: "pytorch_model-00001-of-00002.bin"}}
    (source / "pytorch_model.bin.index.json").write_text(json.dumps(table), "utf-8")
    expected = load_official(source).state_dict()
    whole = {name: tensor for path in source.glob("*.safetensors") for name, tensor in load_file(path).items()}
    save_file(whole, source / "model.safetensors")
    (source / "model-00002-of-00002.safetensors").unlink()  # the index stays, and names it
    found = load_official(source).state_dict()
    assert found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in expected)
