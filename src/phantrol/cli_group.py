"""What the verbs of `phantrol`, and those of `phantrol data`, have in common as a group."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from phantrol.version import __version__


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"phantrol {__version__}")
        raise typer.Exit


class Verbs(TyperGroup):
    """A verb may have two words: `eval compare` is one, beside `eval MODEL`. A model's folder of that name is written
    ./compare. The help has the first sentence of each verb, in lines of its own where it is long, and not cut short.
    An option whose value is empty, as of a variable of the shell that is not set, is refused: as a path it would be the
    current folder."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        refuse_empty_options(args)
        name = " ".join(args[:2])
        if len(args) > 1 and name in self.commands:
            return name, self.commands[name], args[2:]
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, verb.get_short_help_str(limit=1000)) for name, verb in self.commands.items()])


def root(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_print_version, help="print the version, and end")
    ] = False,
) -> None:
    """What stands before a verb."""


def refuse_empty_options(args: list[str]) -> None:
    """Raise ValueError if an option comes with an empty text."""
    own = args[: args.index("--")] if "--" in args else args  # what follows may be another program's
    for word, after in pairwise([*own, None]):
        option, equals, value = word.partition("=")
        if option.startswith("--") and (value if equals else after) == "":
            raise ValueError(f"{option}: got an empty word, as of a variable not set; leave it out, or fill it in")


@contextmanager
def row_bar() -> Iterator[Callable[[int, int], None]]:
    """Show a bar that counts rows, and yield what moves it: how many are done, of how many."""
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as progress:
        bar = progress.add_task("rows", total=None)
        yield lambda done, rows: progress.update(bar, completed=done, total=rows)


def print_in_any_encoding() -> None:
    """Show "?" for what the encoding of the standard streams does not have: a bar, an arrow, a name."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors in ("strict", "surrogateescape"):
            stream.reconfigure(errors="replace")
