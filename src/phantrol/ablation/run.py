"""The experiment: every variant of a recipe under every seed, trained, asked and reported, from wherever it stopped.

OUT/ablation.json           what is asked of it         OUT/costs.json   parameters and FLOPs
OUT/runs/NAME/seed-0/       a run of the trainer; variants whose training is the same share one
OUT/answers/NAME/seed-0/    SPLIT.json, SPLIT.jsonl     OUT/report.md, results.csv, results.json, figures/
"""

from __future__ import annotations

import gc
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

from rich.console import Console
from transformers.utils import logging

from phantrol.ablation.asking import SPLITS, benchmark_for, observe, open_as_asked, recipe_as_asked
from phantrol.ablation.changing import with_seed, with_settled_precision
from phantrol.ablation.costs import CostBook, digest
from phantrol.ablation.report import Setting, print_costs, write_report
from phantrol.ablation.results import Cost, read_results, score_file, write_scores
from phantrol.ablation.starting import started_alike
from phantrol.ablation.variants import PLAIN, Variant, choose_variants
from phantrol.evals.runner import evaluate
from phantrol.training.checkpoint import FINAL
from phantrol.training.faults import RunFault
from phantrol.training.ranks import process_state
from phantrol.training.recipe import Recipe, load_recipe
from phantrol.training.recipe_json import differences, recipe_to_json
from phantrol.training.run import run
from phantrol.whole_files import make_room, write_text

INDEX, COSTS = "ablation.json", "costs.json"
DROPPED = "dropped"  # in the folder of a run whose model is no longer there
COSTED_CHATS = OBSERVED_CHATS = 8


@dataclass(frozen=True)
class Arm:
    """A variant with its recipe, and the name of the variant whose training it shares, often its own."""

    variant: Variant
    recipe: Recipe
    trained_as: str


@dataclass(frozen=True)
class Experiment:
    """What is asked for.

    seeds      how many, from the recipe's own on;  limit  questions of each task, other ones for each seed
    benchmark  None: what the recipe's last stage taught
    """

    name: str
    recipe: Recipe
    arms: tuple[Arm, ...]
    seeds: int
    limit: int
    splits: tuple[str, ...]
    benchmark: str | None


def ablate(
    name: str,
    out: Path,
    wanted: Sequence[str] = (),
    overrides: Sequence[str] = (),
    seeds: int = 3,
    limit: int = 200,
    splits: Sequence[str] = SPLITS,
    benchmark: str | None = None,
    drop_models: bool = False,
    dry_run: bool = False,
    console: Console | None = None,
) -> None:
    """Run the experiment into a folder, or go on with what is there, and print what it found.

    wanted       names of variants, of groups, or files with VARIANTS; none: all
    drop_models  remove each model when its questions have been asked
    dry_run      print what would be trained and what it costs, and write nothing

    Raises ValueError for an unknown name, a variant that does not fit the recipe, naming it, a folder that cannot be
    made or was begun with another experiment, a model that was dropped and is to be asked again (before anything is
    trained), and for what stops a run, naming variant and seed. Stopped by SIGTERM while training it raises
    SystemExit(143), and goes on from there next time.
    """
    console = console or Console(highlight=False, markup=False, emoji=False)
    recipe = with_settled_precision(load_recipe(name, overrides), process_state().device)
    variants = choose_variants(wanted)
    for split in splits:
        benchmark_for(recipe, split, benchmark).rows(split, 2)  # a split that there is not shows itself here
    begun = {} if dry_run else _read_index(out, recipe, limit, benchmark)
    book = CostBook(None if dry_run else out / COSTS)
    logging.disable_progress_bar()  # one for each time that a pretrained decoder is loaded
    console.print(f"Counting what {len(variants)} variants cost; a large model takes minutes.", soft_wrap=True)
    arms = plan(recipe, variants, book, begun.get("variants", {}))
    experiment = Experiment(name, recipe, arms, seeds, limit, tuple(dict.fromkeys(splits)), benchmark)
    if not dry_run:
        make_room(out / INDEX)
        for seed, arm in product(range(experiment.seeds), arms):
            _left(experiment, arm, seed, out)  # a model that is missed shows itself here
    costs = _costs(experiment, book)
    print_costs(experiment.arms, costs, console)
    if dry_run:
        return
    _write_index(out, experiment, begun)
    for seed in range(experiment.seeds):
        for arm in experiment.arms:
            if _do(experiment, arm, seed, out, console):
                _report(experiment, costs, out, None)
        if drop_models:
            _drop_models(experiment, seed, out)
    _report(experiment, costs, out, console)
    console.print(f"The report is {out / 'report.md'}, with its figures in {out / 'figures'}.", soft_wrap=True)


