"""The demo: the recipe `primer_tiny` through training, evaluation, a question and a report: the pipeline in small."""

from __future__ import annotations

import shlex
import time
from collections.abc import Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.text import Text

from phantrol.ablation.asking import benchmark_for
from phantrol.data.messages import Message
from phantrol.evals.benchmark import Benchmark
from phantrol.evals.report import Report
from phantrol.evals.runner import evaluate
from phantrol.explain.gallery import choose_gallery
from phantrol.explain.report import write_report
from phantrol.explain.traversal import Traversal
from phantrol.inference.engine import Engine
from phantrol.reporting import facts_of
from phantrol.training.checkpoint import METRICS
from phantrol.training.recipe import Recipe, load_recipe
from phantrol.training.run import run

RECIPE, SPLIT = "primer_tiny", "val"
MOST_THREADS = 4  # a model this small gets slower with more
LOOKS_TWICE = 0.1  # the ratio above which a token is counted as traversed
NEW_PICTURE = 990_000  # far from what the evaluation draws


def run_demo(out: Path | None, overrides: Sequence[str], limit: int, seed: int) -> None:
    """Train, evaluate, ask and report into a new folder.

    out  the folder, or None for the first free one of runs/demo, runs/demo-2, ...
    Raises ValueError if the folder is in use, or an override does not fit the recipe.
    """
    console = Console(highlight=False, markup=False, emoji=False)
    torch.set_num_threads(min(torch.get_num_threads(), MOST_THREADS))
    out = out or _free_folder()
    recipe = load_recipe(RECIPE, [f"seed={seed}", *overrides])

    console.print(_introduction(recipe))
    began = time.monotonic()
    final = run(recipe, out)
    seconds = time.monotonic() - began

    engine, benchmark = Engine.open(final), benchmark_for(recipe, SPLIT)
    report = evaluate(engine, benchmark, SPLIT, limit, seed)
    report.write(out / "scores.json")
    report.write_samples(out / "samples.jsonl")
    console.print(report.table())

    _ask(engine, recipe, out, console)
    _write_report(out, recipe, engine, benchmark, report, limit, seconds)
    console.print(_farewell(out, final), soft_wrap=True)


def _introduction(recipe: Recipe) -> str:
    stages = ", ".join(
        f"{stage.name} ({type(stage.loss).__name__}, {stage.max_steps} steps)" for stage in recipe.stages
    )
    return f"A small model that has never seen anything learns to see, on pictures drawn as it goes.\nStages: {stages}"


def _new_pictures(recipe: Recipe, number: int) -> list[Any]:
    """Questions about pictures that neither training nor evaluation drew, each with its answer."""
    _, most = max(recipe.stages[-1].data.parts, key=lambda part: part[0])
    source = replace(most, split=SPLIT, captions=False, start=NEW_PICTURE)
    groups = [source[index] for index in range(number)]
    return [max(group, key=lambda example: len(example.messages[0].text)) for group in groups]


def _ask(engine: Engine, recipe: Recipe, out: Path, console: Console) -> None:
    example = _new_pictures(recipe, 1)[0]
    question, answer = example.messages
    question.pictures[0].save(out / "picture.png")
    said = engine.answer([question.as_chat()]).text
    console.print(f"\nA new picture, {out / 'picture.png'}. {question.text}", soft_wrap=True)
    console.print(Text.assemble("  the model says: ", (said, "bold"), f"   (the truth: {answer.text})"))


def _write_report(
    out: Path, recipe: Recipe, engine: Engine, benchmark: Benchmark, report: Report, limit: int, seconds: float
) -> None:
    asked: list[Message] = [example.messages[0] for example in _new_pictures(recipe, 4)[1:]]
    facts = facts_of(engine, [[message.as_chat()] for message in asked])
    write_report(
        out / "report.html",
        title="A small model learns to see",
        recipe=RECIPE,
        seconds=seconds,
        scores=report.scores,
        split=SPLIT,
        reproduce="make demo",
        metrics=out / METRICS,
        gallery=choose_gallery(benchmark.rows(SPLIT, limit, report.seed), report.samples),
        note=_on_traversal(facts["traversals"]),
        **facts,
    )


def _on_traversal(traversals: Sequence[Traversal]) -> str:
    """Say in words what the maps show: a gate that is shut is a finding too. Without maps there is nothing to say."""
    if not traversals:
        return ""
    ratios = torch.cat([traversal.ratios.flatten() for traversal in traversals])
    looking = int((ratios > LOOKS_TWICE).sum())
    return (
        f"In the maps below {looking} of {len(ratios)} tokens look twice (w over {LOOKS_TWICE}); the largest w is "
        f"{float(ratios.max()):.2f}."
    )


def _farewell(out: Path, final: Path) -> str:
    model, picture = (shlex.quote(str(path)) for path in (final, out / "picture.png"))
    describe, train = f"phantrol describe {model}", f"phantrol train {RECIPE} --dry-run"
    width = max(len(describe), len(train)) + 2
    return (
        f"\nThe report is {out / 'report.html'}: open it in a browser. Next, type\n"
        f'  phantrol ask {model} {picture} "What do you see in the image?"\n'
        f"  phantrol eval {model} primer --split test_comp\n"
        f"  {describe:{width}}# what it is made of\n"
        f"  {train:{width}}# how it was trained"
    )


def _free_folder() -> Path:
    names = (Path("runs") / (f"demo-{number}" if number > 1 else "demo") for number in count(1))
    return next(folder for folder in names if not folder.exists())
