"""`phantrol bench` on shapes so small that it takes seconds: what it counts is what it says."""

from __future__ import annotations

import dataclasses
import json
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import DynamicCache, LlamaConfig

from phantrol.bench import cases, run, timing
from phantrol.bench.cases import CASES, Case, build_sides
from phantrol.cli import main
from phantrol.inference.calibrating import passes_within
from phantrol.modifiers.phantom import PhantomConfig
from phantrol.modifiers.trol import TrolConfig

SMALL = LlamaConfig(
    vocab_size=cases.VOCAB,
    hidden_size=16,
    intermediate_size=16,
    num_hidden_layers=2,
    num_attention_heads=2,
    max_position_embeddings=64,
)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch):
    for name, case in CASES.items():
        layers = {"trol_half.prefill": {"layers": (0,)}, "trol_budget.prefill": {"skip": (0,)}}.get(name, {})
        modifiers = tuple(dataclasses.replace(modifier, **layers) for modifier in case.modifiers)
        monkeypatch.setitem(CASES, name, dataclasses.replace(case, backbone=SMALL, modifiers=modifiers, tokens=24))


@pytest.mark.filterwarnings("error:.*checkpointing:FutureWarning")  # a name that transformers will take away
def test_every_row_is_measured_and_written(small: Any, tmp_path: Path, capsys: pytest.CaptureFixture):
    threads = torch.get_num_threads()
    run.bench([name for name in CASES], runs=1, json_path=tmp_path / "new" / "bench.json")
    result = json.loads((tmp_path / "new" / "bench.json").read_text())
    assert [row["name"] for row in result["rows"]] == list(CASES)
    assert all(row["ours"] > 0 and row["plain"] > 0 and row["runs"] == 1 for row in result["rows"])
    assert {"name", "ratio", "ours", "plain", "unit", "runs"} == set(result["rows"][0])
    assert result["machine"]["threads"] == 1 and result["versions"]["torch"] == version("torch")
    shown = capsys.readouterr().out
    assert all(name in shown for name in CASES)
    assert torch.get_num_threads() == threads, "the caller's threads are given back"
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["bench.json"]


def test_what_was_measured_is_kept_when_the_rest_is_stopped(small: Any, tmp_path: Path, monkeypatch):
    threads, measured = torch.get_num_threads(), []

    def stopping(name: str, *rest: Any) -> timing.Row:
        if len(measured) == 2:
            raise KeyboardInterrupt
        measured.append(timing.measure(name, *rest))
        return measured[-1]

    monkeypatch.setattr(run, "measure", stopping)
    with pytest.raises(KeyboardInterrupt):
        run.bench(["trol_all.decode", "kv.phantom", "phantom.prefill"], runs=1, json_path=tmp_path / "bench.json")
    result = json.loads((tmp_path / "bench.json").read_text())
    assert result["rows"] == [dataclasses.asdict(row) for row in measured] and result["machine"] and result["versions"]
    assert [row.name for row in measured] == ["phantom.prefill", "kv.phantom"]
    assert [path.name for path in tmp_path.iterdir()] == ["bench.json"] and torch.get_num_threads() == threads


def test_every_name_of_the_table_is_known():
    """Those of the project's table of speed, and nothing is measured under a name of its own."""
    prefill = ["phantom", "trol_prompt", "trol_half", "trol_budget", "both"]
    decode = ["phantom.decode", "phantom.decode_4k", "trol_prompt.decode", "trol_all.decode"]
    cache = ["kv.trol_prompt", "kv.trol_all", "kv.phantom", "kv.phantom_drop"]
    steps = ["trol.train_step", "phantom.train_step"]
    assert {*CASES} == {*(f"{name}.prefill" for name in prefill), *decode, *cache, *steps}
    assert {*run.STARTS} == {"import_s", "help_s"}
    assert CASES["phantom.decode_4k"].tokens == 4096 and CASES["phantom.decode"].tokens == 512
    (half,), (budget,) = CASES["trol_half.prefill"].modifiers, CASES["trol_budget.prefill"].modifiers
    assert half.layers == (0, 1, 2) and len(budget.skip) == 6 - passes_within(1.3, 6, 2)


