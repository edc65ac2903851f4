"""The verb `calibrate` of the command line: a budget for second passes. Heavy imports stand inside."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def calibrate(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="the folder of a model with TroL")],
    data: Annotated[str, typer.Argument(metavar="DATA", help="primer, or a file of the kind that it will be asked")],
    options: Annotated[
        list[str] | None,
        typer.Argument(metavar="KEY=VALUE", help="of the data: tasks=shape,count size_px=64"),
    ] = None,
    budget: Annotated[
        float | None,
        typer.Option(
            help="passes of all layers, the plain decoder being 1; by default 1.3, or the cost of one layer's second "
            "pass if that is more"
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="a new folder; by default MODEL's own config.json changes")] = None,
    images: Annotated[Path | None, typer.Option(help="where a file's paths of pictures start")] = None,
    examples: Annotated[int, typer.Option(min=1, help="pictures, or rows of a file, to record")] = 100,
    batch_size: Annotated[int, typer.Option(min=1, help="of these at once")] = 8,
    json: Annotated[Path | None, typer.Option(help="write each layer's w, and how far it moves tokens, here")] = None,
) -> None:
    """Let only those layers look twice, within a budget, whose second pass moves tokens most on some data."""
    from phantrol.calibrating import calibrate_folder

    calibrate_folder(model, data, options or (), budget, out, images, examples, batch_size, json)
