"""Run a recipe: stage after stage, from its beginning or from the last whole checkpoint.

OUT/recipe.json       the recipe with all its defaults        OUT/metrics.jsonl   a line at each logging step
OUT/stages/0-align/   checkpoints of a stage                  OUT/final/          model, processor, recipe.json
OUT/skipped.jsonl     rows that could not be read, if any      OUT/.lock          who trains here
OUT/data.json         how much data it began with
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import signal
from pathlib import Path
from typing import Any

from rich.console import Console
from torch import nn
from transformers import set_seed
from transformers.integrations import get_available_reporting_integrations
from transformers.utils.logging import disable_progress_bar

from phantrol.data.rows.text_lines import split_lines
from phantrol.freed_memory import keep_freed_memory
from phantrol.training.arguments import PROJECT
from phantrol.training.card import FILE as CARD
from phantrol.training.card import SCORES, model_card, read_scores
from phantrol.training.checkpoint import (
    FINAL,
    METRICS,
    RECIPE,
    Checkpoint,
    check_whole,
    checkpoint_at,
    checkpoints,
    last_whole_checkpoint,
    remove_after,
    stage_dir,
    written_beside,
)
from phantrol.training.first_rows import check_data
from phantrol.training.held_out import best_checkpoint, is_measured
from phantrol.training.merging import merged
from phantrol.training.precision import remark_on
from phantrol.training.progress import MetricsFile, ProgressBar, rewind
from phantrol.training.ranks import check_launch, check_ranks, process_state
from phantrol.training.recipe import Recipe
from phantrol.training.recipe_json import differences, recipe_from_json, recipe_text, recipe_to_json
from phantrol.training.run_lock import FILE as LOCK
from phantrol.training.run_lock import held
from phantrol.training.same_data import FILE as DATA
from phantrol.training.same_data import check_same_data, note_data
from phantrol.training.skipped import FILE as SKIPPED
from phantrol.training.skipped import read_skipped
from phantrol.training.trainer import StageTrainer
from phantrol.training.weights import in_float32, load_weights
from phantrol.whole_files import write_text

_EARLY = {LOCK, RECIPE, DATA, METRICS, SKIPPED, "stages"}  # what a run may have written before its first checkpoint
# what may change on resume: how a run is watched, and what changes its memory and time alone
_RUNNING = ("log_every_steps", "keep_checkpoints", "workers", "report_to", "sharding")


def run(recipe: Recipe, out_dir: str | Path, resume: bool | str | Path = False, console: Console | None = None) -> Path:
    """Train a recipe and return the folder of the final model.

    out_dir  the folder of the run: empty, new, or of a run that never came to a line of its log, with nothing else in
             it but features; any, if it is resumed
    resume   True: go on from the last whole checkpoint, or begin if there is none; a path: from that checkpoint. Those
             after it are removed, and written anew

    Raises ValueError for a folder that is in use, a recipe that is not that of the run or that so many ranks cannot
    share, other data than the run began with, a checkpoint that is not whole, a source without what its stage needs, a
    loss that is not finite, a full disk, a service to report to that is not installed. On SIGTERM and Ctrl-C it writes
    a checkpoint and raises SystemExit(143) or SystemExit(130).
    """
    check_launch()
    check_ranks(recipe, process_state().num_processes)
    is_quiet = not process_state().is_main_process
    console = console or Console(stderr=True, markup=False, emoji=False, quiet=is_quiet)
    out_dir = Path(out_dir)
    _check_folder(out_dir, recipe, resume)
    if resume and (out_dir / FINAL).is_dir():
        console.print(f"{out_dir / FINAL} is already there: nothing to do")
        return out_dir / FINAL
    check_reports(recipe)
    for number, stage in enumerate(recipe.stages):
        check_data(stage, recipe.stage_seed(number))
    if resume and checkpoints(out_dir):
        check_same_data(out_dir, recipe, process_state().num_processes)
    with held(out_dir) if process_state().is_main_process else contextlib.nullcontext():
        return _run(recipe, out_dir, resume, console)


def _run(recipe: Recipe, out_dir: Path, resume: bool | str | Path, console: Console) -> Path:
    start = _open(out_dir, recipe, resume)
    disable_progress_bar()  # of each file that is saved; the bars here are our own
    os.environ.setdefault("WANDB_PROJECT", PROJECT)  # where transformers looks, and else says "huggingface"
    model, processor = build_model(recipe)
    first = _load(model, recipe, out_dir, start, console)
    keep_freed_memory()

    for number in range(first, len(recipe.stages)):
        stage = recipe.stages[number]
        bar = ProgressBar(stage.name, console)
        callbacks = [MetricsFile(out_dir / METRICS, stage.name), bar]
        if remark := remark_on(stage.precision, process_state().device):
            console.print(f"{stage.name} {remark}", soft_wrap=True)
        trainer = StageTrainer(model, processor, recipe, number, out_dir, callbacks)
        try:
            finished = trainer.train(start.path if start and start.stage == number else None)
        finally:
            bar.close()
            _end_reports(recipe)
        if not finished:
            stop = trainer.stop_signal
            console.print(
                f"stopped by {signal.Signals(stop.number).name} after step {trainer.state.global_step} of {stage.name} "
                f"and saved {stop.since_s:.1f} s after it came: go on with --resume"
            )
            raise SystemExit(128 + stop.number)
        if trainer.sharding is not None:  # shards are not put together in place
            del model, trainer
            model, processor = build_model(recipe)
            _load_stage(model, recipe, _stage_end(out_dir, recipe, number))
        if stage.held_out and stage.held_out.take == "best":
            best = _stage_end(out_dir, recipe, number)
            _load_stage(model, recipe, best)
            console.print(f"{stage.name}: the best weights are those after step {best.step}")

    skipped = read_skipped(out_dir / SKIPPED)
    _save_final(model, processor, recipe, out_dir, len(skipped))
    if skipped:
        console.print(f"{len(skipped)} rows could not be read and were left out: {out_dir / SKIPPED}")
    return out_dir / FINAL


def _check_folder(out_dir: Path, recipe: Recipe, resume: bool | str | Path) -> None:
    """Raise ValueError if the folder holds something else than the run that is to go on, or a file is in its place."""
    if not out_dir.exists():
        return
    if not out_dir.is_dir():
        raise ValueError(f"{out_dir}: got a file, expected an empty or new folder; choose another name")
    if not _has_begun(out_dir, recipe):
        return
    if not resume:
        raise ValueError(
            f"{out_dir}: got a folder in use, expected an empty or new one; go on with --resume or choose another"
        )
    if (out_dir / RECIPE).exists() or checkpoints(out_dir):
        _check_same_recipe(recipe, recipe_text(out_dir / RECIPE), out_dir)


def _has_begun(out_dir: Path, recipe: Recipe) -> bool:
    """Return whether a folder holds more than a run that ended before its first line of the log and its first
    checkpoint, as with a mistake in its recipe: then nothing is lost, and the recipe may be mended. Features that the
    recipe's own tower left there are no sign of either: any run goes on with them."""
    caches = (Path(stage.feature_cache).resolve() for stage in recipe.stages if stage.feature_cache)
    own = out_dir.resolve()
    inside = {part for cache in caches if cache.is_relative_to(own) for part in cache.relative_to(own).parts[:1]}
    names = {path.name for path in out_dir.iterdir()} - inside
    if names <= {LOCK}:
        return False
    if LOCK not in names or not names <= _EARLY:  # not a run's
        return True
    log = out_dir / METRICS
    return bool(checkpoints(out_dir)) or (log.is_file() and log.stat().st_size > 0)


