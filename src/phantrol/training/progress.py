"""What a run says while it trains: a bar, what it measures below it, and a line in metrics.jsonl at logging steps."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text
from transformers import TrainerCallback

from phantrol.data.rows.text_lines import split_lines
from phantrol.training.checkpoint import naming_a_full_disk
from phantrol.training.gate_statistics import GATES, PHANTOM
from phantrol.whole_files import write_text

_LEARNING = {
    "loss": "loss {:.3f}",
    "reward_accuracy": "reward accuracy {:.2f}",
    "grad_norm": "gradient norm {:.2f}",
    "learning_rate": "lr {:.1e}",
}
_LEVELS = "▁▂▃▄▅▆▇█"
_WORTH_SAYING = 0.1  # of the time spent waiting: more workers would help
_PLAIN_LINES = 20  # of a stage, where there is no terminal to draw a bar on


class ProgressBar(TrainerCallback):
    """The bar of one stage, with elapsed and remaining time, and below it what the newest line of the log says.

    Where there is no terminal, as in the output of a batch job, plain lines come in its place, some 20 a stage.
    """

    def __init__(self, stage: str, console: Console | None = None):
        console = console or Console(stderr=True)
        self.stage, self.news, self.last_line = stage, _News(console.encoding), 0
        self.bar = _Bar(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
            speed_estimate_period=3600,  # steps may take minutes
        )
        self.task = self.bar.add_task(stage, start=False)

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.is_world_process_zero:
            self.bar.update(self.task, total=state.max_steps, completed=state.global_step)
            self.bar.start()
            self.bar.start_task(self.task)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.bar.update(self.task, completed=state.global_step)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **kwargs: Any) -> None:
        if not state.is_world_process_zero or not logs or not ("loss" in logs or "eval_loss" in logs):
            return
        self.news.add(logs, state.global_step)
        self.bar.news = self.news.lines()
        line = state.global_step * _PLAIN_LINES // state.max_steps
        if self.bar.disable and "loss" in logs and (line > self.last_line or state.global_step == state.max_steps):
            self.last_line = line
            said = [f"{self.stage} {state.global_step}/{state.max_steps}", *self.news.lines()]
            self.bar.console.print(self.news.dot.join(said), soft_wrap=True)

    def close(self) -> None:
        self.bar.stop()


class _Bar(Progress):
    """A progress bar with lines below it, each cut off where the terminal ends."""

    news: Iterable[str] = ()

    def get_renderables(self) -> Iterable[RenderableType]:
        yield self.make_tasks_table(self.tasks)
        for line in self.news:
            yield Text(f"  {line}", style="dim", no_wrap=True, overflow="ellipsis")


class _News:
    """What the lines of the log have said so far, in words."""

    def __init__(self, encoding: str):
        self.levels, self.dot = (_LEVELS, " · ") if encoding.lower().startswith("utf") else ("01234567", ", ")
        self.logs: dict[str, float] = {}
        self.held_out: dict[int, float] = {}

    def add(self, logs: Mapping[str, float], step: int) -> None:
        if "eval_loss" in logs:
            self.held_out[step] = logs["eval_loss"]
        else:
            self.logs = dict(logs)

    def lines(self) -> list[str]:
        learning = [text.format(self.logs[name]) for name, text in _LEARNING.items() if name in self.logs]
        return [self.dot.join(parts) for parts in (learning, self._speed(), self._gates(), self._held_out()) if parts]

    def _speed(self) -> list[str]:
        if "tokens_per_s" not in self.logs:
            return []
        words = [f"{self.logs['tokens_per_s']:,.0f} tokens/s", f"{self.logs['pictures_per_s']:,.0f} pictures/s"]
        if self.logs["mfu"]:
            words.append(f"MFU {self.logs['mfu']:.1%} of {self.logs['tflops'] / self.logs['mfu']:.3g} TFLOP/s")
        if self.logs.get("waited", 0) >= _WORTH_SAYING:
            words.append(f"{self.logs['waited']:.0%} waiting for data")
        return words

    def _gates(self) -> list[str]:
        ratios, over = self._by_layer(GATES, "ratio"), self._by_layer(GATES, "over_half")
        shares, words = self._by_layer(PHANTOM, "share"), []
        if ratios:
            mean = f"w {_mean(ratios):.2g}, {_mean(over):.0%} of tokens over 1/2"
            words.append(f"second look {self._drawn(ratios)} {mean}")
        if shares:
            words.append(f"phantom {self._drawn(shares)} {_mean(shares):.1%} of attention")
        return words

    def _held_out(self) -> list[str]:
        if not self.held_out:
            return []
        last, best = max(self.held_out), min(self.held_out, key=lambda step: (self.held_out[step], step))
        words = f"held-out loss {self.held_out[last]:.3f} at step {last}"
        return [words, "the best so far" if best == last else f"best {self.held_out[best]:.3f} at step {best}"]

    def _by_layer(self, kind: str, what: str) -> list[float]:
        names = sorted(name for name in self.logs if name.startswith(f"{kind}/") and name.endswith(f"/{what}"))
        return [self.logs[name] for name in names]

    def _drawn(self, values: list[float]) -> str:
        """One character a layer: the lowest stands for 0, the highest for 1."""
        return "".join(
            self.levels[min(int(max(value, 0) * len(self.levels)), len(self.levels) - 1)] for value in values
        )


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


class MetricsFile(TrainerCallback):
    """Appends {"stage", "step", "loss", "lr", ...} or {"stage", "step", "eval_loss"} to a file, one object a line.

    lr is what `Stage.lr` has come to in its course: AdamW's, and not Muon's or one of `Stage.lrs`.
    """

    def __init__(self, path: Path, stage: str):
        self.path, self.stage = path, stage

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step >= state.max_steps:
            control.should_log = True  # the last line of a stage, however few steps it covers

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **kwargs: Any) -> None:
        if state.is_world_process_zero and logs and ("loss" in logs or "eval_loss" in logs):
            names = {"learning_rate": "lr"}
            line = {names.get(name, name): value for name, value in logs.items() if name != "epoch"}
            with naming_a_full_disk(self.path), self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"stage": self.stage, "step": state.global_step} | line) + "\n")


def rewind(path: Path, stages: list[str], step: int, measured: bool = True) -> None:
    """Take back the lines of metrics.jsonl, or skipped.jsonl, that came after the checkpoint a run goes on from.

    stages    the names of the stages up to that of the checkpoint;  step  the step of the checkpoint
    measured  whether the checkpoint knows its held-out loss; if not, it is measured again
    """
    if not path.is_file():
        return
    kept = []
    for text in split_lines(path.read_text("utf-8", errors="replace")):
        try:
            line = json.loads(text)
        except json.JSONDecodeError:  # a line, or a letter, that was being written when the run was killed
            continue
        is_again = not measured and line["step"] == step and "eval_loss" in line
        is_before = line["stage"] == stages[-1] and line["step"] <= step and not is_again
        if line["stage"] in stages[:-1] or is_before:
            kept.append(text + "\n")
    write_text(path, "".join(kept))
