"""Benchmarks from a model's name to a table and a file: what `phantrol eval` does."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import MofNCompleteColumn, Progress

from phantrol.evals.asking import AnswersEach, Tell, ask
from phantrol.evals.benchmark import Benchmark
from phantrol.evals.card import check_replaceable, describe_speaker, make_card, options_of
from phantrol.evals.evaluation import Evaluation, evaluate_rows, question_of
from phantrol.evals.journal import Journal
from phantrol.evals.judging import Judge, judge_answers
from phantrol.evals.report import Report, write_reports
from phantrol.find import find, name_of, short_name
from phantrol.inference.engine import Engine
from phantrol.training.overrides import override
from phantrol.whole_files import make_room

OTHER_BATCH = 16  # what --check-batch compares a batch size of 1 with
SHOWN = 3  # differing answers, or missing rows, that are shown


@dataclasses.dataclass(frozen=True)
class Wanted:
    """What is to be asked, and how.

    split, limit  None: the benchmark's own;  seed  of shuffled images, and of Primer's pictures
    num_beams     None: as the benchmark's protocol has it, else the model's own
    keep_going    rows that cannot be asked are left out and listed
    check_batch   so many questions are asked once more alone, and the texts compared; 0 for none
    judge         of judged benchmarks; None: their answers are written for the official graders alone
    weights       "int8", "float32" ..., as for `Engine.open`
    """

    split: str | None = None
    limit: int | None = None
    seed: int = 0
    batch_size: int = 100
    num_beams: int | None = None
    keep_going: bool = False
    check_batch: int = 0
    judge: Judge | None = None
    weights: str | None = None


def evaluate(
    engine: AnswersEach,
    benchmark: Benchmark,
    split: str | None = None,
    limit: int | None = 200,
    seed: int = 0,
    batch_size: int = 100,
    tell: Tell | None = None,
) -> Report:
    """Return the report of one benchmark; nothing is written.

    split  None for the benchmark's own
    limit  most rows of each task, None for all
    tell   called as answers come with (questions answered, questions in all), those with shuffled images included
    Raises ValueError if the split has no rows, too few different pictures to shuffle, or a row that cannot be asked.
    """
    split = benchmark.default_split if split is None else split
    return evaluate_rows(engine, benchmark, split, limit, seed, batch_size, tell).report


def run_benchmarks(
    model: str,
    names: Sequence[str],
    wanted: Wanted,
    data: Path | None = None,
    protocol: str | None = None,
    json_path: str | Path | None = None,
    options: Sequence[str] = (),
) -> list[Report]:
    """Load a model, and ask it the benchmarks of these names.

    model    a saved model's folder or a hub id;  names  as for `find("benchmarks", ...)`
    data     the folder with the files of those benchmarks that read any;  protocol  "paper" or "standard"
    options  of the benchmarks, as `tasks=shape,count`
    Raises ValueError for an unknown model, benchmark or option, a `json_path` that cannot be written, and as
    `ask_benchmarks`.
    """
    if not names:
        raise ValueError("no benchmark is named: expected one or more, as in `primer` or `pope,chartqa`")
    benchmarks = [open_benchmark(name, data, protocol, options) for name in names]
    if data is not None and not any("data" in _fields_of(benchmark) for benchmark in benchmarks):
        raise ValueError(f"benchmark {', '.join(names)} needs no data: leave out --data")
    of_one_protocol = [name for name, each in zip(names, benchmarks, strict=True) if "protocol" not in _fields_of(each)]
    if protocol is not None and len(of_one_protocol) == len(names):
        raise ValueError(f"benchmark {', '.join(names)} has but one protocol: leave out --protocol")
    path = None if json_path is None else Path(json_path)
    if path is not None:
        make_room(path)
    if protocol is not None and of_one_protocol:
        told = f"Of but one protocol, and asked without --protocol {protocol}: {', '.join(of_one_protocol)}."
        _console().print(told, soft_wrap=True)
    return ask_benchmarks(Engine.open(model, wanted.weights), benchmarks, wanted, path)


def ask_benchmarks(
    engine: Engine, benchmarks: Sequence[Benchmark], wanted: Wanted, path: Path | None = None, replacing: bool = False
) -> list[Report]:
    """Evaluate a model with a bar on the terminal, print the tables, and write results if a path is given.

    path       every answer is kept beside it as it comes; the same call goes on after a kill
    replacing  results of other questions that `path` holds may be lost
    Raises ValueError for an unknown split, files that are missing or broken, answers beside `path` that another model
    gave, and a `path` that holds anything else than results of the same benchmarks, splits, seeds and options. Raises
    it too, with all results written (with `path`), if a judge could judge no answer of a benchmark.
    """
    console, reports = _console(), []
    benchmarks = [benchmark.for_engine(engine) for benchmark in benchmarks]
    if path is not None and not replacing:
        check_replaceable(path, [_asked(benchmark, wanted) for benchmark in benchmarks])
    for benchmark in benchmarks:
        report = _run(engine, benchmark, wanted, path, console)
        reports.append(report)
        if path is not None:
            write_reports(path, reports)
        console.print(report.table())
        _say_what_is_missing(report, console)
    if path is not None:
        console.print(f"The scores are in {path}.", soft_wrap=True)
    _check_judgements(reports, path)
    return reports


def _console() -> Console:
    return Console(markup=False, emoji=False)  # names of files may have what else would be markup


def open_benchmark(name: str, data: Path | None, protocol: str | None, options: Sequence[str] = ()) -> Benchmark:
    """Return a benchmark with its options, with `data` if it reads files, and with the protocol if it has several.

    Raises ValueError for one that does not take an option.
    """
    made = find("benchmarks", name)
    fields = _fields_of(made)
    benchmark = made(data=data) if data is not None and "data" in fields else made()
    chosen = [f"protocol={protocol}"] if protocol is not None and "protocol" in fields else []
    return override(benchmark, [*chosen, *options])


def _fields_of(benchmark: Any) -> set[str]:
    return {field.name for field in dataclasses.fields(benchmark)} if dataclasses.is_dataclass(benchmark) else set()


def _split_of(benchmark: Benchmark, wanted: Wanted) -> str:
    return benchmark.default_split if wanted.split is None else wanted.split


def _asked(benchmark: Benchmark, wanted: Wanted) -> dict[str, Any]:
    name, split = name_of("benchmarks", type(benchmark)), _split_of(benchmark, wanted)
    return {"benchmark": name, "split": split, "seed": wanted.seed, "options": options_of(benchmark)}


def _run(engine: Engine, benchmark: Benchmark, wanted: Wanted, path: Path | None, console: Console) -> Report:
    beams = {} if wanted.num_beams is None else {"num_beams": wanted.num_beams}
    options = benchmark.generation_options() | beams
    speaker = describe_speaker(engine, options)
    name = short_name(name_of("benchmarks", type(benchmark)))
    split = _split_of(benchmark, wanted)
    limit = wanted.limit or benchmark.default_limit
    how = {"benchmark": name, "protocol": getattr(benchmark, "protocol", None)}
    kept = nullcontext() if path is None else Journal(beside(path, name, "answers.jsonl"), speaker | how)
    columns = *Progress.get_default_columns(), MofNCompleteColumn()
    with kept as journal, Progress(*columns, console=console, transient=True) as bar:
        asking = bar.add_task(escape(f"{name} {split}"), total=None)
        found = evaluate_rows(
            engine,
            benchmark,
            split,
            limit,
            wanted.seed,
            wanted.batch_size,
            lambda done, total: bar.update(asking, completed=done, total=total),
            journal,
            options,
            wanted.keep_going,
        )
    sizes: int | list[int] = wanted.batch_size
    if journal is not None and journal.batch_sizes != [wanted.batch_size]:
        sizes = journal.batch_sizes
    judge = None
    if benchmark.judged:
        found, judge = _graded(found, wanted.judge, path, name, console)
    check = _check_batch(engine, found, wanted, options, console) if wanted.check_batch else None
    card = make_card(engine, speaker, found.benchmark, found.rows, found.report, sizes, limit, check, judge)
    return dataclasses.replace(found.report, card=card)


def beside(path: Path, name: str, ending: str) -> Path:
    """Return the file for what belongs to one benchmark of the results in `path`: scores.pope.answers.jsonl."""
    return path.with_name(f"{path.stem}.{name}.{ending}")


def _graded(
    found: Evaluation, judge: Judge | None, path: Path | None, name: str, console: Console
) -> tuple[Evaluation, dict[str, Any] | None]:
    """Write the answers for the official graders, and let a judge score them if there is one."""
    if path is not None:
        texts = [sample.texts["model"] for sample in found.report.samples]
        official = beside(path, name, f"official{found.benchmark.official_ending}")
        found.benchmark.write_official(found.rows, texts, found.report.model, official)
        console.print(f"The answers as the official graders read them are in {official}.", soft_wrap=True)
    if judge is None:
        console.print(f"{name} is judged, and no judge was named: its answers have no score. See --judge.")
        return found, None
    kept = None if path is None else beside(path, name, "judgements.jsonl")
    return judge_answers(found, judge, kept)


def _check_judgements(reports: Sequence[Report], path: Path | None) -> None:
    """Raise ValueError if a judge was named and there is a benchmark of which it judged nothing."""
    failed = [report for report in reports if report.card.judge and not report.samples]
    if failed:
        which = ", ".join(report.benchmark for report in failed)
        judge, reason = failed[0].card.judge["model"], failed[0].missing[-1].reason
        remedy = "the same command asks the judge alone" if path else "with --json the answers would have been kept"
        raise ValueError(f"{which}: no answer could be judged by {judge}: {reason}; mend that; {remedy}")


def _check_batch(
    engine: Engine, found: Evaluation, wanted: Wanted, options: Mapping[str, Any], console: Console
) -> dict[str, Any]:
    """Ask some of the questions again in another batch size, and say how many answers differ."""
    samples, other = found.report.samples, OTHER_BATCH if wanted.batch_size == 1 else 1
    step = max(1, len(samples) // wanted.check_batch)
    chosen = list(range(0, len(samples), step))[: wanted.check_batch]
    questions = [question_of(found.benchmark, found.rows[i], found.rows[i].chat) for i in chosen]
    with found.benchmark.session(engine):
        said = ask(engine, questions, other, options=options)
    apart = [
        i for i, question in zip(chosen, questions, strict=True) if said[question.key] != samples[i].texts["model"]
    ]
    told = f"{len(chosen)} questions asked again with batch size {other}: {len(apart)} answers differ."
    console.print(f"{found.report.benchmark}: {told}", soft_wrap=True)
    for i in apart[:SHOWN]:
        again = said[questions[chosen.index(i)].key]
        console.print(f"  {samples[i].id}: {samples[i].texts['model']!r}, and now {again!r}", soft_wrap=True)
    return {"batch_size": other, "rows": len(chosen), "different": len(apart)}


def _say_what_is_missing(report: Report, console: Console) -> None:
    for row in report.missing[:SHOWN]:
        console.print(f"missing: {row.id} ({row.task}): {row.reason}", soft_wrap=True)
    if len(report.missing) > SHOWN:
        console.print(f"missing: {len(report.missing) - SHOWN} more")