def plan(
    recipe: Recipe,
    variants: Sequence[Variant],
    book: CostBook | None = None,
    begun: Mapping[str, Mapping[str, Any]] | None = None,
) -> tuple[Arm, ...]:
    """Return an arm for each variant: its recipe, starting as the plain one does.

    begun  {variant: {"trained_as", "recipe_digest", "asked_tokens", "asked_without_phantom"}} of an experiment that
           goes on; how it is asked is not in those of older versions, and is taken to be the same
    Raises ValueError as variants do, and for a variant that was another one when the experiment began.
    """
    book, begun, arms, plain = book or CostBook(), begun or {}, [], PLAIN(recipe)
    first = {entry["recipe_digest"]: entry["trained_as"] for entry in begun.values()}
    for variant in variants:
        with _naming(variant):
            changed = started_alike(variant(recipe, book.training_flops), plain)
        now, then = {"recipe_digest": digest(changed), **_asked(variant)}, begun.get(variant.name, {})
        if any(then.get(key, value) != value for key, value in now.items()):
            raise ValueError(f"variant {variant.name} was another one when this folder was begun; give it a new name")
        arms.append(Arm(variant, changed, first.setdefault(digest(changed), variant.name)))
    return tuple(arms)


def _asked(variant: Variant) -> dict[str, Any]:
    """What else than its recipe decides what a variant scores."""
    return {"asked_tokens": variant.asked_tokens, "asked_without_phantom": variant.asked_without_phantom}


def _do(experiment: Experiment, arm: Arm, seed: int, out: Path, console: Console) -> bool:
    """Train and ask one arm under one seed, as far as that is not done yet. Return whether there was anything to do."""
    left = _left(experiment, arm, seed, out)
    if not left:
        return False
    number, folder = experiment.recipe.seed + seed, _run_folder(experiment, arm, seed, out)
    console.rule(f"{arm.variant.name}, seed {number}")
    try:
        final = run(with_seed(arm.recipe, seed), folder, resume=True)
    except SystemExit:
        console.print("The same command, as it was typed, goes on with the experiment from there.", soft_wrap=True)
        raise
    except ValueError as error:
        reason = error.reason if isinstance(error, RunFault) else error  # without the remedy, which is --resume
        raise ValueError(
            f"variant {arm.variant.name}, seed {number}: {reason}; leave the variant out, or mend it under a new name, "
            "or mend what else is wrong and type the same command again"
        ) from error
    shutil.rmtree(folder / "stages", ignore_errors=True)  # what it went on from; the model is whole
    engine = open_as_asked(final, arm.variant)
    for split, file in left.items():
        asked = benchmark_for(experiment.recipe, split, experiment.benchmark)
        report = evaluate(engine, asked, split, experiment.limit, seed=number)
        chats = [row.chat for row in asked.rows(split, 2, number)][:OBSERVED_CHATS]
        write_scores(report, file, observe(engine, chats))
        asked_tasks = dict.fromkeys(sample.task for sample in report.samples)
        mean = sum(report.scores[task]["model"] for task in asked_tasks) / len(asked_tasks)
        console.print(f"{split}: {100 * mean:.1f} %")
    del engine
    gc.collect()
    return True


def _left(experiment: Experiment, arm: Arm, seed: int, out: Path) -> dict[str, Path]:
    """Return the splits that an arm has not been asked under a seed, each with the file of its scores.

    Raises ValueError if there are some and the model was dropped.
    """
    number = experiment.recipe.seed + seed
    files = {split: score_file(out, arm.variant.name, number, split) for split in experiment.splits}
    left = {split: file for split, file in files.items() if not file.is_file()}
    folder = _run_folder(experiment, arm, seed, out)
    if left and (folder / DROPPED).is_file():
        raise ValueError(
            f"the model of {folder} was dropped when its questions had been asked: remove that folder to train it "
            f"again for {arm.variant.name}, {', '.join(left)}"
        )
    return left


