"""What a run says while it trains: one bar on the terminal, and a line in metrics.jsonl at each logging step."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor
from transformers import TrainerCallback

from phantrol.training.checkpoint import naming_a_full_disk, write_text

_FORMATS = {"loss": "loss {:.3f}", "reward_accuracy": "reward accuracy {:.2f}", "pictures_per_s": "{:.0f} pictures/s"}


class Meters:
    """Means of named values since the last line of the log. They are part of a checkpoint, so that a run that was
    stopped between two lines writes the same next line."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor | float] = {}
        self.counts: dict[str, float] = {}

    def add(self, name: str, values: Tensor | float, count: float | None = None) -> None:
        """Add a value, or a vector of them; nothing waits for the device here."""
        values = torch.as_tensor(values).detach().float().reshape(-1)
        self.sums[name] = self.sums.get(name, 0.0) + values.sum()
        self.counts[name] = self.counts.get(name, 0.0) + (values.numel() if count is None else count)

    def take(self, accelerator: Accelerator) -> dict[str, float]:
        """Return the means over all ranks, and begin again."""
        total = self.gathered(accelerator)
        means = {name: float(value) / total.counts[name] for name, value in total.sums.items() if total.counts[name]}
        self.sums, self.counts = {}, {}
        return means

    def gathered(self, accelerator: Accelerator) -> Meters:
        """Return the sums and counts over all ranks."""
        if accelerator.num_processes == 1:
            return self
        names, gathered = sorted(self.sums), Meters()
        values = torch.tensor(
            [[float(self.sums[name]), self.counts[name]] for name in names], device=accelerator.device
        )
        for name, (value, count) in zip(names, accelerator.reduce(values).tolist(), strict=True):
            gathered.sums[name], gathered.counts[name] = value, count
        return gathered

    def save(self, path: Path) -> None:
        sums = {name: float(value) for name, value in self.sums.items()}
        write_text(path, json.dumps({"sums": sums, "counts": self.counts}))

    def load(self, path: Path) -> None:
        state = json.loads(path.read_text("utf-8"))
        self.sums, self.counts = state["sums"], state["counts"]


class ProgressBar(TrainerCallback):
    """The bar of one stage: its name, steps, loss, reward accuracy if there is one, pictures per second, time left."""

    def __init__(self, stage: str, console: Console | None = None):
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[news]}"),
            TimeRemainingColumn(),
            console=console,
        )
        self.task = self.bar.add_task(stage, news="", start=False)

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.is_world_process_zero:
            self.bar.update(self.task, total=state.max_steps, completed=state.global_step)
            self.bar.start()
            self.bar.start_task(self.task)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.bar.update(self.task, completed=state.global_step)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **kwargs: Any) -> None:
        news = [text.format(logs[name]) for name, text in _FORMATS.items() if name in (logs or {})]
        if news:
            self.bar.update(self.task, news=" · ".join(news))

    def close(self) -> None:
        self.bar.stop()


class MetricsFile(TrainerCallback):
    """Appends {"stage", "step", "loss", "lr", ...} to a file, one JSON object a line."""

    def __init__(self, path: Path, stage: str):
        self.path, self.stage = path, stage

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step >= state.max_steps:
            control.should_log = True  # the last line of a stage, however few steps it covers

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **kwargs: Any) -> None:
        if state.is_world_process_zero and logs and "loss" in logs:
            names = {"learning_rate": "lr"}
            line = {names.get(name, name): value for name, value in logs.items() if name != "epoch"}
            with naming_a_full_disk(self.path), self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"stage": self.stage, "step": state.global_step} | line) + "\n")


def rewind(path: Path, stages: list[str], step: int) -> None:
    """Take back the lines of metrics.jsonl that came after the checkpoint a run goes on from.

    stages  the names of the stages up to that of the checkpoint;  step  the step of the checkpoint
    """
    if not path.is_file():
        return
    kept = []
    for text in path.read_text("utf-8").splitlines():
        try:
            line = json.loads(text)
        except json.JSONDecodeError:  # a line that was being written when the run was killed
            continue
        if line["stage"] in stages[:-1] or (line["stage"] == stages[-1] and line["step"] <= step):
            kept.append(text + "\n")
    write_text(path, "".join(kept))
