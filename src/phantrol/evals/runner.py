"""Asks a benchmark's questions three ways: the model, the model with shuffled images, and the text-only prior.

A score means little alone. What shuffled images still earn was not seen; what the prior earns was not even asked.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress

from phantrol.evals.benchmark import Benchmark, Row, question_text
from phantrol.evals.prior import TextPrior, answer_by_halves
from phantrol.evals.report import COLUMNS, Report, Sample
from phantrol.evals.shuffling import shuffle_pictures
from phantrol.find import find, name_of
from phantrol.inference.engine import Engine
from phantrol.training.overrides import override


class AnswersBatches(Protocol):
    """What is asked of an engine; `phantrol.Engine` is one."""

    def answer_batch(self, chats: Sequence[Any], max_new_tokens: int, batch_size: int) -> Sequence[Any]:
        """Return answers with a `.text`, in the order of the chats."""


def evaluate(
    engine: AnswersBatches,
    benchmark: Benchmark,
    split: str = "val",
    limit: int | None = 200,
    seed: int = 0,
    batch_size: int = 100,
    tell: Callable[[int, int], None] | None = None,
) -> Report:
    """Return the report of one benchmark.

    limit  most rows of each task, None for all
    tell   called after each task with (questions answered, questions in all)
    Raises ValueError if the split has no rows, or too few different pictures to shuffle.
    """
    name = name_of("benchmarks", type(benchmark))
    rows = benchmark.rows(split, limit, seed)
    if not rows:
        raise ValueError(f"benchmark {name} has no rows in split {split!r} with limit {limit}")
    shuffled = shuffle_pictures(rows, seed)
    samples: dict[int, Sample] = {}
    for task in dict.fromkeys(row.task for row in rows):
        ours = [index for index, row in enumerate(rows) if row.task == task]
        blind = [index for index in ours if shuffled[index] != rows[index].chat]  # others have nothing to shuffle
        chats = [rows[index].chat for index in ours] + [shuffled[index] for index in blind]
        said = [answer.text for answer in engine.answer_batch(chats, benchmark.tokens_for(task), batch_size)]
        with_own = dict(zip(ours, said[: len(ours)], strict=True))
        with_other = with_own | dict(zip(blind, said[len(ours) :], strict=True))
        for index in ours:
            samples[index] = _sample(rows[index], {"model": with_own[index], "shuffled": with_other[index]})
        if tell is not None:
            tell(len(samples), len(rows))
    priors = _prior_answers(benchmark, rows)
    scored = []
    for index, (row, prior) in enumerate(zip(rows, priors, strict=True)):
        texts = samples[index].texts | {"prior": prior}
        scores = {column: benchmark.scores(row, text) for column, text in texts.items()}
        scored.append(dataclasses.replace(samples[index], texts=texts, scores=scores))
    return Report(name, split, getattr(engine, "name", ""), seed, tuple(scored), _overall(benchmark, rows, scored))


def run_benchmark(
    model: str,
    benchmark: str,
    split: str = "val",
    limit: int | None = 200,
    seed: int = 0,
    batch_size: int = 100,
    json_path: str | Path | None = None,
    options: Sequence[str] = (),
) -> Report:
    """Load a model, evaluate it with a bar on the terminal, print the table, and write the scores if a path is given.

    model    a saved model's folder or a hub id;  benchmark  as for `find("benchmarks", ...)`
    options  of the benchmark, as `tasks=shape,count`
    Raises ValueError for an unknown model, benchmark, split or option.
    """
    asked = override(find("benchmarks", benchmark)(), options)
    engine = Engine.open(model)
    console = Console()
    with Progress(*Progress.get_default_columns(), MofNCompleteColumn(), console=console, transient=True) as bar:
        asking = bar.add_task(f"{benchmark} {split}", total=None)
        report = evaluate(
            engine,
            asked,
            split,
            limit,
            seed,
            batch_size,
            tell=lambda done, total: bar.update(asking, completed=done, total=total),
        )
    console.print(report.table())
    if json_path is not None:
        report.write(json_path)
        console.print(f"The scores are in {json_path}.")
    return report


def _sample(row: Row, texts: dict[str, str]) -> Sample:
    return Sample(row.id, row.task, question_text(row), row.answer, texts, {})


def _overall(benchmark: Benchmark, rows: Sequence[Row], samples: Sequence[Sample]) -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = {}
    for column in COLUMNS:
        scores = benchmark.overall(rows, [sample.texts[column] for sample in samples])
        for name, (score, number) in scores.items():
            found.setdefault(name, {})[column] = score
            found[name]["n"] = number
    return found


def _prior_answers(benchmark: Benchmark, rows: Sequence[Row]) -> Iterable[str]:
    learnt = benchmark.prior_rows()
    if learnt is None:
        return answer_by_halves(rows, benchmark.mask)
    prior = TextPrior(learnt, benchmark.mask)
    return [prior.answer(row) for row in rows]