def check_reports(recipe: Recipe) -> None:
    """Raise ValueError if a service that is to be reported to has no package here."""
    known = get_available_reporting_integrations()
    for name in recipe.report_to:
        if name not in known:
            raise ValueError(
                f"report_to: got {name!r}, expected one that is installed ({', '.join(known) or 'none is'}); "
                f"type pip install {name}, or leave it out"
            )


def build_model(recipe: Recipe) -> tuple[Any, Any]:
    """Return the recipe's model, in float32, and its processor, always the same ones."""
    gc.collect()  # the model of the stage before
    set_seed(recipe.seed)
    model, processor = recipe.model.build()
    in_float32(model)
    return model, processor


def _end_reports(recipe: Recipe) -> None:
    """Let the next stage, whose steps begin again, be a run of its own; the other services do that by themselves."""
    if "wandb" in recipe.report_to:
        import wandb

        wandb.finish()


def _open(out_dir: Path, recipe: Recipe, resume: bool | str | Path) -> Checkpoint | None:
    """Make the folder of the run ready, and return the checkpoint to go on from."""
    start = None
    if resume:
        start = last_whole_checkpoint(out_dir) if resume is True else _named_checkpoint(Path(resume), out_dir)
    state = process_state()
    state.wait_for_everyone()  # until all have looked at the folder as it was
    if state.is_main_process:
        remove_after(start, out_dir)
        write_text(out_dir / RECIPE, recipe_to_json(recipe))
        note_data(out_dir, recipe, state.num_processes)
        names = [stage.name for stage in recipe.stages[: start.stage + 1]] if start else [""]
        for name in (METRICS, SKIPPED):
            rewind(out_dir / name, names, start.step if start else 0, start is None or is_measured(start))
    state.wait_for_everyone()
    return start