def test_a_start_has_seconds_and_no_plain_side(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setitem(run.STARTS, "import_s", ["-c", "import time; time.sleep(0.3)"])
    run.bench(["import_s"], runs=1, json_path=tmp_path / "bench.json")
    (row,) = json.loads((tmp_path / "bench.json").read_text())["rows"]
    assert row["ratio"] == row["ours"] > 0.3 and (row["plain"], row["unit"], row["runs"]) == (None, "s", 1)


def test_a_start_takes_the_median_of_all_but_the_first(monkeypatch: pytest.MonkeyPatch):
    clock = iter([0, 50, 100, 101, 200, 202, 300, 309])  # 50 s, then 1, 2 and 9
    monkeypatch.setattr(run, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    monkeypatch.setattr(run.subprocess, "run", lambda *args, **options: None)
    row = run._start("import_s", runs=3)
    assert (row.ours, row.ratio, row.runs) == (2, 2, 3)


def test_bytes_of_the_cache_are_exact(small: Any):
    """TroL keeps the prompt's second pass no longer than the prompt; Phantom doubles, and keeps its anchors."""
    ratios = {row.name: row for row in run.bench([name for name in CASES if name.startswith("kv.")], runs=3)}
    per_token = 2 * SMALL.num_hidden_layers * SMALL.hidden_size * 4
    plain, anchors = 25 * per_token, 2 * SMALL.num_hidden_layers * SMALL.hidden_size * 4
    expected = {
        "kv.trol_prompt": plain,
        "kv.trol_all": 2 * plain,
        "kv.phantom": 2 * plain + 3 * anchors,
        "kv.phantom_drop": 1.5 * plain + anchors,
    }
    assert {name: row.ours for name, row in ratios.items()} == expected
    assert all(row.plain == plain for row in ratios.values())
    assert {row.runs for row in ratios.values()} == {1}, "bytes are the same each time: one sample is taken"


def test_what_a_cache_holds_beyond_its_tokens(small: Any):
    """At the length of the table, room to grow is for Phantom's layers alone, and a 64th more at most."""
    for name in (name for name in CASES if name.startswith("kv.")):
        model = build_sides(CASES[name])["ours"]
        cache = DynamicCache(config=model.config)
        with torch.inference_mode():
            model(torch.ones(1, 512, dtype=torch.long), past_key_values=cache)
            model(torch.ones(1, 1, dtype=torch.long), past_key_values=cache)
        tensors = [t for layer in cache.layers for t in (layer.keys, layer.values) if t is not None]
        held = sum(tensor.untyped_storage().nbytes() for tensor in tensors) / timing.token_bytes(cache)
        assert 1 < held <= 1 + 1 / 64 if "phantom" in name else held == 1


def test_the_sides_take_turns(monkeypatch: pytest.MonkeyPatch):
    """Both are warmed first; then neither is always the first of a pair."""
    called: list[str] = []
    sides = {"plain": "plain", "ours": "ours"}
    list(timing._in_turn(sides, called.append, runs=4))
    assert called[:2] == ["plain", "ours"]
    pairs = [tuple(called[i : i + 2]) for i in range(2, 10, 2)]
    assert pairs == [("ours", "plain"), ("plain", "ours")] * 2


def test_the_ratio_is_that_of_neighbours(monkeypatch: pytest.MonkeyPatch):
    """A machine that is slow for one side in one run, and for both in the next, moves the medians, not the ratio."""
    values = [("plain", 1.0), ("ours", 2.0), ("ours", 2.0), ("plain", 10.0), ("plain", 10.0), ("ours", 20.0)]
    monkeypatch.setitem(timing.WORKS, "prefill", (lambda *_: iter(values), "s"))
    row = timing.measure("x", Case(SMALL, (), "prefill"), {"plain": None, "ours": None}, 3)
    assert (row.ratio, row.ours, row.plain, row.runs) == (2.0, 2.0, 10.0, 3)


def test_sides_have_one_shape_and_decode_goes_on_from_the_prompt():
    case = Case(SMALL, (TrolConfig(tokens="prompt"), PhantomConfig(init="random")), "decode", tokens=4)
    sides = build_sides(case)
    plain, ours = (sum(p.numel() for p in sides[name].parameters()) for name in ("plain", "ours"))
    assert ours > plain and not hasattr(sides["plain"].config, "modifiers")
    assert not hasattr(SMALL, "modifiers"), "the shape itself stays as it was"
    seen: list[int] = []
    for model in sides.values():
        forward = model.forward
        model.forward = lambda ids, past_key_values, forward=forward, **options: (
            seen.append(past_key_values.get_seq_length()),
            forward(ids, past_key_values=past_key_values, **options),
        )
    list(timing.decode(sides, tokens=4, runs=1))
    assert seen[:2] == [0, 0] and sorted(seen[2:]) == sorted(2 * list(range(4, 4 + 1 + timing.DECODED)))


def test_token_bytes_counts_every_layer():
    past = DynamicCache()
    past.update(torch.zeros(1, 2, 3, 4), torch.zeros(1, 2, 3, 8), 0)
    assert timing.token_bytes(past) == 4 * (24 + 48)


def test_where_nothing_can_be_written_nothing_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(run, "measure", None)
    (tmp_path / "file").touch()
    for path, words in ((tmp_path / "file" / "bench.json", "is no folder"), (tmp_path, "is a folder")):
        with pytest.raises(ValueError, match=words):
            run.bench(["phantom.prefill"], runs=1, json_path=path)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_an_unknown_row_and_no_runs(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture):
    with pytest.raises(ValueError, match=r"no row phantom\.speed: known are phantom\.prefill, "):
        run.bench(["phantom.speed"])
    with pytest.raises(ValueError, match="0 runs: expected 1 or more"):
        run.bench(["phantom.prefill"], runs=0)
    monkeypatch.setattr("sys.argv", ["phantrol", "bench", "phantom.speed"])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 2 and capsys.readouterr().err.startswith("phantrol: no row phantom.speed")
