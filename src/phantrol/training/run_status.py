"""How a run stands, read from its folder alone: while it trains, after it ended, and when something in it is broken."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from phantrol.data.rows.text_lines import split_lines
from phantrol.training.checkpoint import (
    FINAL,
    METRICS,
    RECIPE,
    check_sizes,
    check_whole,
    checkpoint_at,
    checkpoints,
    folder_bytes,
)
from phantrol.training.recipe_json import recipe_text
from phantrol.training.run_lock import Holder, holder
from phantrol.training.skipped import FILE as SKIPPED
from phantrol.training.skipped import read_skipped

CHECKED_BYTES = 2 * 2**30  # of larger checkpoints only the sizes are looked at: reading them would take minutes


@dataclass(frozen=True)
class StageStatus:
    """A stage: its last line of the log, and how long the steps that are left take at the pace of that line.

    step       of the last line of the log;  last  that line, with loss, grad_norm, tokens_per_s, ...
    eval_loss  step and least held-out loss, if any was measured
    """

    name: str
    loss: str
    max_steps: int
    step: int = 0
    last: dict[str, Any] = field(default_factory=dict)
    eval_loss: tuple[int, float] | None = None

    @property
    def left_s(self) -> float | None:
        return (self.max_steps - self.step) * self.last["step_s"] if "step_s" in self.last else None


@dataclass(frozen=True)
class CheckpointStatus:
    """complaint  what is wrong with it, or None;  checked  "sha256" or, of a large one, "sizes" """

    path: str
    stage: int
    step: int
    bytes: int
    complaint: str | None
    checked: str


@dataclass(frozen=True)
class RunStatus:
    """state     running, finished, stopped (it can be resumed) or broken (its recipe cannot be read)
    holder       the process that trains here at this moment
    line_age_s   seconds since the log was written to
    half_written folders of checkpoints that a kill or a running process left unfinished
    """

    state: str
    folder: str
    seed: int | None
    holder: Holder | None
    stages: tuple[StageStatus, ...]
    checkpoints: tuple[CheckpointStatus, ...]
    half_written: tuple[str, ...]
    skipped_rows: int
    line_age_s: float | None
    problems: tuple[str, ...]


def is_run(folder: Path) -> bool:
    """Return whether a folder looks like that of a run, whole or broken, and not like a model."""
    if (folder / "config.json").exists():
        return False
    return any((folder / name).is_file() for name in (RECIPE, METRICS)) or any(folder.glob("stages/*-*"))


def read_status(folder: Path) -> RunStatus:
    """Return how the run in a folder stands. What is broken in it is named among the problems."""
    problems: list[str] = []
    lines, recipe = _read_lines(folder / METRICS, problems), _read_recipe(folder / RECIPE, problems)
    at_work, is_final = holder(folder), (folder / FINAL).is_dir()
    state = "running" if at_work else "finished" if is_final else "stopped" if recipe else "broken"
    return RunStatus(
        state=state,
        folder=str(folder),
        seed=recipe.get("seed"),
        holder=at_work,
        stages=tuple(_stage(stage, lines) for stage in recipe.get("stages", [])),
        checkpoints=tuple(_checkpoint(found.path) for found in checkpoints(folder)),
        half_written=tuple(sorted(_half_written(folder))),
        skipped_rows=len(read_skipped(folder / SKIPPED)),
        line_age_s=round(time.time() - (folder / METRICS).stat().st_mtime, 1) if lines else None,
        problems=tuple(problems),
    )


def _read_recipe(path: Path, problems: list[str]) -> dict[str, Any]:
    try:
        return json.loads(recipe_text(path))
    except ValueError as error:
        problems.append(str(error))
        return {}


def _read_lines(path: Path, problems: list[str]) -> list[dict[str, Any]]:
    if not path.is_file():
        return []
    lines = []
    for number, text in enumerate(split_lines(path.read_text("utf-8", errors="replace")), start=1):
        try:
            line = json.loads(text)
            lines.append({**line, "stage": line["stage"], "step": int(line["step"])})
        except (ValueError, KeyError, TypeError):
            problems.append(f"{path}, line {number} is broken: left out")
    return lines


def _stage(stage: dict[str, Any], lines: Sequence[dict[str, Any]]) -> StageStatus:
    of_stage = [line for line in lines if line["stage"] == stage["name"]]
    last = next((line for line in reversed(of_stage) if "loss" in line), {})
    held_out = [(line["eval_loss"], line["step"]) for line in of_stage if "eval_loss" in line]
    least = min(held_out, default=None)
    return StageStatus(
        name=stage["name"],
        loss=stage["loss"]["class"].rpartition(":")[2],
        max_steps=int(stage["max_steps"]),
        step=last.get("step", 0),
        last={name: value for name, value in last.items() if name not in ("stage", "step")},
        eval_loss=(least[1], least[0]) if least else None,
    )


def _half_written(folder: Path) -> list[str]:
    found = []
    for stage in folder.glob("stages/*"):
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):  # a running process removes it at any time
            found += [str(path) for path in (stage / ".writing").iterdir()]
    return found


def _checkpoint(path: Path) -> CheckpointStatus:
    found, size, complaint = checkpoint_at(path), 0, None
    try:
        size = folder_bytes(path)
        (check_whole if size <= CHECKED_BYTES else check_sizes)(path)
    except (ValueError, OSError) as error:  # a running process may remove it meanwhile
        complaint = str(error)
    return CheckpointStatus(
        str(path), found.stage, found.step, size, complaint, "sha256" if size <= CHECKED_BYTES else "sizes"
    )
