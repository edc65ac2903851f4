"""What a trained run can do: asked in several splits, and written into its folder; goes on if it was stopped.

RUN/scores/val.json ...    scores and card of each split, and every answer beside it
RUN/scores.json            the means of each family of tasks in each split, in three columns
RUN/report.html            what was trained, how it learnt, what it answers, where it looks twice
RUN/final/README.md        the model's card, now with its scores
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from phantrol.ablation.asking import SPLITS, benchmark_for, family_of, primer_sources
from phantrol.evals.report import COLUMNS, Report
from phantrol.evals.runner import Wanted, ask_benchmarks
from phantrol.explain.curves import read_metrics
from phantrol.explain.gallery import choose_gallery
from phantrol.explain.report import write_report
from phantrol.explain.traversal import trace_traversal
from phantrol.inference.engine import Engine
from phantrol.models.conversation import Chat
from phantrol.modifiers.trol import traversing_gates
from phantrol.training.card import FILE as CARD
from phantrol.training.card import SCORES, model_card
from phantrol.training.checkpoint import FINAL, METRICS, RECIPE, replace_text
from phantrol.training.recipe_json import recipe_from_json
from phantrol.training.skipped import FILE as SKIPPED
from phantrol.training.skipped import read_skipped
from phantrol.whole_files import write_text

MAPS = 3
NAMES = {"trol": "TroL", "phantom": "Phantom"}

Means = dict[str, dict[str, float]]  # {family: {"model", "shuffled", "prior": 0 to 1, "n": rows}}


def report_run(
    run_dir: Path, splits: Sequence[str] = SPLITS, limit: int = 200, seed: int = 0, batch_size: int = 100
) -> None:
    """Ask the final model of a run what its recipe taught, and write scores, report and card.

    splits  of Primer; what the first of them shows is in the report in full;  limit  questions per task and split
    Raises ValueError if the run is not finished, or does not train on Primer.
    """
    final = run_dir / FINAL
    if not (final / RECIPE).is_file():
        raise ValueError(f"{run_dir}: got no final model, expected a run that is finished; phantrol train --resume")
    recipe = recipe_from_json((final / RECIPE).read_text("utf-8"))
    if not primer_sources(recipe):
        raise ValueError(
            f"{run_dir}: got a last stage that does not train on Primer, expected one that does, whose questions a "
            f"report asks; ask a benchmark, or one of your own in a file: phantrol eval {shlex.quote(str(final))} "
            "BENCHMARK"
        )
    benchmarks = {split: benchmark_for(recipe, split) for split in splits}
    engine, reports = Engine.open(str(final)), {}
    for split, benchmark in benchmarks.items():
        path, wanted = run_dir / "scores" / f"{split}.json", Wanted(split, limit, seed, batch_size)
        (reports[split],) = ask_benchmarks(engine, [benchmark], wanted, path, replacing=True)
    means = {split: family_means(report) for split, report in reports.items()}
    write_text(run_dir / SCORES, json.dumps(means, indent=1) + "\n")

    metrics = read_metrics(run_dir / METRICS)
    card = model_card(engine.model, recipe, metrics, len(read_skipped(run_dir / SKIPPED)), _in_words(means))
    replace_text(final, CARD, card)
    first = splits[0]
    _write_report(run_dir, engine, benchmarks[first], reports[first], limit, metrics, means)
    console = Console(highlight=False, markup=False, emoji=False)
    console.print(f"The report is {run_dir / 'report.html'}, the model with its card in {final}.", soft_wrap=True)


def family_means(report: Report) -> Means:
    """Return the mean of the tasks of each family, and under "all" that of all tasks.

    The first score of a task counts, which is what is right to the word; captions count by their F1.
    """
    tasks = dict.fromkeys(sample.task for sample in report.samples)
    members: dict[str, list[dict[str, float]]] = {}
    for task in tasks:
        for name in ("all", family_of(task)):
            members.setdefault(name, []).append(report.scores[task])
    return {
        name: {column: sum(row[column] for row in rows) / len(rows) for column in COLUMNS}
        | {"n": sum(row["n"] for row in rows)}
        for name, rows in members.items()
    }


def _in_words(means: dict[str, Means]) -> dict[str, dict[str, str]]:
    def line(row: dict[str, float]) -> str:
        shares = {column: f"{100 * row[column]:.1f}" for column in COLUMNS}
        return f"{shares['model']} % (shuffled {shares['shuffled']}, prior {shares['prior']}, n {row['n']:.0f})"

    return {split: {name: line(row) for name, row in rows.items()} for split, rows in means.items()}


def training_seconds(metrics: Sequence[dict[str, Any]]) -> float:
    """Return the time that the steps took, from the mean of each line of metrics.jsonl; without saving and loading."""
    seconds, before = 0.0, ("", 0)
    for line in metrics:
        if "step_s" in line:
            steps = line["step"] - (before[1] if before[0] == line["stage"] else 0)
            seconds, before = seconds + steps * line["step_s"], (line["stage"], line["step"])
    return seconds


def facts_of(engine: Engine, chats: Sequence[Chat]) -> dict[str, Any]:
    """Return what a report says of any model, as arguments of `write_report`: its grafts, size, device and maps.

    chats  what to draw maps of: there are none if no layer traverses
    """
    model = engine.model
    traverses = traversing_gates(model.get_decoder())
    return {
        "modifiers": [NAMES.get(options["name"], options["name"]) for options in model.config.modifiers],
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "device": _device_in_words(model.device),
        "traversals": [trace_traversal(model, engine.processor, chat) for chat in chats] if traverses else [],
    }


def _device_in_words(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{torch.get_num_threads()} CPU threads" if device.type == "cpu" else device.type


def _write_report(
    run_dir: Path,
    engine: Engine,
    benchmark: Any,
    report: Report,
    limit: int,
    metrics: Sequence[dict[str, Any]],
    means: dict[str, Means],
) -> None:
    rows = benchmark.rows(report.split, limit, report.seed)
    with_picture = [row for row in rows if not isinstance(row.chat[0]["content"], str)][:: max(1, len(rows) // MAPS)]
    others = "; ".join(
        f"{split} {100 * rows['all']['model']:.0f} % (shuffled {100 * rows['all']['shuffled']:.0f}, prior "
        f"{100 * rows['all']['prior']:.0f})"
        for split, rows in means.items()
    )
    write_report(
        run_dir / "report.html",
        title="A small model learned to see",
        recipe=RECIPE,
        seconds=training_seconds(metrics),
        scores=report.scores,
        split=report.split,
        reproduce=f"phantrol report {run_dir}",
        metrics=metrics,
        gallery=choose_gallery(rows, report.samples, per_task=1),
        note=f"Mean of all tasks: {others}.",
        **facts_of(engine, [row.chat for row in with_picture[:MAPS]]),
    )
