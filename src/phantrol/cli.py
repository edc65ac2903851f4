"""The command line: one verb each for what one does with a model. Heavy imports stand inside the verbs.

A mistake of the user's is one line that names it, and exit code 2.
"""

from __future__ import annotations

import errno
import logging
import os
import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from phantrol.cli_calibrating import calibrate
from phantrol.cli_data import data_app
from phantrol.cli_eval import compare, evaluate, lmms, table
from phantrol.cli_group import Verbs, print_in_any_encoding, root
from phantrol.cli_merging import merge
from phantrol.cli_released import convert, verify
from phantrol.cli_report import report
from phantrol.cli_serving import serve
from phantrol.cli_talking import Model, Weights, chat, explain
from phantrol.cli_triples import data_triples

# a torch that is too eager for cores slows itself down; these must be set before torch is imported
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # but wait a few microseconds: a third more steps of a small model
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# what torchao, where it is installed, says of kernels for other devices than this one whenever transformers is imported
for source in ("torchao", "torch.utils._pytree"):
    logging.getLogger(source).setLevel(logging.ERROR)

app = typer.Typer(
    name="phantrol",
    cls=Verbs,
    help="Small vision-language models that look twice: TroL and Phantom on any Hugging Face decoder.",
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
data_app.command("triples")(data_triples)
app.add_typer(data_app)

app.callback()(root)

Overrides = Annotated[list[str] | None, typer.Argument(metavar="KEY=VALUE", help="e.g. stages.0.lr=1e-4")]
Recipe = Annotated[str, typer.Argument(metavar="RECIPE", help="a name from `phantrol list recipes`, or a .py file")]


@app.command()
def demo(
    overrides: Overrides = None,
    out: Annotated[
        Path | None,
        typer.Option(help="where model, scores and report go; by default runs/demo, or runs/demo-2 ... if it is there"),
    ] = None,
    limit: Annotated[int, typer.Option(min=2, help="held-out questions per task")] = 200,
    seed: Annotated[int, typer.Option(help="of the weights, and of the pictures that are asked about")] = 0,
) -> None:
    """Watch a tiny model learn to see: train, evaluate, ask, and write a report. Minutes on a CPU, no download."""
    from phantrol.demo import run_demo

    run_demo(out, overrides or [], limit=limit, seed=seed)


@app.command()
def train(
    recipe: Recipe,
    overrides: Overrides = None,
    out: Annotated[Path | None, typer.Option(help="the folder of the run; by default runs/RECIPE")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="go on from the last whole checkpoint in --out")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="show what would be trained, take one step, write nothing")
    ] = False,
) -> None:
    """Train a recipe, stage after stage."""
    from phantrol.find import short_name
    from phantrol.training.dry_run import dry_run as try_one_step
    from phantrol.training.recipe import load_recipe
    from phantrol.training.run import run

    resolved = load_recipe(recipe, overrides or [])
    if dry_run:
        try_one_step(resolved)
        return
    final = run(resolved, out or Path("runs") / short_name(recipe), resume=resume)
    if os.environ.get("RANK", "0") == "0":  # of the processes that a launcher starts
        typer.echo(f'The model is in {final}. Next: phantrol ask {shlex.quote(str(final))} IMAGE "QUESTION"')


app.command("eval")(evaluate)
app.command("eval compare")(compare)
app.command("eval table")(table)
app.command("eval lmms")(lmms)


