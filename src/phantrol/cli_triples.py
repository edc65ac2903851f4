"""The verb `phantrol data triples`: wrong answers for data of one's own."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from phantrol.cli_group import row_bar

if TYPE_CHECKING:
    from phantrol.data.triples.making import Tally


def data_triples(
    files: Annotated[list[str], typer.Argument(metavar="FILE", help="files, folders or patterns of your own data")],
    out: Annotated[Path, typer.Option(help="the triples, a .parquet or .jsonl file")],
    rules: Annotated[bool, typer.Option("--rules", help="make them by rules, and ask nobody")] = False,
    url: Annotated[str | None, typer.Option(help="who writes answers, e.g. http://127.0.0.1:8000/v1")] = None,
    model: Annotated[str | None, typer.Option(help="its name there")] = None,
    judge_url: Annotated[str | None, typer.Option(help="who judges them; by default the same address")] = None,
    judge_model: Annotated[str | None, typer.Option(help="its name there; by default the same model")] = None,
    images: Annotated[Path | None, typer.Option(help="where paths of images start; by default beside the file")] = None,
    field: Annotated[list[str] | None, typer.Option(help="a name of your own, e.g. question=frage")] = None,
    kind: Annotated[list[str] | None, typer.Option(help="incorrect, ambiguous; by default both")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="the first so many rows")] = None,
    per_minute: Annotated[float | None, typer.Option(help="most requests a minute to each address")] = None,
    parallel: Annotated[int, typer.Option(min=1, help="rows that are asked about at once")] = 4,
    attempts: Annotated[int, typer.Option(min=1, help="answers to ask for until one is good")] = 2,
    retries: Annotated[int, typer.Option(min=0, help="of one request, when busy or out of reach")] = 5,
    timeout: Annotated[float, typer.Option(help="of one request, in seconds")] = 60.0,
    max_tokens: Annotated[int, typer.Option(min=1, help="longest answer to ask for, in tokens")] = 256,
    price_in: Annotated[float, typer.Option(min=0, help="of a million tokens read")] = 0.0,
    price_out: Annotated[float, typer.Option(min=0, help="of a million tokens written")] = 0.0,
    judge_price_in: Annotated[float | None, typer.Option(min=0, help="of the judge; by default the same")] = None,
    judge_price_out: Annotated[float | None, typer.Option(min=0, help="of the judge; by default the same")] = None,
    temperature: Annotated[float, typer.Option(min=0, help="of the writer; the judge has 0")] = 0.7,
    seed: Annotated[int, typer.Option(help="of the rules")] = 0,
) -> None:
    """Make wrong answers for Phantom Optimization: a model writes, another judges; or by rules. Goes on if stopped.

    Keys are read from OPENAI_API_KEY and JUDGE_API_KEY. Exit code 1 if a row failed.
    """
    from phantrol.data.layouts import names_of_own
    from phantrol.data.triples.endpoint import Endpoint
    from phantrol.data.triples.making import failed_path, make_by_asking, make_by_rules
    from phantrol.data.triples.reading import OwnRows

    if rules == (url is not None):
        raise ValueError("expected either --url and --model of who writes the answers, or --rules")
    if url is not None and model is None:
        raise ValueError("--url: who is to be asked there? expected --model, its name")
    rows = OwnRows(files, images, names_of_own(field or ()), limit)
    kinds = tuple(name for names in kind or ["incorrect,ambiguous"] for name in names.split(","))
    with row_bar() as tell:
        if rules:
            tally = make_by_rules(rows, out, kinds, seed, tell)
        else:
            common = dict(per_minute=per_minute, retries=retries, timeout_s=timeout)
            options = common | dict(max_tokens=max_tokens)
            asking = Endpoint(url, model, price_in=price_in, price_out=price_out, temperature=temperature, **options)
            judging = Endpoint(
                judge_url or url,
                judge_model or model,
                # never the key of one house to another
                key_names=("JUDGE_API_KEY",) if judge_url not in (None, url) else ("JUDGE_API_KEY", "OPENAI_API_KEY"),
                price_in=price_in if judge_price_in is None else judge_price_in,
                price_out=price_out if judge_price_out is None else judge_price_out,
                max_tokens=16,
                **common,
            )
            tally = make_by_asking(rows, out, asking, judging, kinds, attempts, parallel, tell)
    _say(tally, kinds)
    if tally.failed:
        typer.echo(f"{len(tally.failed)} rows failed: {failed_path(out)}; run it again to try them once more", err=True)
    made = sum(tally.accepted.values())
    command = f"phantrol data check {shlex.quote(str(out))}"
    typer.echo(f"The {made:,} triples are in {out}. Next: {command}" if made else "No triple was made.")
    if tally.failed or not made:
        raise typer.Exit(1)


def _say(tally: Tally, kinds: tuple[str, ...]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("rejected_type", "accepted", "of all written", "not accepted because")
    for kind in kinds:
        reasons = [f"{reason} {count:,}" for (each, reason), count in sorted(tally.refused.items()) if each == kind]
        table.add_row(kind, f"{tally.accepted[kind]:,}", f"{tally.rate(kind):.1%}", ", ".join(reasons))
    console = Console(markup=False, emoji=False)
    console.print(table)
    for role, used in tally.usage.items():
        lacks = f"; {used.uncounted:,} answers came without usage, so the cost is a lower bound"
        console.print(
            f"{role}: {used.requests:,} requests, {used.tokens_in:,} tokens in, {used.tokens_out:,} out, "
            f"cost {used.cost:.4f}" + (lacks if used.uncounted else ""),
            soft_wrap=True,
        )
    if tally.usage:
        console.print(f"of these {tally.asked_now:,} were asked now, {tally.retried:,} of them again after a refusal")
