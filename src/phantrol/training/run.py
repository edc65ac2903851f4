"""Run a recipe: stage after stage, from its beginning or from the last whole checkpoint.

OUT/recipe.json       the recipe with all its defaults        OUT/metrics.jsonl   a line at each logging step
OUT/stages/0-align/   checkpoints of a stage                  OUT/final/          model, processor, recipe.json
OUT/skipped.jsonl     rows that could not be read, if any
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from rich.console import Console
from torch import nn
from transformers import set_seed
from transformers.utils.logging import disable_progress_bar

from phantrol.data.mixture import Groups
from phantrol.data.skipping import read_groups
from phantrol.training.checkpoint import (
    Checkpoint,
    check_whole,
    checkpoint_at,
    checkpoints,
    last_whole_checkpoint,
    write_text,
    written_beside,
)
from phantrol.training.progress import MetricsFile, ProgressBar, rewind
from phantrol.training.recipe import Recipe, Stage
from phantrol.training.recipe_json import differences, recipe_to_json
from phantrol.training.skipped import FILE as SKIPPED
from phantrol.training.skipped import read_skipped
from phantrol.training.trainer import StageTrainer, process_state
from phantrol.training.weights import is_peft, load_weights

_RECIPE, _METRICS, _FINAL = "recipe.json", "metrics.jsonl", "final"
_RUNNING = ("log_every_steps", "save_every_steps", "keep_checkpoints", "workers", "report_to")  # may change on resume
_log = logging.getLogger("phantrol")


def run(recipe: Recipe, out_dir: str | Path, resume: bool | str | Path = False, console: Console | None = None) -> Path:
    """Train a recipe and return the folder of the final model.

    out_dir  the folder of the run: empty or new, unless the run is resumed
    resume   True: go on from the last whole checkpoint, or begin if there is none; a path: from that checkpoint

    Raises ValueError for a folder that is in use, a recipe that is not that of the run, a checkpoint that is not whole,
    a source without what its stage needs, a loss that is not finite, a full disk. On SIGTERM it writes a checkpoint and
    raises SystemExit(143).
    """
    out_dir, console = Path(out_dir), console or Console(stderr=True)
    start = _open(out_dir, recipe, resume)
    if resume and (out_dir / _FINAL).is_dir():
        console.print(f"{out_dir / _FINAL} is already there: nothing to do")
        return out_dir / _FINAL
    for number, stage in enumerate(recipe.stages):
        _check_data(stage, recipe.stage_seed(number))

    disable_progress_bar()  # of each file that is saved; the bars here are our own
    set_seed(recipe.seed)
    model, processor = recipe.model.build()
    first = _load(model, recipe, out_dir, start, console)

    for number in range(first, len(recipe.stages)):
        stage = recipe.stages[number]
        bar = ProgressBar(stage.name, console)
        callbacks = [MetricsFile(out_dir / _METRICS, stage.name), bar]
        trainer = StageTrainer(model, processor, recipe, number, out_dir, callbacks)
        try:
            finished = trainer.train(start.path if start and start.stage == number else None)
        finally:
            bar.close()
        if not finished:
            console.print(
                f"stopped by SIGTERM after step {trainer.state.global_step} of {stage.name}: resume with --resume"
            )
            raise SystemExit(143)

    _save_final(model, processor, recipe, out_dir / _FINAL)
    if skipped := read_skipped(out_dir / SKIPPED):
        console.print(f"{len(skipped)} rows could not be read and were left out: {out_dir / SKIPPED}")
    return out_dir / _FINAL


def _open(out_dir: Path, recipe: Recipe, resume: bool | str | Path) -> Checkpoint | None:
    """Make the folder of the run ready, and return the checkpoint to go on from."""
    text = recipe_to_json(recipe)
    if not resume and out_dir.exists() and (not out_dir.is_dir() or any(out_dir.iterdir())):
        raise ValueError(
            f"{out_dir}: got a folder in use, expected an empty or new one; go on with --resume or choose another"
        )
    start = None
    if resume and out_dir.is_dir():
        if (out_dir / _RECIPE).is_file():
            _check_same_recipe(text, (out_dir / _RECIPE).read_text("utf-8"), out_dir)
        start = last_whole_checkpoint(out_dir) if resume is True else _named_checkpoint(Path(resume), out_dir)
    state = process_state()
    state.wait_for_everyone()  # until all have looked at the folder as it was
    if state.is_main_process:
        out_dir.mkdir(parents=True, exist_ok=True)
        write_text(out_dir / _RECIPE, text)
        names = [stage.name for stage in recipe.stages[: start.stage + 1]] if start else [""]
        for name in (_METRICS, SKIPPED):
            rewind(out_dir / name, names, start.step if start else 0)
    state.wait_for_everyone()
    return start


def _check_same_recipe(text: str, of_run: str, out_dir: Path) -> None:
    found = [line for line in differences(text, of_run) if line.partition(":")[0].partition(".")[0] not in _RUNNING]
    if found:
        more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
        raise ValueError(f"{out_dir} was begun with another recipe: got {found[0]}{more}; choose another folder")


def _named_checkpoint(path: Path, out_dir: Path) -> Checkpoint:
    known = checkpoints(out_dir)
    checkpoint = checkpoint_at(path)
    if checkpoint is None or path.resolve() not in [other.path.resolve() for other in known]:
        listed = ", ".join(str(other.path) for other in known) or "none there"
        raise ValueError(f"resume: got {path}, expected a checkpoint of {out_dir}: {listed}")
    check_whole(path)
    return checkpoint


def _check_data(stage: Stage, seed: int) -> None:
    """Draw the groups of the first step, so that a broken source is found before anything is built."""
    groups = read_groups(Groups(stage.data, seed, stage.batch_size), range(stage.batch_size))
    if stage.loss.needs_pairs and not any(example.rejected for group in groups for example in group):
        raise ValueError(
            f"stage {stage.name!r}: got no rejected answer in the first {len(groups)} groups, expected some for "
            f"{type(stage.loss).__name__}; choose another source, or train with Sft"
        )


def _load(model: nn.Module, recipe: Recipe, out_dir: Path, start: Checkpoint | None, console: Console) -> int:
    """Bring the weights to where the first stage that is left begins, and return its number."""
    if start is None:
        return 0
    console.print(f"going on from {start.path}")
    is_done = start.step >= recipe.stages[start.stage].max_steps
    first = start.stage + is_done
    if is_done:
        _load_stage(model, recipe, start)
    elif first and recipe.stages[first].loss.needs_reference:  # the reference is the model as this stage found it
        ends = [checkpoint for checkpoint in checkpoints(out_dir) if checkpoint.stage == first - 1]
        if not ends:
            raise ValueError(
                f"{out_dir}: got no checkpoint of stage {first - 1}, expected its last, for the reference model"
            )
        check_whole(ends[-1].path)
        _load_stage(model, recipe, ends[-1])
    return first


def _load_stage(model: nn.Module, recipe: Recipe, checkpoint: Checkpoint) -> None:
    patterns = [pattern for stage in recipe.stages[: checkpoint.stage + 1] for pattern in stage.train]
    load_weights(model, patterns, checkpoint.path)


def _save_final(model: Any, processor: Any, recipe: Recipe, folder: Path) -> None:
    """Write the model that users load: adapters merged into the weights they adapt."""
    state = process_state()
    if state.is_main_process:
        model = model.merge_and_unload() if is_peft(model) else model
        with written_beside(folder) as writing:
            model.eval().save_pretrained(writing)
            processor.save_pretrained(writing)
            write_text(writing / _RECIPE, recipe_to_json(recipe))
    state.wait_for_everyone()