@app.command()
def ablate(
    recipe: Recipe,
    variants: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="VARIANT|KEY=VALUE", help="names (--dry-run lists them), groups or .py files; by default all"
        ),
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="runs of each variant; an interval needs 2")] = 3,
    out: Annotated[
        Path | None, typer.Option(help="the folder, new or to go on with; by default runs/RECIPE-ablation")
    ] = None,
    limit: Annotated[int, typer.Option(min=2, help="questions per task, split and seed")] = 200,
    split: Annotated[
        list[str] | None, typer.Option(help="one or more; by default val, test_comp, test_style and test_para")
    ] = None,
    benchmark: Annotated[str | None, typer.Option(help="what to ask; by default what the recipe taught")] = None,
    drop_models: Annotated[bool, typer.Option("--drop-models", help="remove a model once it has been asked")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="show variants and what they cost, write nothing")] = False,
) -> None:
    """Train variants of a recipe under the same data, steps and seeds, and say what differs; goes on if stopped."""
    from phantrol.ablation.asking import SPLITS
    from phantrol.ablation.run import ablate as run_ablation
    from phantrol.find import short_name

    words = variants or []
    run_ablation(
        recipe,
        out or Path("runs") / f"{short_name(recipe)}-ablation",
        wanted=[word for word in words if "=" not in word],
        overrides=[word for word in words if "=" in word],
        seeds=seeds,
        limit=limit,
        splits=[name for names in split or SPLITS for name in names.split(",")],
        benchmark=benchmark,
        drop_models=drop_models,
        dry_run=dry_run,
    )


@app.command()
def ask(
    model: Model,
    images_and_question: Annotated[list[str], typer.Argument(metavar="[IMAGE]... QUESTION")],
    max_new_tokens: Annotated[int, typer.Option(min=1, help="length of the answer, in tokens")] = 128,
    beams: Annotated[int, typer.Option(min=1, help="1: word by word; more: the best of so many, at once")] = 1,
    weights: Weights = None,
) -> None:
    """Ask a model about pictures, or without one."""
    from phantrol.harmless import harmless
    from phantrol.inference.engine import Engine
    from phantrol.models.image_processing import load_picture

    *images, question = images_and_question
    if not question.strip():
        raise ValueError("a question without text: type what you want to know about the picture")
    if os.path.isfile(question):  # of a name too long for one too, Path.is_file() raises
        raise ValueError(
            f"{question} is a file and no question follows: phantrol ask {shlex.quote(model)} "
            f'{shlex.join(images_and_question)} "QUESTION"'
        )
    pictures = [{"type": "image", "image": load_picture(image)} for image in images]
    chat = [{"role": "user", "content": [*pictures, {"type": "text", "text": question}]}]
    engine = Engine.open(model, weights)
    if beams > 1:
        answer = engine.answer(chat, max_new_tokens=max_new_tokens, num_beams=beams)
        typer.echo(harmless(answer.text, sys.stdout))
        return
    for piece in engine.stream(chat, max_new_tokens=max_new_tokens):
        typer.echo(harmless(piece, sys.stdout), nl=False)
    typer.echo()


app.command()(merge)
app.command()(calibrate)
app.command()(convert)
app.command()(verify)
app.command()(chat)
app.command()(explain)
app.command()(serve)
app.command()(report)


@app.command()
def describe(
    thing: Annotated[str, typer.Argument(metavar="RECIPE|RUN|MODEL", help="a recipe, a folder, or a release")],
    overrides: Overrides = None,
    prompt_tokens: Annotated[int, typer.Option(min=1, help="text of a prompt, in tokens, beside its pictures")] = 512,
    images: Annotated[int, typer.Option(min=0, help="pictures in a prompt")] = 1,
    tiles: Annotated[
        int | None, typer.Option(min=1, help="of each picture; by default as many as there may be")
    ] = None,
    answer_tokens: Annotated[int, typer.Option(min=1, help="length of the answer, in tokens")] = 256,
    batch_size: Annotated[int, typer.Option(min=1, help="prompts at once")] = 1,
    dtype: Annotated[
        str | None, typer.Option(help="float32, bfloat16, float16, int8 or int4; by default the model's own")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="print a run as JSON")] = False,
) -> None:
    """Show what a recipe will do, how a run stands, or what a model is made of and what memory it takes."""
    from phantrol.describing import describe_thing
    from phantrol.models.memory import Prompt

    prompt = Prompt(prompt_tokens, images, answer_tokens=answer_tokens, batch_size=batch_size)
    describe_thing(thing, overrides or [], prompt, tiles, dtype, json)


