"""What `phantrol describe RUN` prints: stages, progress, the last losses, checkpoints, and whether it is in use."""

from __future__ import annotations

import contextlib
import json
import shlex
from dataclasses import asdict
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

from rich.box import SIMPLE
from rich.table import Table

from phantrol.tables import in_bytes
from phantrol.training.checkpoint import FINAL, RECIPE
from phantrol.training.recipe_json import recipe_text
from phantrol.training.run_status import CheckpointStatus, RunStatus, StageStatus, read_status

_PRIMER = '"phantrol.data.sources.primer:PrimerSource"'
_NUMBERS = {
    "loss": ("loss", "{:.4g}"),
    "grad_norm": ("gradient norm", "{:.3g}"),
    "tokens_per_s": ("tokens/s", "{:,.0f}"),
    "waited": ("waiting for data", "{:.0%}"),
    "mfu": ("MFU", "{:.1%}"),
}


def describe_run(folder: Path, as_json: bool) -> list[Any]:
    """Return what to print of the run in a folder: tables and lines, or one text of JSON."""
    status = read_status(folder)
    if as_json:
        return [json.dumps(asdict(status), indent=1, ensure_ascii=False)]
    lines = [_headline(status), _stages(status)]
    if status.checkpoints:
        lines.append(_checkpoints(status))
    if status.half_written and not status.holder:
        lines.append(f"never finished, and left out of account: {', '.join(status.half_written)}")
    if status.skipped_rows:
        lines.append(
            f"rows left out because they could not be read: {status.skipped_rows} ({folder / 'skipped.jsonl'})"
        )
    return [*lines, *status.problems, f"Next: {_next(status)}"]


def _headline(status: RunStatus) -> str:
    words = f"run {status.folder}: {status.state}"
    if status.holder:
        words += f", by process {status.holder.pid} on {status.holder.host} since {status.holder.since}"
    if status.line_age_s is not None and status.state == "running":
        words += f", last line of the log {timedelta(seconds=round(status.line_age_s))} ago"
    return words + (f", seed {status.seed}" if status.seed is not None else "")


def _stages(status: RunStatus) -> Table:
    """A column for each stage: a line for each would be cut short in a terminal of 80 characters."""
    table = Table("stage", *(stage.name for stage in status.stages), box=SIMPLE)
    rows = {
        "learns by": lambda stage: stage.loss,
        "steps": lambda stage: f"{stage.step}/{stage.max_steps}",
        **{title: partial(_last, key=key, text=text) for key, (title, text) in _NUMBERS.items()},
        "held out": lambda stage: f"{stage.eval_loss[1]:.4g} at {stage.eval_loss[0]}" if stage.eval_loss else "–",
        "left": _left,
    }
    for title, cell in rows.items():
        table.add_row(title, *map(cell, status.stages))
    return table


def _last(stage: StageStatus, key: str, text: str) -> str:
    return text.format(stage.last[key]) if key in stage.last else "–"


def _left(stage: StageStatus) -> str:
    if stage.step >= stage.max_steps:
        return "done"
    return str(timedelta(seconds=round(stage.left_s))) if stage.left_s is not None else "–"


def _checkpoints(status: RunStatus) -> Table:
    table = Table("checkpoint", "size", "state", box=SIMPLE)
    for checkpoint in status.checkpoints:
        name = Path(checkpoint.path).relative_to(status.folder)
        table.add_row(
            str(name), in_bytes(checkpoint.bytes), _state(checkpoint), style="red" if checkpoint.complaint else None
        )
    return table


def _state(checkpoint: CheckpointStatus) -> str:
    if checkpoint.complaint:
        name, _, what = checkpoint.complaint.partition(": ")
        return f"not whole: {Path(name).name}: {what}"
    return "whole" if checkpoint.checked == "sha256" else "sizes as listed; sha256 is checked when it is resumed from"


def _next(status: RunStatus) -> str:
    folder = shlex.quote(str(status.folder))
    if status.state == "running":
        return f"phantrol describe {folder}, or wait"
    if status.state == "finished":
        final = shlex.quote(str(Path(status.folder) / FINAL))
        return f"phantrol eval {final} primer" if _saw_primer(status) else f'phantrol ask {final} IMAGE "QUESTION"'
    if status.state == "broken":
        return "copy recipe.json of the run back from where it was, or begin again in another folder"
    return f"phantrol train RECIPE --out {folder} --resume"


def _saw_primer(status: RunStatus) -> bool:
    """Return whether a stage trained on Primer. No class of the recipe is imported: it may be of another machine."""
    with contextlib.suppress(ValueError):  # a recipe that cannot be read is told of among the problems
        stages = json.loads(recipe_text(Path(status.folder) / RECIPE))["stages"]
        return any(_PRIMER in json.dumps(stage.get("data")) for stage in stages)
    return False
