"""The verbs `convert` and `verify` of the command line: the released models. Heavy imports stand inside."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer


def convert(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="a folder as released, or a release: TroL-1.8B")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="the folder of the new model, which does not exist yet")],
    per_layer_gates: Annotated[
        bool, typer.Option("--per-layer-gates", help="TroL: a gate for each layer; as released, the last serves all")
    ] = False,
) -> None:
    """Make a phantrol model of a released TroL or Phantom."""
    from phantrol.models.released.convert import convert as convert_model

    done = convert_model(source, out, per_layer_gates=per_layer_gates)
    layout = done.layout
    typer.echo(f"{layout.family} on {layout.backbone}: {done.num_tensors} tensors, {done.num_bytes / 1e9:.2f} GB")
    for note in done.notes:
        typer.echo(note)
    typer.echo(f'The model is in {out}. Next: phantrol ask {shlex.quote(str(out))} IMAGE "QUESTION"')


def verify(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="config.json, weights.safetensors and io.safetensors")
    ],
    dtype: Annotated[str, typer.Option(help="float32, as the recording, or float64")] = "float32",
) -> None:
    """Hold what phantrol computes against what was recorded of a released model. Exit code 1 if a tensor is off."""
    import torch

    from phantrol.models.released.verify import passed, summary
    from phantrol.models.released.verify import verify as compare

    if dtype not in ("float32", "float64"):
        raise ValueError(f"--dtype {dtype}: expected float32 or float64")
    comparisons = compare(folder, getattr(torch, dtype))
    for comparison in comparisons:
        typer.echo(str(comparison))
    typer.echo(summary(comparisons))
    if not passed(comparisons):
        raise typer.Exit(1)
