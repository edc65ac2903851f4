"""The verb `merge` of the command line: adapters become part of the model. Heavy imports stand inside."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer


def merge(
    folder: Annotated[
        Path, typer.Argument(metavar="RUN", help="a run with adapters, one of its checkpoints, or what PEFT saved")
    ],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="the folder of the new model, which does not exist yet")],
) -> None:
    """Merge adapters into the weights that they adapt, and write a plain model. `train` does so where it ends."""
    from transformers.utils.logging import disable_progress_bar

    from phantrol.training.merging import merge as merge_adapters

    disable_progress_bar()
    merge_adapters(folder, out)
    typer.echo(f'The model is in {out}. Next: phantrol ask {shlex.quote(str(out))} IMAGE "QUESTION"')
