"""scripts/bench_gpu.py on a tiny shape and a CPU: all works, what a token reads, and a row that does not fit."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from phantrol.find import import_file

script = import_file(Path(__file__).parents[2] / "scripts" / "bench_gpu.py")
SMALL = ["--shapes", "tiny", "--batches", "1,2", "--prompt", "12", "--tokens", "2", "--runs", "1", "--dtype", "float32"]


def test_all_methods_and_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    compiling = torch.compile
    monkeypatch.setattr(torch, "compile", lambda model, mode, **options: compiling(model, backend="eager", **options))
    monkeypatch.setattr(
        script, "methods", lambda layers: {k: v for k, v in METHODS(layers).items() if k in ("trol_prompt", "both")}
    )
    rows = script.main([*SMALL, "--train-batch", "1", "--json", str(tmp_path / "new" / "gpu.json")])
    found = json.loads((tmp_path / "new" / "gpu.json").read_text())
    assert found["rows"] == rows and found["machine"]["device"] == "cpu" and found["machine"]["dtype"] == "float32"
    works = [f"b{batch}.{{}}.{work}" for batch in (1, 2) for work in script.WORKS[:3]] + ["b1.{}.train_step"]
    expected = {f"tiny.{work.format(method)}" for method in ("trol_prompt", "both") for work in works}
    assert {row["name"] for row in rows} == expected and len(rows) == len(expected)
    assert all(min(row[key] for key in ("ratio", "ours", "plain", "share", "plain_share")) > 0 for row in rows)


METHODS = script.methods


def test_what_a_token_reads():
    """A layer's weights once for each pass over an answer; of a prompt's traversal nothing is left but its gate."""
    configs = METHODS(4)
    assert configs["trol_budget"][0].skip == (1, 2, 3)
    device, sizes = torch.device("cpu"), {}
    for name in ("trol_prompt", "trol_all"):
        sizes[name] = script.weight_bytes(script.build("tiny", configs[name], torch.float32, device))
    plain = script.build("tiny", (), torch.float32, device)
    layers, gates = 4 * script.size_of(plain.get_decoder().layers[0]), 4 * 4 * 65
    assert script.weight_bytes(plain) == layers + 4 * 64 + 4 * 64 * 256
    assert sizes["trol_prompt"] == script.weight_bytes(plain) + gates
    assert sizes["trol_all"] == script.weight_bytes(plain) + layers + 2 * gates


def test_products_are_counted_and_what_does_not_fit_says_so(monkeypatch: pytest.MonkeyPatch):
    left, right = torch.ones(3, 5), torch.ones(5, 7)
    assert script.count_flops(lambda: left @ right) == 2 * 3 * 5 * 7

    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("no room for 3 GiB\nand more")

    monkeypatch.setattr(script, "prepare", full)
    plain = script.build("tiny", (), torch.float32, torch.device("cpu"))
    assert script.measure({"plain": plain, "ours": plain}, "prefill", 1, None, None) == {"error": "no room for 3 GiB"}