@app.command()
def bench(
    names: Annotated[list[str] | None, typer.Argument(metavar="NAME", help="rows; by default all of them")] = None,
    runs: Annotated[int, typer.Option(min=1, help="of which medians are taken")] = 5,
    threads: Annotated[int, typer.Option(min=1, help="of the processor")] = 1,
    json: Annotated[Path | None, typer.Option(help="write machine, versions and rows here")] = None,
) -> None:
    """Measure what the methods cost beside the plain backbone of the same shape. All rows take half an hour."""
    from phantrol.bench.run import bench as measure

    measure(names or (), runs=runs, threads=threads, json_path=json)


@app.command("list")
def list_names(kind: Annotated[str, typer.Argument(metavar="KIND")] = "all") -> None:
    """List modifiers, losses, sources, benchmarks or recipes."""
    from phantrol.find import KINDS, names

    kinds = list(KINDS) if kind == "all" else [kind]
    for each in kinds:
        found = ", ".join(names(each))
        typer.echo(f"{each}: {found}" if kind == "all" else found.replace(", ", "\n"))


@app.command()
def doctor() -> None:
    """Say what machine, versions and known traps are here, and the remedy. Exit code 1 if something must be mended."""
    from phantrol.doctor import examine, show

    if not show(examine()):
        raise typer.Exit(1)


def main() -> None:
    """Run the command line; turn what a user can cause into one line on the standard error and exit code 2."""
    print_in_any_encoding()
    try:
        code = app(prog_name="phantrol", standalone_mode=False)
        print(end="", flush=True)  # so that a reader who has left is found out here, not at the interpreter's end
    except typer.Exit as end:
        code = end.exit_code
    except (KeyboardInterrupt, typer.Abort):
        code = 130
    except (BrokenPipeError, SystemExit) as end:
        if isinstance(end, SystemExit) and not isinstance(end.__context__, BrokenPipeError):
            raise
        code = 141  # as of a program that SIGPIPE ends; typer and rich hear of it first, and exit with 1
        sys.stdout = None  # what nobody read is not tried again at the end
    except ValueError as error:
        _complain(str(error))
    except Exception as error:
        if reason := _reason_of_the_disk(error):
            name = getattr(error, "filename", None) or error
            _complain(f"{reason}: {name}; nothing half-written was kept")
        if not hasattr(error, "format_message"):  # click's own complaints: an unknown verb, flag or value
            raise
        _complain_of_usage(error)
    if code == 130:  # Ctrl-C, of which typer hears first, and makes this number of it
        _complain("stopped", code)
    sys.exit(code if isinstance(code, int) else 0)


def _reason_of_the_disk(error: Exception) -> str | None:
    """Why a file could not be written, if that is why."""
    from phantrol.training.checkpoint import os_error

    reasons = {errno.ENOSPC: "no room on the disk", errno.EROFS: "read-only disk"}
    reasons |= dict.fromkeys((errno.EACCES, errno.EPERM), "no permission")
    reasons |= {errno.EDQUOT: "no room in your quota of the disk", errno.EFBIG: "no file may be so large (ulimit -f)"}
    reasons |= {errno.ENAMETOOLONG: "the name is too long", errno.ELOOP: "links that lead to each other"}
    reasons |= dict.fromkeys((errno.EEXIST, errno.ENOTDIR), "a file stands where a folder is expected")
    return reasons.get(os_error(error))


def _complain_of_usage(error: Any) -> None:
    said, verb = error.format_message(), error.ctx.command_path if getattr(error, "ctx", None) else "phantrol"
    if type(error).__name__ == "NoArgsIsHelpError":  # no word at all after a verb that has verbs: its whole help
        print(said, file=sys.stderr)
        sys.exit(2)
    _complain(f"{said if said.endswith(('.', '?')) else said + '.'} Try: {verb} --help")


def _complain(message: str, code: int = 2) -> None:
    print(f"phantrol: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(code)


if __name__ == "__main__":
    main()
