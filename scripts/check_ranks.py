"""Train a small recipe on one rank and on several, in every way of sharding, and compare what they logged.

    python scripts/check_ranks.py                                      a rank for each GPU; two where there is none
    python scripts/check_ranks.py --ranks 4 --way fsdp --precision bfloat16

One rank with N times the accumulation is the measure: losses and gradient norms of N ranks must be its own, to
rounding, and so must those of the last step when the checkpoint before it goes on with one rank. The control, another
seed, must be off by far more. Each run is a command of docs/scale.md. Exit code 1 if any row is off. On a machine with
several GPUs it is the whole check of training beyond one of them.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from phantrol.training.recipe import load_recipe

TINY = Path(__file__).parents[1] / "tests" / "training" / "tiny_recipe.py"
GROUPS = 4  # of the recipe, in a step
TOLERANCE = {"float32": 1e-4, "bfloat16": 2e-2}  # relative; kernels of a GPU add in no fixed order
PATIENCE_S = 600
LAUNCHERS = {
    "torchrun": ["-m", "torch.distributed.run", "--nproc-per-node", "{ranks}"],
    "accelerate": ["-m", "accelerate.commands.launch", "--num_processes", "{ranks}", "{device}"],
}
WAYS = {  # name: (launcher, sharding)
    "none": ("torchrun", "none"),
    "fsdp": ("torchrun", "fsdp"),
    "fsdp-accelerate": ("accelerate", "fsdp"),
    "zero2": ("torchrun", "zero2"),
    "zero3": ("torchrun", "zero3"),
}


def train(out: Path, precision: str, ranks: int = 1, way: str | None = None, *more: str) -> list[dict]:
    """Run the command and return its log, a dict a step. Raises RuntimeError with what it said if it failed."""
    launcher, sharding = WAYS[way] if way else (None, "none")
    device = "--multi_gpu" if torch.cuda.is_available() else "--cpu"
    start = [word.format(ranks=ranks, device=device) for word in LAUNCHERS.get(launcher, [])]
    text = {**load_recipe(str(TINY), []).model.text, "attention_dropout": 0.0}  # ranks draw their own
    changes = [f"sharding={sharding}", "stages.*.optimiser=adamw", f"model.text={text}"]
    changes += [f"stages.*.accumulation={GROUPS // ranks}", f"stages.*.precision={precision}"]
    command = [sys.executable, *start, "-m", "phantrol", "train", str(TINY), "--out", str(out), *changes, *more]
    here = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    here |= {} if torch.cuda.is_available() else {"DS_ACCELERATOR": "cpu"}
    done = subprocess.run(command, env=os.environ | here, capture_output=True, text=True, timeout=PATIENCE_S)
    if done.returncode:
        said = f"{done.stdout[-1000:]}{done.stderr[-3000:]}"
        raise RuntimeError(f"{' '.join(command)}\nexit code {done.returncode}\n{said}")
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def off(one: list[dict], other: list[dict]) -> float:
    """Return the largest relative difference of a loss or gradient norm; infinite if the steps are not the same."""
    if [(line["stage"], line["step"]) for line in one] != [(line["stage"], line["step"]) for line in other]:
        return float("inf")
    pairs = [(a[name], b[name]) for a, b in zip(one, other, strict=True) for name in ("loss", "grad_norm")]
    return max(abs(a - b) / max(abs(a), 1e-6) for a, b in pairs)


def go_on_alone(out: Path, precision: str) -> list[dict]:
    """Take the final model and the last checkpoint away, and let one rank do the last step again."""
    shutil.rmtree(out / "final")
    last = max((out / "stages").iterdir())
    shutil.rmtree(max(last.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1])))
    return train(out, precision, 1, None, "--resume")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ranks", type=int, default=torch.cuda.device_count() or 2, choices=(1, 2, 4))
    parser.add_argument("--way", action="append", choices=tuple(WAYS), help="all that are installed, by default")
    parser.add_argument("--precision", action="append", choices=tuple(TOLERANCE), help="both, by default")
    given = parser.parse_args()
    ways = given.way or [way for way in WAYS if not way.startswith("zero") or find_spec("deepspeed")]
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    console, table = Console(), Table(title=f"{given.ranks} ranks against one, {device}, torch {torch.__version__}")
    for column in ("precision", "way", "off by at most", "gone on with one rank", "allowed"):
        table.add_column(column)
    failed = False
    for precision in given.precision or TOLERANCE:
        allowed = TOLERANCE[precision]
        with tempfile.TemporaryDirectory() as folder:
            one = train(Path(folder) / "one", precision)
            control = off(one, train(Path(folder) / "control", precision, 1, None, "seed=99"))
            failed |= control < 2 * allowed
            table.add_row(precision, "control: another seed", f"{control:.1e}", "", f"over {2 * allowed:.0e}")
            for way in ways:
                out = Path(folder) / way
                first = off(one, train(out, precision, given.ranks, way))
                second = off(one, go_on_alone(out, precision))
                failed |= max(first, second) > allowed
                table.add_row(precision, way, f"{first:.1e}", f"{second:.1e}", f"{allowed:.0e}")
    console.print(table)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
