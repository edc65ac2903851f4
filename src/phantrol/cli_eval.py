"""The verbs `eval`, `eval compare`, `eval table` and `eval lmms` of the command line. Heavy imports stand inside."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from phantrol.cli_talking import Model, Weights

ResultA = Annotated[Path, typer.Argument(metavar="A", help="a file that `phantrol eval --json` wrote")]
ResultB = Annotated[Path, typer.Argument(metavar="B", help="another one")]


def evaluate(
    model: Model,
    benchmark: Annotated[
        str,
        typer.Argument(
            metavar="BENCHMARK[,...]", help="names from `phantrol list benchmarks`, or .py files, with commas"
        ),
    ],
    options: Annotated[list[str] | None, typer.Argument(metavar="KEY=VALUE", help="e.g. tasks=shape,count")] = None,
    data: Annotated[Path | None, typer.Option(help="the benchmarks' folder of files; of `file` your own file")] = None,
    protocol: Annotated[str | None, typer.Option(help="standard or paper; by default standard")] = None,
    split: Annotated[
        str | None, typer.Option(help="by default the benchmark's own; of primer val, test_comp, test_style ...")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=2, help="questions per task; by default all, of primer 200")] = None,
    seed: Annotated[int, typer.Option(help="of the shuffled images")] = 0,
    batch_size: Annotated[int, typer.Option(min=1, help="questions answered at once")] = 100,
    beams: Annotated[int | None, typer.Option(min=1, help="by default the protocol's, or the model's own")] = None,
    weights: Weights = None,
    json: Annotated[
        Path | None, typer.Option(help="write the scores here, and each answer beside it; goes on after a kill")
    ] = None,
    keep_going: Annotated[
        bool, typer.Option("--keep-going", help="leave out rows that cannot be asked, and list them")
    ] = False,
    check_batch: Annotated[
        int, typer.Option(min=0, help="ask so many questions once more alone, and compare the answers")
    ] = 0,
    judge: Annotated[
        str | None, typer.Option(help="url of an OpenAI-compatible judge, for judged sets; key in OPENAI_API_KEY")
    ] = None,
    judge_model: Annotated[str | None, typer.Option(help="the judge's name at that url")] = None,
) -> None:
    """Score a model beside itself with shuffled images and beside the text-only prior."""
    from phantrol.evals.judging import Judge
    from phantrol.evals.runner import Wanted, run_benchmarks

    if (judge is None) != (judge_model is None):
        raise ValueError("--judge and --judge-model go together: the url of a server, and the model's name there")
    wanted = Wanted(
        split=split,
        limit=limit,
        seed=seed,
        batch_size=batch_size,
        num_beams=beams,
        keep_going=keep_going,
        check_batch=check_batch,
        judge=Judge(judge, judge_model) if judge and judge_model else None,
        weights=weights,
    )
    names = [name for name in benchmark.split(",") if name]
    run_benchmarks(model, names, wanted, data, protocol, json, options or [])


def lmms(
    model: Model,
    tasks: Annotated[str, typer.Argument(metavar="TASKS", help="names of lmms-eval's tasks, with commas")],
    more: Annotated[
        list[str] | None, typer.Argument(metavar="-- ARGS", help="of lmms-eval: -- --include_path FOLDER")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="questions answered at once")] = 16,
) -> None:
    """Run lmms-eval's tasks, judged ones too, on a model; its cache goes by the weights' hash."""
    from phantrol.evals.lmms import run_lmms

    code = run_lmms(model, tasks, batch_size, more or [])
    if code:
        raise typer.Exit(code)


def compare(
    a: ResultA,
    b: ResultB,
    json: Annotated[Path | None, typer.Option(help="write the differences here")] = None,
) -> None:
    """Compare two results row by row: differences with intervals, and a paired test. Exit code 2 if nothing pairs."""
    from rich.console import Console

    from phantrol.evals.compare import compare_files

    comparison = compare_files(a, b)
    Console().print(comparison.table())
    for remark in comparison.remarks:
        typer.echo(remark)
    if json is not None:
        comparison.write(json)
        typer.echo(f"The differences are in {json}.")


def table(
    results: Annotated[list[Path], typer.Argument(metavar="RESULT", help="files that `phantrol eval` wrote")],
    out: Annotated[
        list[Path] | None, typer.Option(help="a .md, .tex or .png file, one or more; by default Markdown to read")
    ] = None,
    published: Annotated[
        bool, typer.Option("--published/--no-published", help="rows of the papers below ours, labelled as published")
    ] = True,
) -> None:
    """Write results as Markdown, as LaTeX, or as a figure (radar and bars), beside what the papers published."""
    from phantrol.evals.figure import check_name, write_table
    from phantrol.evals.tables import collect, to_markdown

    for path in out or []:
        check_name(path)  # of all, before anything is written
    found = collect(results, published)
    for path in out or []:
        write_table(found, path)
        typer.echo(f"The table is {path}")
    if not out:
        typer.echo(to_markdown(found))
