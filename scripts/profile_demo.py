"""Where the time of the whole demo goes, by the clock: start, training, evaluation and report.

    python scripts/profile_demo.py --out runs/profiled
    python scripts/profile_demo.py --out runs/quick --limit 20 stages.align.max_steps=20 stages.tune.max_steps=20

Lines of Markdown. What is indented is a part of the line above it.
"""

# ruff: noqa: E402  the clock starts before the imports, which are a part of it

from __future__ import annotations

import time

BEGAN_S = time.perf_counter()

import argparse
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import torch
from profile_recipe import spent_s, timed

from phantrol import demo
from phantrol.inference.engine import Engine
from phantrol.training.trainer import StageTrainer

seen_s: dict[str, float] = {}


class Watched(StageTrainer):
    """Says when the first step of all was done, and how long each stage took."""

    def training_step(self, *args: Any, **kwargs: Any) -> Any:
        loss = super().training_step(*args, **kwargs)
        seen_s.setdefault("first step", time.perf_counter() - BEGAN_S)
        return loss

    def train(self, *args: Any, **kwargs: Any) -> bool:
        name = f"stage {self.stage.name}, {self.stage.max_steps} steps"
        return timed(name, super().train)(*args, **kwargs)


def evaluated(engine: Engine, *args: Any, **kwargs: Any) -> Any:
    """Evaluate, and watch what the model and the wait for prompts take."""
    engine.model.generate, waited = timed("model", engine.model.generate), Future.result
    Future.result = timed("prompts", Future.result)
    report = timed("evaluation", evaluate)(engine, *args, **kwargs)
    Future.result = waited
    del engine.model.generate
    return report


evaluate = demo.evaluate


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--limit", type=int, default=200)
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE")
    args = parser.parse_intermixed_args()
    import phantrol.training.run as training

    training.StageTrainer, demo.evaluate = Watched, evaluated
    demo.run = timed("training", demo.run)
    for name in ("_ask", "_write_report"):
        setattr(demo, name, timed("report", getattr(demo, name)))
    demo.run_demo(args.out, args.overrides, args.limit, 0)
    whole_s = time.perf_counter() - BEGAN_S
    stages = [name for name in spent_s if name.startswith("stage ")]
    print(f"\n{torch.get_num_threads()} threads; the first step was done after {seen_s['first step']:.1f} s\n")
    print("| what | seconds | share |\n|---|---|---|")
    lines = [("training", spent_s["training"]), *((f"- {name}", spent_s[name]) for name in stages)]
    lines.append(("- building, saving", spent_s["training"] - sum(spent_s[name] for name in stages)))
    lines.append(("evaluation", spent_s["evaluation"]))
    lines += [("- the model", spent_s["model"]), ("- waiting for prompts", spent_s["prompts"])]
    lines.append(("questions, maps and report", spent_s["report"]))
    rest_s = whole_s - sum(spent_s[name] for name in ("training", "evaluation", "report"))
    for name, seconds in [*lines, ("start, and the rest", rest_s), ("all", whole_s)]:
        print(f"| {name} | {seconds:.1f} | {seconds / whole_s:.1%} |")


if __name__ == "__main__":
    main()
