"""Where the time of a recipe's steps goes: waiting for data, the model, the optimiser, in each of its stages.

    python scripts/profile_recipe.py primer_tiny --steps 20
    python scripts/profile_recipe.py primer_tiny --steps 20 workers=1

One line of Markdown for each stage, by the clock. The first steps, in which everything is done for the first time, are
left out. Nothing is kept.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch.utils.data.dataloader import _BaseDataLoaderIter
from transformers import set_seed

from phantrol.training.recipe import load_recipe
from phantrol.training.trainer import StageTrainer
from phantrol.training.workers import workers_for

FIRST_STEPS = 5
spent_s: dict[str, float] = defaultdict(float)


def timed(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function; what it takes is added to `spent_s[name]`."""

    def call(*args: Any, **kwargs: Any) -> Any:
        began_s = time.perf_counter()
        try:
            return function(*args, **kwargs)
        finally:
            spent_s[name] += time.perf_counter() - began_s

    return call


class Watched(StageTrainer):
    """Reads the clock from the end of the first steps on."""

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> Any:
        if self.state.global_step == FIRST_STEPS:
            spent_s.clear()
            self.began_s = time.perf_counter()
        return super().get_batch_samples(*args, **kwargs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("recipe")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE")
    args = parser.parse_intermixed_args()
    recipe = load_recipe(args.recipe, args.overrides)
    steps = args.steps + FIRST_STEPS
    stages = tuple(replace(stage, max_steps=steps, warmup_steps=0) for stage in recipe.stages)
    recipe = replace(recipe, stages=stages, log_every_steps=steps, report_to=())
    _BaseDataLoaderIter.__next__ = timed("data", _BaseDataLoaderIter.__next__)
    Watched.training_step = timed("model", Watched.training_step)
    set_seed(recipe.seed)
    model, processor = recipe.model.build()
    workers = workers_for(recipe.workers, torch.cuda.is_available())
    print(f"{args.recipe}, workers={workers}, {torch.get_num_threads()} threads\n")
    print("| stage | seconds a step | waiting for data | forward and backward pass | optimiser and the rest |")
    print("|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for number, stage in enumerate(recipe.stages):
            trainer = Watched(model, processor, recipe, number, Path(folder))
            trainer.args.save_strategy = "no"
            trainer.train()
            whole = time.perf_counter() - trainer.began_s
            data, passes = spent_s["data"] / whole, spent_s["model"] / whole
            print(
                f"| {stage.name} | {whole / args.steps:.3f} | {data:.1%} | {passes:.1%} | {1 - data - passes:.1%} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
