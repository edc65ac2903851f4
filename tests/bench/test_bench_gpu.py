"""scripts/bench_gpu.py on a tiny shape and a CPU: all works, what a token reads, and a row that does not fit."""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from phantrol.find import import_file

PATH = Path(__file__).parents[2] / "scripts" / "bench_gpu.py"
script = import_file(PATH)
BUILD = script.build
SMALL = ["--shapes", "tiny", "--batches", "1,2", "--prompt", "12", "--tokens", "2", "--runs", "1", "--dtype", "float32"]


def test_all_methods_and_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    compiling, built = torch.compile, []
    monkeypatch.setattr(torch, "compile", lambda model, mode, **options: compiling(model, backend="eager", **options))
    monkeypatch.setattr(script, "build", lambda *given: (built.append(BUILD(*given)), built[-1])[1])
    words = [*SMALL, "--layers", "2", "--methods", "trol_prompt,both", "--train-batch", "1"]
    rows = script.main([*words, "--json", str(tmp_path / "new" / "gpu.json")])
    found = json.loads((tmp_path / "new" / "gpu.json").read_text())
    assert found["rows"] == rows and found["machine"]["device"] == "cpu" and found["machine"]["dtype"] == "float32"
    assert [len(model.get_decoder().layers) for model in built] == [2] * 4
    works = [f"b{batch}.{{}}.{work}" for batch in (1, 2) for work in script.WORKS[:3]] + ["b1.{}.train_step"]
    expected = {f"tiny.{work.format(method)}" for method in ("trol_prompt", "both") for work in works}
    assert {row["name"] for row in rows} == expected and len(rows) == len(expected)
    assert all(min(row[key] for key in ("ratio", "ours", "plain", "share", "plain_share")) > 0 for row in rows)
    off = {row["name"]: row["off"] for row in rows if "off" in row}
    assert set(off) == {name for name in expected if name.endswith("decode_compiled")}
    assert all(set(sides) == {"plain", "ours"} and max(sides.values()) < 1e-5 for sides in off.values())


def test_a_compiled_step_that_is_wrong_is_seen(monkeypatch: pytest.MonkeyPatch):
    """Such as one that takes its token for a later one."""
    chosen = SimpleNamespace(prompt=12, tokens=2, runs=1)
    model = script.build("tiny", script.methods(4)["both"], torch.float32, torch.device("cpu"))

    def off(shift: int) -> float:
        def compiled(model: Any, **_: Any) -> Any:
            return lambda token, position_ids, **rest: model(token, position_ids=position_ids + shift, **rest)

        monkeypatch.setattr(torch, "compile", compiled)
        return script.prepare(model, "decode_compiled", 1, chosen, script.Limits(1, 1)).off

    assert off(0) < 1e-5 < 1e-4 < off(3)


def test_what_a_token_reads():
    """A layer's weights once for each pass over an answer; of a prompt's traversal nothing is left but its gate."""
    configs = script.methods(4)
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


def test_a_row_that_fails_is_told_and_the_next_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    file, measured, lost = tmp_path / "gpu.json", [], []

    def measure(sides: Any, work: str, batch: int, *_: Any) -> dict[str, Any]:
        measured.append(f"b{batch}.{work}")
        if work == "decode":
            raise RuntimeError("no kernel\nand more")
        return {"ratio": 1.0}

    def run(works: str, *more: str) -> list[dict[str, Any]]:
        measured.clear()
        return script.main([*SMALL, "--methods", "trol_prompt", "--json", str(file), "--works", works, *more])

    monkeypatch.setattr(script, "measure", measure)
    monkeypatch.setattr(script, "is_lost", lambda device: bool(lost))
    rows = run("decode,prefill", "--batches", "1")
    assert measured == ["b1.decode", "b1.prefill"] and [row.get("failed") for row in rows] == [
        "RuntimeError: no kernel", None
    ]  # fmt: skip
    lost.append(True)
    monkeypatch.setattr(script, "measure_limits", lambda *_: pytest.fail("other limits in one table"))
    assert len(run("decode,prefill")) == 3 and measured == ["b2.decode"]  # the rest cannot be run in this process
    rows = run("decode,prefill")
    assert measured == ["b2.prefill"] and json.loads(file.read_text())["rows"] == rows and len(rows) == 4
    monkeypatch.setattr(
        "sys.argv", [str(PATH), *SMALL, "--methods", "trol_prompt", "--works", "decode", "--json", str(file)]
    )
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(PATH), run_name="__main__")
    assert end.value.code == 1
    assert "trol_prompt.decode; to measure a row again, remove it" in capsys.readouterr().out
    before = file.read_text()
    for option, word in (("--prompt", "13"), ("--dtype", "bfloat16")):
        with pytest.raises(SystemExit):
            run("prefill", option, word)
        said = capsys.readouterr().err
        assert "gpu.json is of another run (" in said and word in said and "remove it, or name another" in said
    assert file.read_text() == before and not measured


@pytest.mark.parametrize(
    "words",
    ["--shapes 8B", "--methods nope", "--works prefil", "--dtype int4", "--batches 1,0", "--runs 0", "--layers few"],
)
def test_words_that_say_nothing_are_refused(words: str, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch):
    monkeypatch.setattr(script, "measure_limits", lambda *_: pytest.fail("measured"))
    option, word = words.split()
    with pytest.raises(SystemExit) as end:
        script.main(["--json", str(tmp_path / "gpu.json"), option, word])
    assert end.value.code == 2 and not list(tmp_path.iterdir())
    complaint = capsys.readouterr().err.splitlines()[-1]
    assert f"argument {option}: " in complaint and word.split(",")[-1] in complaint