def _check_same_recipe(recipe: Recipe, of_run: str, out_dir: Path) -> None:
    with contextlib.suppress(ValueError):  # then the texts are compared as they are
        of_run = recipe_to_json(recipe_from_json(of_run))  # with the fields that another version left out
    changed = differences(recipe_to_json(recipe), of_run)
    found = [line for line in changed if not _may_change(line.partition(":")[0].split("."), recipe)]
    if found:
        more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
        raise ValueError(f"{out_dir} was begun with another recipe: got {found[0]}{more}; choose another folder")


def _may_change(field: list[str], recipe: Recipe) -> bool:
    """Return whether the result is the same with another value of a field."""
    if field == ["save_every_steps"]:  # the best weights are taken of those at checkpoints
        return not any(stage.held_out and stage.held_out.take == "best" for stage in recipe.stages)
    if field[0] == "stages" and field[2:] == ["accumulation"]:  # some losses compare the rows of a micro-batch
        return recipe.stages[int(field[1])].loss.fewest_groups() == 1
    return field[0] in _RUNNING or (field[0] == "stages" and field[2:] == ["gradient_checkpointing"])


def _named_checkpoint(path: Path, out_dir: Path) -> Checkpoint:
    known = checkpoints(out_dir)
    checkpoint = checkpoint_at(path)
    if checkpoint is None or path.resolve() not in [other.path.resolve() for other in known]:
        listed = ", ".join(str(other.path) for other in known) or "none there"
        raise ValueError(f"resume: got {path}, expected a checkpoint of {out_dir}: {listed}")
    check_whole(path)
    return checkpoint


def _load(model: nn.Module, recipe: Recipe, out_dir: Path, start: Checkpoint | None, console: Console) -> int:
    """Bring the weights to where the first stage that is left begins, and return its number."""
    if start is None:
        return 0
    console.print(f"going on from {start.path}", soft_wrap=True)
    stage = recipe.stages[start.stage]
    is_done = start.step >= stage.max_steps and (stage.held_out is None or is_measured(start))
    first = start.stage + is_done
    if is_done:
        _load_stage(model, recipe, _stage_end(out_dir, recipe, start.stage))
    elif first and recipe.stages[first].loss.needs_reference:  # the reference is the model as this stage found it
        _load_stage(model, recipe, _stage_end(out_dir, recipe, first - 1))
    return first


def _stage_end(out_dir: Path, recipe: Recipe, number: int) -> Checkpoint:
    """Return the checkpoint that the next stage begins with."""
    stage = recipe.stages[number]
    if stage.held_out and stage.held_out.take == "best":
        return best_checkpoint(stage_dir(out_dir, number, stage.name))
    ends = [checkpoint for checkpoint in checkpoints(out_dir) if checkpoint.stage == number]
    if not ends:
        raise ValueError(f"{out_dir}: got no checkpoint of stage {number}, expected its last, for the reference model")
    check_whole(ends[-1].path)
    return ends[-1]


def _load_stage(model: nn.Module, recipe: Recipe, checkpoint: Checkpoint) -> None:
    load_weights(model, recipe.patterns_until(checkpoint.stage), checkpoint.path)


def _save_final(model: Any, processor: Any, recipe: Recipe, out_dir: Path, skipped: int) -> None:
    """Write the model that users load: adapters merged into the weights they adapt, and a card."""
    state = process_state()
    if state.is_main_process:
        model = merged(model, recipe, recipe.patterns_until(len(recipe.stages)))
        lines = [json.loads(line) for line in split_lines((out_dir / METRICS).read_text("utf-8"))]
        with written_beside(out_dir / FINAL, of_run=True) as writing:
            model.eval().save_pretrained(writing)
            processor.save_pretrained(writing)
            write_text(writing / RECIPE, recipe_to_json(recipe))
            scores = read_scores(out_dir / SCORES)
            write_text(writing / CARD, model_card(model, recipe, lines, skipped, scores))
    state.wait_for_everyone()
