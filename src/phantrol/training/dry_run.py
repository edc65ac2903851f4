"""Show what a recipe would do, and take one step of each stage on made-up data. Nothing is written."""

from __future__ import annotations

import tempfile
import time
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.table import Table
from torch import nn

from phantrol.data.mixture import Mixture
from phantrol.data.rows.opening import find_files
from phantrol.data.sources.file import FileSource
from phantrol.tables import number_table
from phantrol.training.first_rows import check_source
from phantrol.training.ranks import check_ranks, process_state
from phantrol.training.recipe import Recipe, Stage
from phantrol.training.recipe_json import recipe_to_json
from phantrol.training.run import build_model, check_reports
from phantrol.training.stand_in import MadeUp, stand_in
from phantrol.training.trainable import trainable_table
from phantrol.training.trainer import StageTrainer


def dry_run(recipe: Recipe, console: Console | None = None) -> None:
    """Print the recipe with all its defaults, what each stage trains, and the loss and time of one step.

    Parts that would have to be downloaded are stood in for by small ones of the same kind, and that is said.

    Raises ValueError as `run` would before and in its first step. Of the data, a few rows of each source of files to
    train on are looked at; none of those held out, and none where parts are stood in for: files may be elsewhere too.
    """
    check_ranks(recipe, process_state().num_processes)
    check_reports(recipe)
    console = console or Console()
    console.print_json(recipe_to_json(recipe))
    if missing := _missing_data(recipe):
        console.print(f"no data there yet: {', '.join(missing)}", soft_wrap=True, markup=False)
    if small := stand_in(recipe):
        parts = f"{recipe.model.text.hub_id} and {recipe.model.vision.hub_id}"
        said = f"not downloaded for this: {parts}; counts and steps below are those of a small stand-in"
        console.print(said, soft_wrap=True, markup=False)
        recipe = small
    else:
        _read_rows_of_each_source(recipe)
    model, processor = build_model(recipe)
    with tempfile.TemporaryDirectory() as folder:  # Trainer wants one; features of what is made up alone are put there
        stages = tuple(_made_up(stage, Path(folder) / "features") for stage in recipe.stages)
        trial = replace(recipe, stages=stages, log_every_steps=1, report_to=(), workers=0, sharding="none")
        for number, stage in enumerate(recipe.stages):
            trainer = StageTrainer(model, processor, trial, number, Path(folder))
            trainer.args.save_strategy = "no"
            console.print(_table(stage.name, model))
            began_s = time.monotonic()
            trainer.train()
            loss = trainer.state.log_history[0]["loss"]
            console.print(f"one step on made-up data: loss {loss:.3f}, {time.monotonic() - began_s:.1f} s")


def _made_up(stage: Stage, features: Path) -> Stage:
    """Return a stage of one step that neither reads data nor writes where the recipe says."""
    return replace(
        stage,
        data=Mixture(((1.0, MadeUp()),)),
        held_out=None,
        max_steps=1,
        warmup_steps=0,
        feature_cache=str(features) if stage.feature_cache else None,
    )


def _read_rows_of_each_source(recipe: Recipe) -> None:
    for stage in recipe.stages:
        for number, (_, source) in enumerate(stage.data.parts):
            if isinstance(source, FileSource):
                check_source(replace(source, together=1), number, recipe.seed)


def _missing_data(recipe: Recipe) -> list[str]:
    """Return the paths of sources, held-out ones among them, at which there is no file, each once."""
    paths: dict[str, None] = {}
    mixtures = [part.data for stage in recipe.stages for part in (stage, stage.held_out) if part]
    for source in (source for mixture in mixtures for _, source in mixture.parts):
        if isinstance(source, FileSource):
            try:
                find_files(source.path)
            except ValueError:
                paths[str(source.path)] = None
    return list(paths)


def _table(stage: str, model: nn.Module) -> Table:
    table = number_table("part", "parameters", "trained", title=f"stage {stage}")
    for row in trainable_table(model):
        table.add_row(row.part, f"{row.parameters:,}", f"{row.trained:,}")
    return table
