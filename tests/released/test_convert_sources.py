"""`convert`, from wherever the weights are: a folder, a release by its name, the hub; and what it says of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from shutil import copytree
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from phantrol.models.released.convert import convert

pytestmark = pytest.mark.usefixtures("no_grad")


def test_no_such_source(run: Callable[..., Any], tmp_path: Path):
    for source, message in (
        ("nowhere", "no folder nowhere"),
        ("BK-Lee/TroL-0B", "no folder BK-Lee/TroL-0B, and the hub"),
    ):
        status, _, complaint = run("convert", source, tmp_path / "new")
        assert status == 2 and message in complaint and complaint.count("\n") == 1, complaint


@pytest.mark.parametrize("name", ["phantom-0.5b", "BK-Lee/Phantom-0.5B"])
def test_a_release_is_asked_once_it_is_converted(name: str, run: Callable[..., Any]):
    status, _, complaint = run("ask", name, "what?")
    assert status == 2 and f"{name} is in the official layout: phantrol convert BK-Lee/Phantom-0.5B OUT" in complaint


def test_tensors_that_belong_together_are_missed_together(sources: Callable[..., Path], run: Any, tmp_path: Path):
    source = Path(copytree(sources("trol", "internlm2"), tmp_path / "source"))
    for path in source.glob("*.safetensors"):
        save_file({name: each for name, each in load_file(path).items() if "lora" not in name}, path)
    for index in source.glob("*.index.json"):
        table = json.loads(index.read_text("utf-8"))
        table["weight_map"] = {name: file for name, file in table["weight_map"].items() if "lora" not in name}
        index.write_text(json.dumps(table), "utf-8")
    status, _, complaint = run("convert", source, tmp_path / "new")
    assert status == 2 and "expected attention.wqkv.lora_A beside wqkv.ffn" in complaint, complaint
    assert not (tmp_path / "new").exists()


def test_shards_without_their_index_are_told(sources: Callable[..., Path], run: Any, tmp_path: Path):
    source = Path(copytree(sources("phantom", "qwen2"), tmp_path / "source"))
    for path in [*source.glob("*.index.json"), *source.glob("*.safetensors")]:
        path.unlink()
    (source / "model-00001-of-00002.safetensors").write_bytes(b"")
    status, _, complaint = run("convert", source, tmp_path / "new")
    assert (
        status == 2 and "shards such as model-00001-of-00002.safetensors are there: download their index" in complaint
    )


@pytest.mark.parametrize("both", [True, False])
def test_a_hub_id_is_downloaded(both: bool, sources: Callable[..., Path], tmp_path: Path, monkeypatch: Any):
    folder, asked = sources("phantom", "qwen2"), []

    def download(repository: str, allow_patterns: list[str]) -> str:
        asked.append((repository, allow_patterns))
        return str(folder)

    files = [path.name for path in folder.iterdir()] + ["pytorch_model.bin"]
    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    monkeypatch.setattr("huggingface_hub.list_repo_files", lambda name: files if both else files[-1:])
    convert("BK-Lee/Phantom-0.5B" if both else "phantom-0.5b", tmp_path / "new")
    [(repository, patterns)] = asked
    assert repository == "BK-Lee/Phantom-0.5B" and {"*.json", "*.safetensors", "*.pt", "*.model"} <= set(patterns)
    assert ("*.bin" in patterns) != both
    assert "The weights of BK-Lee/Phantom-0.5B" in (tmp_path / "new" / "README.md").read_text("utf-8")


def test_the_command_says_what_it_did(sources: Callable[..., Path], run: Callable[..., Any], tmp_path: Path):
    status, output, _ = run("convert", sources("trol", "internlm2"), tmp_path / "new")
    assert status == 0
    lines = output.splitlines()
    assert lines[0].startswith("trol on internlm2: ") and "tensors" in lines[0]
    assert any("are 4 different ones: the last one serves every layer" in line for line in lines)
    assert any(
        line.startswith("dropped model.tok_embeddings.weight[512]: the row of the image token") for line in lines
    )
    assert lines[-1].startswith("The model is in ")
    status, _, complaint = run("ask", sources("trol", "internlm2"), "what?")
    assert status == 2 and "released TroL or Phantom: phantrol convert" in complaint and complaint.count("\n") == 1
    status, output, _ = run("describe", tmp_path / "new")
    assert status == 0 and "partial_lora" in output
