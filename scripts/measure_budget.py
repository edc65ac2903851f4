"""Quality against cost of a traversal budget, on Primer: JSON and a figure.

    phantrol train scripts/budget_recipe.py --out runs/budget
    python scripts/measure_budget.py runs/budget/final --out runs/budget/curve
    python scripts/measure_budget.py models/smollm2 --out runs/smollm2 --limit 50 --scenes shapes,sprites \
        --tasks count,left_right,objects,colour_several

Each point is the mean score over the tasks of the same held-out questions. Cost is passes of all layers, the plain
decoder being 1; where tokens are chosen, as many as were kept when the questions were answered. Beside each point stand
the paired differences on these questions, [mean, low, high] with their 95 % interval: `lost`, what every second pass
scores more, and `ahead`, what this choice scores more than its control of as many. What is left out:

layers         those that move tokens least, as `phantrol calibrate` chooses; `by w` takes the least mean w instead
random layers  as many, drawn at random, the mean of several draws: the control of the choice of layers
tokens         (layer, token) pairs with the least w, whose second pass is computed and thrown away: what gathering
               tokens could reach at best, since a gathered pass would not even see the keys of the others
shuffled       as many pairs, but shuffled among the tokens of a pass: the control of the choice of tokens
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from phantrol.calibrating import open_groups
from phantrol.evals.benchmarks.primer import PrimerBenchmark
from phantrol.evals.canvas import INK, LINE, MUTED, Canvas
from phantrol.evals.intervals import bootstrap, interval
from phantrol.inference.calibrating import calibrate
from phantrol.inference.engine import Engine
from phantrol.modifiers.trol import skip_traversal, traversing_gates
from phantrol.whole_files import make_room, write_text, written_whole

TASKS = ("shape", "colour_several", "colour_one", "existence", "count", "outermost")
COLOURS = {
    "layers": "#2a62c9", "by w": "#17794a", "random layers": "#a8b3c2", "tokens": "#b4560b", "shuffled": "#e0b48c",
}  # fmt: skip
CONTROLS = {"layers": "random layers", "by w": "random layers", "tokens": "shuffled"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--out", type=Path, required=True, help="OUT.json and OUT.png")
    parser.add_argument("--tasks", default=",".join(TASKS))
    parser.add_argument("--scenes", default="shapes", help="kinds of pictures: sprites for tasks about things")
    parser.add_argument("--limit", type=int, default=100, help="questions a task")
    parser.add_argument("--draws", type=int, default=3, help="of the controls")
    parser.add_argument("--examples", type=int, default=100, help="pictures to calibrate on")
    chosen = parser.parse_args()
    make_room(chosen.out.with_suffix(".json"))
    tasks, scenes = (tuple(names.split(",")) for names in (chosen.tasks, chosen.scenes))
    benchmark = PrimerBenchmark(tasks=tasks, scenes=scenes, sprites=64)
    found = measure(Engine.open(chosen.model), benchmark, chosen.limit, chosen.draws, chosen.examples)
    write_text(chosen.out.with_suffix(".json"), json.dumps({"model": chosen.model, **found}, indent=1) + "\n")
    draw(found["points"], chosen.out.with_suffix(".png"))


def measure(engine: Engine, benchmark: PrimerBenchmark, limit: int, draws: int, examples: int) -> dict[str, Any]:
    """Return {"tasks", "questions", "points": {curve: [{"cost", "score", "lost", "ahead"}, ...]}, "layers"}.

    layers  what the gates said
    """
    decoder, rows = engine.model.get_decoder(), benchmark.rows("val", limit, seed=1)
    options = [f"tasks={','.join(benchmark.tasks)}", f"sprites={benchmark.sprites}"]
    options += [f"scenes={','.join(benchmark.scenes)}", f"size_px={benchmark.size_px}"]
    groups = open_groups("primer", options, None, examples)
    whole = calibrate(engine.model, engine.processor, groups, budget=1e9)
    said = whole.recording
    step = (whole.cost - 1) / len(said.layers)  # what each layer adds

    def score(note: str) -> np.ndarray:
        answers = engine.answer_batch([row.chat for row in rows], benchmark.max_new_tokens, batch_size=100)
        pairs = zip(rows, answers, strict=True)
        values = np.array([benchmark.scores(row, answer.text)[row.task] for row, answer in pairs])
        print(f"{note}: {values.mean():.4f}", flush=True)
        return values

    @cache  # the curves share what lies at their ends, and more
    def keeping(kept: frozenset[int]) -> np.ndarray:
        skip_traversal(decoder, set(said.layers) - kept)
        return score(f"layers {sorted(kept)}")

    found: dict[str, list[tuple[float, np.ndarray]]] = {curve: [] for curve in COLOURS}  # cost, score of each question
    orders = {"layers": _ranked(said.layers, said.moved), "by w": _ranked(said.layers, said.ratios)}
    largest = said.ratios.flatten().sort(descending=True).values
    for kept in range(len(said.layers) + 1):
        chosen = {curve: [order[:kept]] for curve, order in orders.items()}
        chosen["random layers"] = [random.Random(draw).sample(said.layers, kept) for draw in range(draws)]
        for curve, subsets in chosen.items():
            found[curve].append((1 + kept * step, np.mean([keeping(frozenset(subset)) for subset in subsets], axis=0)))
        skip_traversal(decoder, ())
        least = float(largest[kept * said.ratios.shape[1] - 1]) if kept else torch.inf
        for curve, shuffle in (("tokens", False), ("shuffled", True)):
            with only(traversing_gates(decoder).values(), least, shuffle) as counted:
                values = score(f"{curve}, w >= {least:.3g}")
            share = counted["kept"] / counted["all"]
            found[curve].append((1 + share * len(said.layers) * step, values))
    names = [(benchmark.group_of(row), row.task) for row in rows]
    points = compare(found, keeping(frozenset(said.layers)), names)
    layers = [
        {"layer": layer, "moved": float(moved.mean()), "ratio": float(ratio.mean())}
        for layer, moved, ratio in zip(said.layers, said.moved, said.ratios, strict=True)
    ]
    return {"tasks": list(benchmark.tasks), "questions": len(rows), "points": points, "layers": layers}


def compare(
    found: dict[str, list[tuple[float, np.ndarray]]], best: np.ndarray, names: Sequence[tuple[str, str]]
) -> dict[str, list[dict[str, Any]]]:
    """Return the points of each curve, beside every second pass and beside its control.

    found  (cost, score of each question [Q]) by curve;  best  [Q] with every second pass;  names  as for `paired`
    """
    points: dict[str, list[dict[str, Any]]] = {curve: [] for curve in found}
    for curve, line in found.items():
        for index, (cost, values) in enumerate(line):
            point = {"cost": cost, "score": float(values.mean()), "lost": paired(names, best - values)}
            if curve in CONTROLS:
                point["ahead"] = paired(names, values - found[CONTROLS[curve]][index][1])
            points[curve].append(point)
    return points


def paired(names: Sequence[tuple[str, str]], differences: np.ndarray) -> list[float]:
    """Return [mean, low, high], the 95 % interval being that of the mean of the tasks.

    names  (group, task) of each question, tasks being asked equally often;  differences  [Q]
    """
    pairs = zip(names, differences.tolist(), strict=True)
    draws = bootstrap((group, {task: difference}) for (group, task), difference in pairs)
    return [float(differences.mean()), *interval(np.mean([*draws.values()], axis=0))]


def _ranked(layers: Sequence[int], said: Tensor) -> list[int]:
    return [layers[i] for i in said.mean(dim=1).argsort(descending=True, stable=True).tolist()]


@contextmanager
def only(gates: Any, least: float, shuffle: bool) -> Iterator[dict[str, int]]:
    """Close the gates for tokens whose w is below `least`, or for as many other tokens of the same pass.

    Yields {"kept", "all"}, how many tokens the gates were asked about, those before a row of a batch included.
    """
    generator, counted = torch.Generator().manual_seed(0), {"kept": 0, "all": 0}

    def close(gate: Any, args: Any, ratio: Tensor) -> Tensor:
        kept = ratio >= least
        counted["kept"], counted["all"] = counted["kept"] + int(kept.sum()), counted["all"] + kept.numel()
        return ratio * (kept[:, torch.randperm(kept.shape[1], generator=generator)] if shuffle else kept)

    hooks = [gate.register_forward_hook(close) for gate in dict.fromkeys(gates)]
    try:
        yield counted
    finally:
        for hook in hooks:
            hook.remove()


def draw(points: dict[str, list[dict[str, float]]], path: Path) -> None:
    """Write the figure: a line for each curve, score over cost."""
    left, top, width, height = 54, 46, 470, 250
    canvas = Canvas(left + width + 130, top + height + 50)
    values = [point["score"] for curve in points.values() for point in curve]
    low, high = min(values), max(max(values), min(values) + 0.01)
    whole = max(point["cost"] for curve in points.values() for point in curve) - 1

    def place(point: dict[str, float]) -> tuple[float, float]:
        x, y = (point["cost"] - 1) / whole, (point["score"] - low) / (high - low)
        return left + x * width, top + height - y * height

    canvas.text(left, 12, "Primer, mean of the tasks, over passes of all layers", INK, 16)
    for step in range(5):
        value, cost = low + step * (high - low) / 4, 1 + step * whole / 4
        (x, y) = place({"cost": cost, "score": value})
        canvas.line(left, y, left + width, y, LINE)
        canvas.text(left - 6, y - 7, f"{100 * value:.1f}", MUTED, 12, "right")
        canvas.text(x, top + height + 6, f"{cost:.3g}", MUTED, 12, "middle")
    for row, (name, curve) in enumerate(points.items()):
        for one, other in pairwise(curve):
            canvas.line(*place(one), *place(other), COLOURS[name], 2)
        for point in curve:
            canvas.dot(*place(point), 3, COLOURS[name])
        canvas.text(left + width + 14, top + 20 * row, name, COLOURS[name])
    canvas.text(left + width / 2, top + height + 26, "times the plain decoder", MUTED, 12, "middle")
    with written_whole(path) as beside:
        canvas.finished().save(beside, "PNG", optimize=True)


if __name__ == "__main__":
    main()
