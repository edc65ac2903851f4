"""The verb `phantrol report`: what a trained run can do, written into its folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def report(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="the folder of a finished run, --out of `phantrol train`")],
    split: Annotated[
        list[str] | None, typer.Option(help="one or more; by default val, test_comp, test_style and test_para")
    ] = None,
    limit: Annotated[int, typer.Option(min=2, help="questions per task and split")] = 200,
    seed: Annotated[int, typer.Option(help="of the pictures that are asked about, and of the shuffled ones")] = 0,
    batch_size: Annotated[int, typer.Option(min=1, help="questions answered at once")] = 100,
) -> None:
    """Ask a run what it was taught of Primer, in several splits; write scores, report and card; goes on if stopped."""
    from phantrol.ablation.asking import SPLITS
    from phantrol.reporting import report_run

    splits = [name for names in split or SPLITS for name in names.split(",")]
    report_run(run, splits, limit, seed, batch_size)
