"""Quality against cost of a traversal budget, on Primer: JSON and a figure.

    phantrol train scripts/budget_recipe.py --out runs/budget
    python scripts/measure_budget.py runs/budget/final --out runs/budget/curve

Each point is the mean score over the tasks of the same held-out questions. Cost is passes of all layers, the plain
decoder being 1. What is left out:

layers         those that move tokens least, as `phantrol calibrate` chooses; `by w` takes the least mean w instead
random layers  as many, drawn at random, the mean of several draws: the control of the choice of layers
tokens         (layer, token) pairs with the least w, whose second pass is computed and thrown away: what gathering
               tokens could reach at best, since a gathered pass would not even see the keys of the others
shuffled       as many pairs, but shuffled among the tokens of a pass: the control of the choice of tokens
"""

from __future__ import annotations

import argparse
import json
import os
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from torch import Tensor

from phantrol.evals.benchmarks.primer import PrimerBenchmark
from phantrol.explain.canvas import Canvas
from phantrol.inference.calibrating import calibrate, open_groups
from phantrol.inference.engine import Engine
from phantrol.modifiers.trol import skip_traversal, traversing_gates

TASKS = ("shape", "colour_several", "colour_one", "existence", "count", "outermost")
COLOURS = {
    "layers": "#2a62c9", "by w": "#17794a", "random layers": "#a8b3c2", "tokens": "#b4560b", "shuffled": "#e0b48c",
}  # fmt: skip
INK, MUTED, LINE = "#17202b", "#566273", "#dce1e8"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--out", type=Path, required=True, help="OUT.json and OUT.png")
    parser.add_argument("--limit", type=int, default=100, help="questions a task")
    parser.add_argument("--draws", type=int, default=3, help="of the controls")
    parser.add_argument("--examples", type=int, default=100, help="pictures to calibrate on")
    chosen = parser.parse_args()
    engine = Engine.open(chosen.model)
    found = measure(engine, chosen.limit, chosen.draws, chosen.examples)
    write(chosen.out.with_suffix(".json"), json.dumps({"model": chosen.model, **found}, indent=1) + "\n")
    draw(found["points"], chosen.out.with_suffix(".png"))


def measure(engine: Engine, limit: int, draws: int, examples: int) -> dict[str, Any]:
    """Return {"questions", "points": {curve: [{"cost", "score"}, ...]}, "layers": what the gates said}."""
    decoder, benchmark = engine.model.get_decoder(), PrimerBenchmark(tasks=TASKS, scenes=("shapes",), sprites=64)
    groups = open_groups("primer", [f"tasks={','.join(TASKS)}", "scenes=shapes", "sprites=64"], None, examples)
    said = calibrate(engine.model, engine.processor, groups, budget=2).recording
    rows = benchmark.rows("val", limit, seed=1)

    def score(note: str) -> float:
        answers = engine.answer_batch([row.chat for row in rows], benchmark.max_new_tokens, batch_size=100)
        value = mean(benchmark.scores(row, answer.text)[row.task] for row, answer in zip(rows, answers, strict=True))
        print(f"{note}: {value:.4f}", flush=True)
        return value

    size = len(decoder.layers)
    points: dict[str, list[dict[str, float]]] = {curve: [] for curve in COLOURS}
    orders = {"layers": _ranked(said.layers, said.moved), "by w": _ranked(said.layers, said.ratios)}
    largest = said.ratios.flatten().sort(descending=True).values
    for kept in range(len(said.layers) + 1):
        cost, scores = 1 + kept / size, {}
        for curve, order in orders.items():
            skip_traversal(decoder, order[kept:])
            scores[curve] = score(f"{curve} {sorted(order[:kept])}")
        subsets = [random.Random(draw).sample(said.layers, kept) for draw in range(draws)]
        scores["random layers"] = mean(_score_of(decoder, said.layers, subset, score) for subset in subsets)
        skip_traversal(decoder, ())
        least = largest[kept * said.ratios.shape[1] - 1] if kept else torch.inf
        with only(traversing_gates(decoder).values(), float(least), shuffle=False):
            scores["tokens"] = score(f"tokens with w > {least:.3g}")
        with only(traversing_gates(decoder).values(), float(least), shuffle=True):
            scores["shuffled"] = score("shuffled")
        for curve, value in scores.items():
            points[curve].append({"cost": cost, "score": value})
    layers = [
        {"layer": layer, "moved": float(moved.mean()), "ratio": float(ratio.mean())}
        for layer, moved, ratio in zip(said.layers, said.moved, said.ratios, strict=True)
    ]
    return {"questions": len(rows), "points": points, "layers": layers}


def _ranked(layers: Sequence[int], said: Tensor) -> list[int]:
    return [layers[i] for i in said.mean(dim=1).argsort(descending=True, stable=True).tolist()]


def _score_of(decoder: Any, layers: Sequence[int], kept: Sequence[int], score: Callable[[str], float]) -> float:
    skip_traversal(decoder, set(layers) - set(kept))
    return score(f"random {sorted(kept)}")


@contextmanager
def only(gates: Any, least: float, shuffle: bool) -> Iterator[None]:
    """Close the gates for tokens whose w is below `least`, or for as many other tokens of the same pass."""
    generator = torch.Generator().manual_seed(0)

    def close(gate: Any, args: Any, ratio: Tensor) -> Tensor:
        kept = ratio >= least
        return ratio * (kept[:, torch.randperm(kept.shape[1], generator=generator)] if shuffle else kept)

    hooks = [gate.register_forward_hook(close) for gate in dict.fromkeys(gates)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def draw(points: dict[str, list[dict[str, float]]], path: Path) -> None:
    """Write the figure: a line for each curve, score over cost."""
    left, top, width, height = 54, 46, 470, 250
    canvas = Canvas(left + width + 130, top + height + 50)
    values = [point["score"] for curve in points.values() for point in curve]
    low, high = min(values), max(max(values), min(values) + 0.01)

    def place(point: dict[str, float]) -> tuple[float, float]:
        return left + (point["cost"] - 1) * width, top + height - (point["score"] - low) / (high - low) * height

    canvas.text(left, 12, "Primer, mean of the tasks, over passes of all layers", INK, 16)
    for step in range(5):
        value, cost = low + step * (high - low) / 4, 1 + step / 4
        (x, y) = place({"cost": cost, "score": value})
        canvas.line(left, y, left + width, y, LINE)
        canvas.text(left - 6, y - 7, f"{100 * value:.1f}", MUTED, 12, "right")
        canvas.text(x, top + height + 6, f"{cost:g}", MUTED, 12, "middle")
    for row, (name, curve) in enumerate(points.items()):
        for one, other in pairwise(curve):
            canvas.line(*place(one), *place(other), COLOURS[name], 2)
        for point in curve:
            canvas.dot(*place(point), 3, COLOURS[name])
        canvas.text(left + width + 14, top + 20 * row, name, COLOURS[name])
    canvas.text(left + width / 2, top + height + 26, "times the plain decoder", MUTED, 12, "middle")
    beside = path.with_name(f".{path.name}.writing")
    canvas.finished().save(beside, "PNG", optimize=True)
    os.replace(beside, path)


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.writing")
    beside.write_text(text, "utf-8")
    os.replace(beside, path)


if __name__ == "__main__":
    main()
