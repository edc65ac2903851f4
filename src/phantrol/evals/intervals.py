"""How sure a score is, and whether two differ: by drawing groups of rows again and again. Nothing is assumed normal.

R draws, G groups, S scores.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from math import exp, lgamma, log

import numpy as np

DRAWS, HALVES, FLIPS = 2000, 200, 10_000
EXACT = 14  # so many differences have few enough signs to try them all
CHUNK = 200  # draws at once

Scored = tuple[Hashable, Mapping[str, float]]  # the group of a row, and its scores by name


def bootstrap(rows: Iterable[Scored], draws: int = DRAWS, seed: int = 0) -> dict[str, np.ndarray]:
    """Return for each score its mean in resampled rows: {name: [R]}.

    Whole groups are drawn, with replacement, from those that have the same scores: a benchmark's tasks keep their size,
    and rows that stand and fall together do not count as so many.                         [Efron, 1979; clusters]
    """
    names, sums, counts = _table(rows)
    strata: dict[bytes, list[int]] = {}
    for index, row in enumerate(counts > 0):
        strata.setdefault(row.tobytes(), []).append(index)
    generator = np.random.default_rng(seed)
    total = np.zeros((draws, len(names))), np.zeros((draws, len(names)))
    for members in strata.values():
        shares = np.full(len(members), 1 / len(members))
        for start in range(0, draws, CHUNK):
            part = slice(start, min(start + CHUNK, draws))
            times = generator.multinomial(len(members), shares, size=part.stop - part.start)  # [R, G]
            total[0][part] += times @ sums[members]
            total[1][part] += times @ counts[members]
    return {name: total[0][:, column] / total[1][:, column] for column, name in enumerate(names)}


def interval(draws: np.ndarray) -> tuple[float, float]:
    """Return the 95 % percentile interval of draws. Where all rows score the same it has no width, and says little."""
    low, high = np.quantile(draws, (0.025, 0.975))
    return float(low), float(high)


def half_sample_intervals(
    groups: Sequence[Hashable],
    scores: Callable[[Sequence[int]], Mapping[str, float]],
    halves: int = HALVES,
    highest: float = 1.0,
) -> dict[str, tuple[float, float]]:
    """Return the 95 % intervals of scores that are no means over rows, as F1, from random halves of the groups.

    groups  of each row;  scores  of the rows at some positions, by name;  highest  that one can be; the lowest is 0
    Half of G groups, drawn without replacement, scatter around the score of all as that scatters around the truth (the
    delete-half jackknife), and no group comes twice, as it would in a bootstrap.            [Shao and Wu, 1989]
    Halves that lack a score, as that of a task none of whose rows is there, say nothing of it.
    """
    members: dict[Hashable, list[int]] = {}
    for position, group in enumerate(groups):
        members.setdefault(group, []).append(position)
    everyone = list(members.values())
    whole = scores(range(len(groups)))
    generator = np.random.default_rng(0)
    found: dict[str, list[float]] = {name: [] for name in whole}
    for _ in range(halves):
        drawn = generator.choice(len(everyone), len(everyone) // 2, replace=False) if len(everyone) > 1 else [0]
        half = scores(sorted(position for index in drawn for position in everyone[index]))
        for name in found.keys() & half.keys():
            found[name].append(half[name])
    ends = {name: interval(np.array(drawn or [whole[name]])) for name, drawn in found.items()}
    return {name: (max(0.0, low), min(highest, high)) for name, (low, high) in ends.items()}


def sign_flip_p(differences: Iterable[tuple[Hashable, float]]) -> float:
    """Return the two-sided p of paired differences, from (group, difference of a row): the paired permutation test.

    If neither model were better, each group's difference could as well have the other sign: p is the share of such
    flips whose sum is at least as far from 0. Exact where all signs can be tried, and where all differences are of one
    size, which is McNemar's exact test; else from 10,000 flips.
    """
    sums: dict[Hashable, float] = {}
    for group, difference in differences:
        sums[group] = sums.get(group, 0.0) + difference
    apart = np.array([value for value in sums.values() if abs(value) > 1e-12])
    if not len(apart):
        return 1.0
    if np.allclose(np.abs(apart), abs(apart[0])):
        return _binomial_p(int((apart > 0).sum()), len(apart))
    seen = abs(apart.sum()) - 1e-9
    if len(apart) <= EXACT:
        signs = 1 - 2 * ((np.arange(2 ** len(apart))[:, None] >> np.arange(len(apart))) & 1)
        return float((np.abs(signs @ apart) >= seen).mean())
    generator = np.random.default_rng(0)
    extreme = 0
    for start in range(0, FLIPS, CHUNK):
        signs = generator.integers(0, 2, (min(CHUNK, FLIPS - start), len(apart)), dtype=np.int8) * 2.0 - 1
        extreme += int((np.abs(signs @ apart) >= seen).sum())
    return (1 + extreme) / (1 + FLIPS)


def holm(values: Mapping[str, float]) -> dict[str, float]:
    """Return p values corrected for their number: the chance that any of them is by chance.       [Holm, 1979]"""
    corrected, worst = {}, 0.0
    for rank, name in enumerate(sorted(values, key=values.__getitem__)):
        worst = max(worst, min(1.0, (len(values) - rank) * values[name]))
        corrected[name] = worst
    return {name: corrected[name] for name in values}


def _table(rows: Iterable[Scored]) -> tuple[list[str], np.ndarray, np.ndarray]:
    """→ names [S], sums [G, S], counts [G, S]."""
    rows = list(rows)
    names = list(dict.fromkeys(name for _, scores in rows for name in scores))
    places = {group: index for index, group in enumerate(dict.fromkeys(group for group, _ in rows))}
    columns = {name: index for index, name in enumerate(names)}
    sums, counts = np.zeros((len(places), len(names))), np.zeros((len(places), len(names)))
    for group, scores in rows:
        for name, value in scores.items():
            sums[places[group], columns[name]] += value
            counts[places[group], columns[name]] += 1
    return names, sums, counts


def _binomial_p(ahead: int, number: int) -> float:
    """Return P(as uneven or more) of fair coins."""
    fewer = min(ahead, number - ahead)
    logs = [lgamma(number + 1) - lgamma(k + 1) - lgamma(number - k + 1) - number * log(2) for k in range(fewer + 1)]
    return min(1.0, 2 * sum(map(exp, logs)))
