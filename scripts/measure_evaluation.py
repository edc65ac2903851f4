"""How much CPU time batches save in an evaluation: the same questions of Primer in batches of several sizes, in turns.

    python scripts/measure_evaluation.py runs/demo/final --limit 40 --turns 3

Each question is a prompt with its own picture and one with another row's; drawing pictures, the text-only prior and the
scores are in the time. Medians over the turns, CPU seconds of all threads of this process.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch

from phantrol.evals.benchmarks.primer import PrimerBenchmark
from phantrol.evals.runner import evaluate
from phantrol.inference.engine import Engine

TASKS = ("shape", "count", "existence", "colour_one", "captions")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="a folder that `phantrol train` wrote")
    parser.add_argument("--limit", type=int, default=40, help="questions of each of five tasks")
    parser.add_argument("--sizes", type=int, nargs="+", default=[1, 16, 100])
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    engine = Engine.open(chosen.model)
    benchmark = PrimerBenchmark(tasks=TASKS, scenes=("shapes",))
    benchmark.prior_rows()  # fonts and stamps are read once, by whoever comes first
    prompts = 2 * len(benchmark.rows("val", chosen.limit))
    taken_s: dict[int, list[float]] = {size: [] for size in chosen.sizes}
    for _ in range(chosen.turns):
        for size, times_s in taken_s.items():
            began_s = time.process_time()
            evaluate(engine, benchmark, limit=chosen.limit, batch_size=size)
            times_s.append(time.process_time() - began_s)
    medians_s = {size: statistics.median(times_s) for size, times_s in taken_s.items()}
    first_s = medians_s[chosen.sizes[0]]
    print(f"{prompts} prompts, {chosen.threads} threads, medians of {chosen.turns} turns")
    for size, median_s in medians_s.items():
        print(
            f"batch {size:>4}: {median_s:6.2f} CPU s, {prompts / median_s:6.1f} prompts per CPU second, "
            f"{first_s / median_s:.2f} times batch {chosen.sizes[0]}"
        )


if __name__ == "__main__":
    main()
