"""How sure the scores of a report are: from draws of its rows, and where rows do not differ, from how many there are.

Where all groups of rows have the same score, as of a task that is all right or all wrong, draws do not scatter, and
the score is not certain for that: other groups may differ. If none of n does, their share is at most the upper end of
Wilson's interval of 0 of n (Wilson, 1927). What that share would change is an error beside that of the draws, and the
two are added in square, as Newcombe (Statistics in Medicine 17, 1998, pp. 873-890) adds Wilson's ends of two shares.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from math import hypot

import numpy as np

from phantrol.evals.benchmark import Benchmark, Row
from phantrol.evals.intervals import bootstrap, half_sample_intervals, interval
from phantrol.evals.metrics import wilson_interval
from phantrol.evals.report import Report, Sample

MEAN = "mean of tasks"

Ends = tuple[float, float]  # of an interval; or how much lower and how much higher


def find_intervals(benchmark: Benchmark, rows: Sequence[Row], report: Report) -> dict[str, Ends]:
    """Return the 95 % interval of each score of the model, of the mean of the tasks, and of the overall scores."""
    samples = report.samples
    draws = bootstrap([(sample.group, sample.scores["model"]) for sample in samples])
    values = {name: report.scores[name]["model"] for name in draws}
    alike = {
        name: {sample.group for sample in samples if name in sample.scores["model"]}
        for name, drawn in draws.items()
        if np.ptp(drawn) < 1e-12
    }
    found = {}
    for name, drawn in draws.items():
        moves = {name: (values[name], 1 - values[name])} if name in alike else {}
        found[name] = _widened(values[name], interval(drawn), moves, alike)
    if draws:
        number = len(draws)
        moves = {name: (values[name] / number, (1 - values[name]) / number) for name in alike}
        found[MEAN] = _widened(sum(values.values()) / number, interval(sum(draws.values()) / number), moves, alike)
    return found | _overall_intervals(benchmark, rows, report, alike)


def _overall_intervals(
    benchmark: Benchmark, rows: Sequence[Row], report: Report, alike: Mapping[str, set[str]]
) -> dict[str, Ends]:
    if not report.overall:
        return {}
    samples, highest = report.samples, benchmark.highest_score
    groups = [sample.group for sample in samples]

    def of_some(positions: Sequence[int]) -> dict[str, float]:
        return _overall(benchmark, [rows[i] for i in positions], [samples[i] for i in positions])

    halves = half_sample_intervals(groups, of_some, highest=highest)
    # what a ratio would be if all were wrong or right nobody can say
    turned = {} if highest > 1 else {name: _turned(benchmark, rows, samples, name) for name in alike}
    found = {}
    for name, scores in report.overall.items():
        value = scores["model"]
        moves = {}
        for each, others in turned.items():
            apart = [other[name] - value for other in others if name in other]
            moves[each] = max(0.0, *(-gap for gap in apart)), max(0.0, *apart)
        low, high = _widened(value, halves[name], moves, alike, highest)
        if value in (0, highest):  # as an F1 may be though its rows differ
            least = wilson_interval(value, min(len(set(groups)), scores["n"]))
            low, high = min(low, least[0]), max(high, least[1])
        found[name] = low, high
    return found


def _turned(benchmark: Benchmark, rows: Sequence[Row], samples: Sequence[Sample], name: str) -> list[dict[str, float]]:
    """Return the overall scores if all rows that count for one score were wrong, and if they were right."""
    found = []
    for value in (0.0, 1.0):
        others = []
        for sample in samples:
            scores = sample.scores["model"]
            if name in scores:
                said = {"model": sample.answer if value else ""}
                sample = dataclasses.replace(sample, texts=said, scores={"model": {**scores, name: value}})
            others.append(sample)
        found.append(_overall(benchmark, rows, others))
    return found


def _overall(benchmark: Benchmark, rows: Sequence[Row], samples: Sequence[Sample]) -> dict[str, float]:
    if benchmark.judged:
        found = benchmark.overall_of(rows, [sample.scores["model"] for sample in samples])
    else:
        found = benchmark.overall(rows, [sample.texts["model"] for sample in samples])
    return {name: score for name, (score, _) in found.items()}


def _widened(
    value: float, drawn: Ends, moves: Mapping[str, Ends], alike: Mapping[str, set[str]], highest: float = 1.0
) -> Ends:
    """Return the interval of a score with what those that do not scatter add to that of its draws.

    moves  {one of these: how much lower and how much higher the score would be if it were another};  alike  its groups
    """
    lower, higher = (_off({name: ends[side] for name, ends in moves.items()}, alike) for side in (0, 1))
    return max(0.0, value - hypot(value - drawn[0], lower)), min(highest, value + hypot(drawn[1] - value, higher))


def _off(changes: Mapping[str, float], alike: Mapping[str, set[str]]) -> float:
    """Return how far off a score may be for those that do not scatter: Wilson's for all of them, over as many groups as
    if each group changed the score as much as the weightiest does, and over no more than there are."""
    changes = {name: change for name, change in changes.items() if change > 1e-12}
    if not changes:
        return 0.0
    whole, most = sum(changes.values()), max(change / len(alike[name]) for name, change in changes.items())
    number = min(whole / most, len(set().union(*(alike[name] for name in changes))))
    return whole * wilson_interval(0, number)[1]
