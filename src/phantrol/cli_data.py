"""The verbs of `phantrol data`: pictures that Primer draws, shown and written out; files of one's own, checked."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Annotated, Any

import typer

from phantrol.cli_group import Verbs, row_bar

data_app = typer.Typer(
    name="data",
    cls=Verbs,
    help="Look at the pictures that Primer draws, and write them out; check files of one's own.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

Families = Annotated[list[str] | None, typer.Option("--family", help="one or more, with commas; by default all")]
Tasks = Annotated[list[str] | None, typer.Option("--task", help="one or more, with commas, in place of families")]
Split = Annotated[str, typer.Option(help="train, val, test_comp, test_style, test_para or test_hard")]
Size = Annotated[int, typer.Option(help="side of the pictures in pixels; letters can be read from 192 on")]
Start = Annotated[int, typer.Option(min=0, help="number of the first picture")]
Sprites = Annotated[
    str | None, typer.Option(help="a number of the bundled ones, tuxpaint, or a folder of stamps; by default all")
]
ExtraFonts = Annotated[bool, typer.Option("--extra-fonts", help="test_style writes in those of phantrol[fonts] too")]


@data_app.command("preview")
def data_preview(
    out: Annotated[Path, typer.Option(help="the contact sheet, a .png file")] = Path("preview.png"),
    family: Families = None,
    task: Tasks = None,
    split: Split = "train",
    count: Annotated[int, typer.Option(min=1, help="pictures of each family")] = 4,
    size: Size = 224,
    start: Start = 0,
    sprites: Sprites = None,
    extra_fonts: ExtraFonts = False,
) -> None:
    """Draw a contact sheet: pictures of each family with a question, the right answer and wrong ones."""
    from phantrol.data.choosing import choose_source
    from phantrol.data.preview import write_preview

    options = dict(split=split, size_px=size, start=start, sprites=sprites, extra_fonts=extra_fonts)
    source = choose_source(family or (), task or (), **options)
    typer.echo(f"The contact sheet is {write_preview(source, out, count)}")


@data_app.command("export")
def data_export(
    context: typer.Context,
    out: Annotated[Path, typer.Argument(metavar="FOLDER", help="a new folder")],
    form: Annotated[str | None, typer.Option("--format", help="llava, parquet or triples; by default llava")] = None,
    family: Families = None,
    task: Tasks = None,
    split: Split = "train",
    count: Annotated[int, typer.Option(min=1, help="pictures")] = 1000,
    size: Size = 224,
    start: Start = 0,
    questions: Annotated[int, typer.Option(min=1, help="most questions about one picture")] = 6,
    sprites: Sprites = None,
    extra_fonts: ExtraFonts = False,
    like: Annotated[Path | None, typer.Option(help="draw what this manifest of an export tells of")] = None,
) -> None:
    """Write pictures with questions and answers as files: for LLaVA, for `datasets`, or as preference triples."""
    from phantrol.data.choosing import choose_source
    from phantrol.data.export import export, export_again

    if like is not None:
        typed = [name for name in context.params if context.get_parameter_source(name).name == "COMMANDLINE"]
        others = [f"--{name.replace('_', '-')}" for name in typed if name not in ("out", "form", "like")]
        if others:
            raise ValueError(f"--like says which pictures, so {', '.join(others)} cannot be given beside it")
        export_again(like, out, form)
    else:
        options = dict(split=split, size_px=size, start=start, sprites=sprites, extra_fonts=extra_fonts)
        options |= dict(questions_per_picture=questions)
        export(choose_source(family or (), task or (), **options), out, form or "llava", count)
    typer.echo(f"The data are in {out}. To draw them again and compare: phantrol data check {shlex.quote(str(out))}")


@data_app.command("check")
def data_check(
    files: Annotated[list[str], typer.Argument(metavar="FILE", help="files, folders, patterns, or an export")],
    images: Annotated[Path | None, typer.Option(help="where paths of images start; by default beside the file")] = None,
    field: Annotated[list[str] | None, typer.Option(help="a name of your own, e.g. question=frage")] = None,
    model: Annotated[str | None, typer.Option(help="a saved model, to count tokens as it will read them")] = None,
    max_tokens: Annotated[
        int | None, typer.Option(min=1, help="longer rows are broken; by default the model's")
    ] = None,
    decode: Annotated[bool, typer.Option("--decode", help="read every picture to its last pixel")] = False,
    allow: Annotated[list[str] | None, typer.Option(help="let this reason pass, e.g. duplicate-id")] = None,
    fix: Annotated[Path | None, typer.Option(help="a new folder for the good rows and a list of the rest")] = None,
    json: Annotated[bool, typer.Option("--json", help="print the report as JSON")] = False,
    workers: Annotated[int | None, typer.Option(min=1, help="processes; by default one a core")] = None,
) -> None:
    """Find every broken row before any training. Exit code 1 if there is one. An export is drawn again and compared."""
    exports = [file for file in files if _is_export(Path(file))]
    for export in exports:
        _compare(Path(export))
    files = [file for file in files if file not in exports]
    if not files:
        return
    from phantrol.data.checking import Question
    from phantrol.data.layouts import names_of_own

    fields = names_of_own(field or ())
    question = Question(images, fields, model, max_tokens, decode, tuple(allow or ()))
    if not _check_rows(files, question, fix, json, workers):
        raise typer.Exit(1)


def _is_export(folder: Path) -> bool:
    """Whether `data export` wrote a folder: its manifest tells so, or is broken beside what an export writes. Say it if
    a manifest is of something else, as then nothing is compared."""
    from phantrol.data.manifest import FILE, GENERATOR

    path = folder / FILE
    if not path.is_file():
        return False
    try:
        manifest = json.loads(path.read_text("utf-8"))
    except ValueError:
        ours = any((folder / name).is_file() for name in ("llava.json", "data.parquet"))
    else:
        ours = isinstance(manifest, dict) and ("specs_sha256" in manifest or manifest.get("generator") == GENERATOR)
    if not ours:
        typer.echo(f"{path} is none of phantrol's: rows are checked, nothing is drawn again", err=True)
    return ours


def _compare(folder: Path) -> None:
    from phantrol.data.export import check

    remark = check(folder)
    typer.echo(f"{folder}: {remark or 'the same samples, to the last pixel'}")


def _check_rows(files: list[str], question: Any, fix: Path | None, as_json: bool, workers: int | None) -> bool:
    """Check, say what was found and write the good rows; return whether all are good."""
    from rich.console import Console

    from phantrol.data import check_report
    from phantrol.data.check import check
    from phantrol.data.fixing import BROKEN, check_room, write_fixed

    if fix is not None:
        check_room(fix, files)
    with row_bar() as tell:
        report = check(files, question, workers, tell)
    if as_json:
        typer.echo(json.dumps(check_report.as_json(report), ensure_ascii=False))
    else:
        for file in report.files:
            for line in check_report.say(file):
                typer.echo(line)
        check_report.show(report, Console())
    if fix is not None:
        write_fixed(report, fix)
        typer.echo(f"The good rows are in {fix}, a list of the rest is {fix / BROKEN}", err=True)
    return report.is_good
