"""Kill a training run at random moments, resume it, and compare the final weights with those of a run left alone.

    python scripts/kill_test.py --kills 50 --out runs/kills

Each round begins a run in a new folder, sends SIGKILL, resumes it to its end, and compares every tensor of the final
model bit for bit, and the log without what depends on the clock. Every other round waits until a checkpoint is being
written before it strikes, so that many kills fall into the middle of saving. Exit code 1 if any round differs.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import torch
from rich.console import Console
from safetensors.torch import load_file

from phantrol.training.checkpoint import stage_dir
from phantrol.training.recipe import Recipe, load_recipe
from phantrol.training.run import run

CLOCK = ("step_s", "waited", "tokens_per_s", "pictures_per_s", "tflops", "mfu")
TINY = Path(__file__).parents[1] / "tests" / "training" / "tiny_recipe.py"


def start(recipe: Recipe, out: Path) -> int:
    """Train in a process of its own, a copy of this one, and return its id. What it says goes to OUT.log."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        with out.with_suffix(".log").open("a") as log:
            os.dup2(log.fileno(), 2)
            run(recipe, out, resume=True, console=Console(file=log))
        code = 0
    finally:
        os._exit(code)


def kill_once(recipe: Recipe, out: Path, seconds: float, draw: random.Random, in_saving: bool) -> str:
    """Kill a run in `out` once, and return what it was about to do: "before", "step", "saving", "final" or "ended"."""
    child = start(recipe, out)
    if in_saving:
        wanted = draw.randrange(1, 1 + sum(stage.max_steps for stage in recipe.stages))
        seen: set[Path] = set()
        while is_running(child):
            seen.update(half_written(recipe, out))
            if len(seen) >= wanted:
                time.sleep(draw.uniform(0, 0.02))
                os.kill(child, signal.SIGSTOP)  # and look: on a busy machine it may be done by now
                if half_written(recipe, out):
                    break
                os.kill(child, signal.SIGCONT)
            time.sleep(0.0005)
    else:
        time.sleep(draw.uniform(0, seconds))
    os.kill(child, signal.SIGKILL)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status > 0:
        raise RuntimeError(f"the run failed before it was killed: see {out.with_suffix('.log')}")
    if status == 0:
        return "ended"
    if half_written(recipe, out):
        return "saving"
    if (out / ".writing" / "final").exists():
        return "final"
    return "step" if (out / "recipe.json").exists() else "before"


def is_running(child: int) -> bool:
    return os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None


def half_written(recipe: Recipe, out: Path) -> list[Path]:
    """Return the checkpoints that are being written at this moment, or were when the run was killed."""
    found = []
    for number, stage in enumerate(recipe.stages):
        with contextlib.suppress(FileNotFoundError):  # it comes and goes
            found += (stage_dir(out, number, stage.name) / ".writing").iterdir()
    return found


def same_bits(one: Path, other: Path) -> bool:
    a, b = (load_file(run_dir / "final" / "model.safetensors") for run_dir in (one, other))
    return a.keys() == b.keys() and all(torch.equal(a[name].view(torch.uint8), b[name].view(torch.uint8)) for name in a)


def lines(run_dir: Path) -> list[dict]:
    read = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name not in CLOCK} for line in read]


def kill_test(recipe: Recipe, out: Path, kills: int, seed: int) -> Counter[str]:
    """Return how many kills fell where, with `differing` for rounds that did not end with the same bits."""
    whole, draw = out / "whole", random.Random(seed)
    for _ in range(2):  # the first time is slower
        shutil.rmtree(whole, ignore_errors=True)
        began_s = time.monotonic()
        os.waitpid(start(recipe, whole), 0)
        seconds = time.monotonic() - began_s
    found: Counter[str] = Counter()
    for number in range(kills):
        run_dir = out / f"round-{number}"
        while (where := kill_once(recipe, run_dir, seconds, draw, in_saving=number % 2 == 1)) == "ended":
            shutil.rmtree(run_dir)  # it was faster than the kill
        code = os.waitstatus_to_exitcode(os.waitpid(start(recipe, run_dir), 0)[1])
        same = code == 0 and same_bits(run_dir, whole) and lines(run_dir) == lines(whole)
        found.update([where, *([] if same else ["differing"])])
        print(
            f"{number + 1}/{kills}: killed in {where}: {'the same bits' if same else f'DIFFERS, see {run_dir}'}",
            flush=True,
        )
        if same:
            shutil.rmtree(run_dir)
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--recipe", default=str(TINY), help="a name, or a .py file")
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True, help="a new folder")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)  # sums in parallel may be taken in another order
    options.out.mkdir(parents=True)
    recipe = load_recipe(options.recipe)
    began_s = time.monotonic()
    found = kill_test(recipe, options.out, options.kills, options.seed)
    print(f"{options.kills} kills in {time.monotonic() - began_s:.0f} s: {dict(found)}")
    return 1 if found["differing"] else 0


if __name__ == "__main__":
    sys.exit(main())
