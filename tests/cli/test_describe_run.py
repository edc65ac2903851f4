"""`phantrol describe RUN`: of a run that is finished, stopped, at work, broken; and of folders that are none."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time

import pytest

from phantrol.training.run_lock import held


@pytest.fixture
def demo_run(here, tmp_path):
    """A copy of a finished run of three stages."""
    return shutil.copytree(here / "runs/demo", tmp_path / "run")


def described(phantrol, folder):
    done = phantrol("describe", folder, "--json")
    assert done.code == 0, done.error
    return json.loads(done.out)


def test_a_finished_run(phantrol, demo_run):
    done = phantrol("describe", demo_run)
    assert done.code == 0, done.error
    for words in ("finished, seed 0", "align", "Sft", "2/2", "done", "checkpoint-2", "whole", "phantrol eval"):
        assert words in done.out, words
    found = described(phantrol, demo_run)
    assert found["state"] == "finished" and found["holder"] is None and found["problems"] == []
    assert [(stage["name"], stage["step"], stage["max_steps"]) for stage in found["stages"]] == [
        ("align", 2, 2), ("tune", 2, 2), ("prefer", 2, 2)
    ]  # fmt: skip
    last = found["stages"][1]["last"]
    assert last["loss"] > 0 and last["tokens_per_s"] > 0 and 0 < last["mfu"] < 1 and "gates/layer_01/ratio" in last
    assert [(c["stage"], c["step"], c["complaint"]) for c in found["checkpoints"]] == [(n, 2, None) for n in range(3)]


@pytest.mark.parametrize("source", ["primer:PrimerSource", "file:FileSource"])
def test_the_next_step_is_asking_what_was_taught(phantrol, demo_run, source):
    recipe = json.loads((demo_run / "recipe.json").read_text())  # its tokenizer has read Primer, too
    for stage in recipe["stages"]:
        stage["data"]["parts"] = [[1.0, {"class": f"phantrol.data.sources.{source}"}]]
    (demo_run / "recipe.json").write_text(json.dumps(recipe))
    final, out = demo_run / "final", " ".join(phantrol("describe", demo_run).out.split())
    wanted = f"eval {final} primer" if "Primer" in source else f'ask {final} IMAGE "QUESTION"'
    assert out.endswith(f"Next: phantrol {wanted}")


def test_nothing_is_cut_short_in_a_terminal_of_80_characters(phantrol, demo_run, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    out = phantrol("describe", demo_run).out
    assert "…" not in out and "PhantomOptimization" in out and "waiting for data" in out


def test_a_stopped_run_and_a_flipped_byte(phantrol, demo_run):
    shutil.rmtree(demo_run / "final")
    weights = demo_run / "stages/2-prefer/checkpoint-2/model.safetensors"
    content = bytearray(weights.read_bytes())
    content[1000] ^= 1
    weights.write_bytes(content)
    (demo_run / "stages/2-prefer/.writing/checkpoint-3").mkdir(parents=True)
    done = phantrol("describe", demo_run)
    assert done.code == 0 and "stopped" in done.out and "--resume" in done.out
    assert "not whole: model.safetensors: got sha256" in " ".join(done.out.split()) and "never finished" in done.out
    found = described(phantrol, demo_run)
    assert found["state"] == "stopped"
    assert [bool(checkpoint["complaint"]) for checkpoint in found["checkpoints"]] == [False, False, True]


def test_a_run_at_work(phantrol, demo_run):
    shutil.rmtree(demo_run / "final")
    child = os.fork()
    if not child:
        with held(demo_run):
            (demo_run / "here").touch()
            time.sleep(1000)
        os._exit(0)
    try:
        until_s = time.monotonic() + 240
        while not (demo_run / "here").exists():
            assert time.monotonic() < until_s
            time.sleep(0.02)
        out = phantrol("describe", demo_run).out
        assert f"running, by process {child} on " in out and "last line of the log" in out
        assert described(phantrol, demo_run)["holder"]["pid"] == child
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    assert described(phantrol, demo_run)["state"] == "stopped"


@pytest.mark.parametrize("recipe", [None, "{", '{"stages": [{}]}', "[]"])
def test_a_broken_run(phantrol, demo_run, recipe):
    (demo_run / "recipe.json").unlink() if recipe is None else (demo_run / "recipe.json").write_text(recipe)
    shutil.rmtree(demo_run / "final")
    with (demo_run / "metrics.jsonl").open("a") as file:
        file.write('{"stage": "tune", "st\n{"loss": 3}\n')
    done = phantrol("describe", demo_run)
    assert done.code == 0, done.error
    assert ": broken" in done.out and "recipe.json cannot be read" in done.out and "line 4 is broken" in done.out
    assert "checkpoint-2" in done.out  # what there is, is shown still


def test_a_run_that_has_just_begun(phantrol, demo_run):
    for name in ("stages", "final"):
        shutil.rmtree(demo_run / name)
    (demo_run / "metrics.jsonl").unlink()
    done = phantrol("describe", demo_run)
    assert done.code == 0 and "0/2" in done.out and "stopped" in done.out


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda folder: None, "is empty: expected the folder of a model or of a run"),
        (lambda folder: (folder / "notes.txt").write_text("x"), "is not a whole model"),
    ],
)
def test_a_folder_that_is_neither(phantrol, tmp_path, make, words):
    make(tmp_path)
    done = phantrol("describe", tmp_path)
    assert done.code == 2 and words in done.error and len(done.error.strip().splitlines()) == 1


def test_json_is_for_runs(phantrol):
    done = phantrol("describe", "primer_tiny", "--json")
    assert done.code == 2 and "expected the folder of a run" in done.error