def _run_folder(experiment: Experiment, arm: Arm, seed: int, out: Path) -> Path:
    return out / "runs" / arm.trained_as / f"seed-{experiment.recipe.seed + seed}"


def _costs(experiment: Experiment, book: CostBook) -> dict[str, Cost]:
    split = experiment.splits[0]
    rows = benchmark_for(experiment.recipe, split, experiment.benchmark).rows(split, 2)
    chats = list({row.task: row.chat for row in rows}.values())[:COSTED_CHATS]
    costs = {}
    for arm in experiment.arms:
        trained = _bare(arm)
        asked = recipe_as_asked(trained, arm.variant)
        with _naming(arm.variant):
            answering = book.answering_costs(asked, chats)
            costs[arm.variant.name] = Cost(training_flops=book.training_flops(trained), **answering)
    return costs


@contextmanager
def _naming(variant: Variant) -> Iterator[None]:
    """Put the variant's name before what is said of it."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"variant {variant.name}: {error}") from error


def _bare(arm: Arm) -> Recipe:
    """The recipe of an arm without the twin it starts as, which costs nothing once training has begun."""
    return replace(arm.recipe, model=arm.recipe.model.model)


def _report(experiment: Experiment, costs: dict[str, Cost], out: Path, console: Console | None) -> None:
    numbers = [experiment.recipe.seed + seed for seed in range(experiment.seeds)]
    variants = [arm.variant for arm in experiment.arms]
    results = read_results(out, variants, costs, numbers, experiment.splits)
    shared = {arm.variant.name: arm.trained_as for arm in experiment.arms if arm.trained_as != arm.variant.name}
    setting = Setting(experiment.name, experiment.recipe, experiment.seeds, experiment.limit, shared)
    write_report(results, setting, out, console)


def _drop_models(experiment: Experiment, seed: int, out: Path) -> None:
    for arm in experiment.arms:
        folder = _run_folder(experiment, arm, seed, out)
        if (folder / FINAL).is_dir():
            (folder / DROPPED).touch()
            shutil.rmtree(folder / FINAL)


def _read_index(out: Path, recipe: Recipe, limit: int, benchmark: str | None) -> dict[str, Any]:
    """Return the index of an experiment that goes on, {} for a new one. Raises ValueError if it is another one."""
    if not (out / INDEX).is_file():
        own = {COSTS, f".{COSTS}.writing", f".{INDEX}.writing"}  # a kill leaves what was being written
        if out.exists() and (not out.is_dir() or {path.name for path in out.iterdir()} - own):
            raise ValueError(
                f"{out}: got a folder in use, expected a new one or one that `phantrol ablate` began; choose another"
            )
        return {}
    begun = json.loads((out / INDEX).read_text("utf-8"))
    found = differences(recipe_to_json(recipe), json.dumps(begun["recipe"]))
    for key, value in {"limit": limit, "benchmark": benchmark}.items():
        if begun[key] != value:
            found.append(f"{key}: {value}, not {begun[key]}")
    if found:
        raise ValueError(f"{out} was begun otherwise: got {found[0]}; choose another folder, or go on as it was begun")
    return begun


def _write_index(out: Path, experiment: Experiment, begun: Mapping[str, Any]) -> None:
    """Note what is asked for, beside what was before: variants, seeds and splits may be added to a folder."""
    arms = {
        arm.variant.name: {
            "what": arm.variant.what,
            "trained_as": arm.trained_as,
            "recipe_digest": digest(arm.recipe),
            **_asked(arm.variant),
        }
        for arm in experiment.arms
    }
    index = {
        "name": experiment.name,
        "limit": experiment.limit,
        "benchmark": experiment.benchmark,
        "seeds": max(experiment.seeds, begun.get("seeds", 0)),
        "splits": list(dict.fromkeys([*begun.get("splits", ()), *experiment.splits])),
        "variants": {**begun.get("variants", {}), **arms},
        "recipe": json.loads(recipe_to_json(experiment.recipe)),
    }
    write_text(out / INDEX, json.dumps(index, indent=1, ensure_ascii=False) + "\n")
