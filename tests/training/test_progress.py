"""What is seen while a run trains: the bar and what stands below it, plain lines, the log, reports."""

from __future__ import annotations

import importlib.util
import io
import json
import re
from types import SimpleNamespace

import pytest
from rich.console import Console

from phantrol.training.progress import MetricsFile, ProgressBar
from phantrol.training.run import run

LOGS = {
    "loss": 1.23456, "grad_norm": 0.5, "learning_rate": 1e-3, "tokens_per_s": 12345.6, "pictures_per_s": 78.9,
    "tflops": 0.02, "mfu": 0.25, "gates/layer_00/ratio": 0.0, "gates/layer_00/over_half": 0.0,
    "gates/layer_03/ratio": 1.0, "gates/layer_03/over_half": 1.0, "phantom/layer_01/share": 0.4, "epoch": 0.1,
}  # fmt: skip


def state(step, max_steps=100):
    return SimpleNamespace(global_step=step, max_steps=max_steps, is_world_process_zero=True)


def shown(width=110, encoding="utf-8", logs=(LOGS,), terminal=True):
    """What is on the screen at the end."""
    file = io.TextIOWrapper(io.BytesIO(), encoding)
    console = Console(file=file, width=width, force_terminal=terminal, color_system=None)
    bar = ProgressBar("tune", console)
    bar.on_train_begin(None, state(0), None)
    for step, line in enumerate(logs, start=1):
        bar.on_step_end(None, state(step * 10), None)
        bar.on_log(None, state(step * 10), None, logs=line)
    bar.close()
    file.flush()
    text = file.buffer.getvalue().decode(encoding)
    return re.split(r"\x1b\[\d*[A-Z]", text)[-1] if terminal else text


def test_everything_is_below_the_bar():
    text = shown()
    assert re.search(r"tune .* 10/100 0:00:\d\d left", text)
    lines = [line for line in text.splitlines() if line.startswith("  ")]
    assert "loss 1.235 · gradient norm 0.50 · lr 1.0e-03" in lines[-3]
    assert "12,346 tokens/s · 79 pictures/s · MFU 25.0% of 0.08 TFLOP/s" in lines[-2]
    assert "second look ▁█ w 0.5, 50% of tokens over 1/2 · phantom ▄ 40.0% of attention" in lines[-1]


def test_waiting_for_data_is_said_where_it_matters():
    assert "TFLOP/s · 31% waiting for data" in shown(logs=(LOGS | {"waited": 0.312},))
    assert "waiting" not in shown(logs=(LOGS | {"waited": 0.03},))


def test_held_out_losses_have_a_line():
    text = shown(logs=(LOGS, {"eval_loss": 2.0}, LOGS, {"eval_loss": 3.0}))
    assert "held-out loss 3.000 at step 40 · best 2.000 at step 20" in text
    assert "held-out loss 2.000 at step 20 · the best so far" in shown(logs=({"eval_loss": 3.0}, {"eval_loss": 2.0}))


def test_a_narrow_terminal_cuts_lines_off_and_an_old_one_has_no_blocks():
    assert all(len(line) <= 60 for line in shown(width=60).splitlines())
    assert "second look 07 w" in shown(encoding="ascii").replace("?", " ")


def test_without_a_terminal_there_are_some_twenty_lines():
    text = shown(terminal=False, logs=[LOGS] * 10)
    lines = text.rstrip().splitlines()  # older versions of rich end with an empty one
    assert len(lines) == 10 and text.startswith("tune 10/100 · loss 1.235 · ") and "\x1b" not in text
    console = Console(file=io.StringIO(), force_terminal=False, width=80)
    bar = ProgressBar("tune", console)
    for step in range(1, 1001):
        bar.on_log(None, state(step, 1000), None, logs=LOGS)
    assert len(console.file.getvalue().splitlines()) == 20


def test_the_log_has_a_line_for_each(tmp_path):
    file = MetricsFile(tmp_path / "metrics.jsonl", "tune")
    for logs in (LOGS, {"eval_loss": 2.0, "epoch": 1.0}, {"train_runtime": 3.0}):
        file.on_log(None, state(10), None, logs=logs)
    one, two = (json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines())
    assert one["lr"] == 1e-3 and one["gates/layer_03/ratio"] == 1.0 and "epoch" not in one
    assert two == {"stage": "tune", "step": 10, "eval_loss": 2.0}


def test_a_service_that_is_not_there_is_named_before_anything_is_built(tiny_recipe, tmp_path, monkeypatch):
    from phantrol.training.new_model import NewModel

    monkeypatch.setattr(NewModel, "build", lambda self: pytest.fail("built"))
    with pytest.raises(ValueError, match=r"report_to: got 'nowhere', expected one that is installed .*pip install"):
        run(tiny_recipe("report_to=nowhere"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.skipif(importlib.util.find_spec("tensorboard") is None, reason="tensorboard is not installed")
def test_tensorboard_gets_every_number(tiny_recipe, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run(tiny_recipe("report_to=tensorboard", "log_every_steps=2"), tmp_path)
    for stage, more in (("0-align", {"train/reward_accuracy"}), ("1-tune", set())):
        (folder,) = (tmp_path / "stages" / stage / "runs").iterdir()
        events = EventAccumulator(str(folder)).Reload()
        wanted = {"loss", "grad_norm", "tokens_per_s", "mfu", "gates/layer_00/ratio", "phantom/layer_01/share"}
        assert {f"train/{name}" for name in wanted} | more <= set(events.Tags()["scalars"])
        assert [event.step for event in events.Scalars("train/loss")] == [2, 4]
