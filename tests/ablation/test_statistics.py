"""Intervals by hand, and the words that they allow."""

from __future__ import annotations

from math import sqrt

import pytest

from phantrol.ablation.report import in_words
from phantrol.ablation.statistics import Estimate, estimate, t_quantile

# from printed tables of Student's t, 95 % two-sided
TABLE = {1: 12.7062, 2: 4.3027, 3: 3.1824, 4: 2.7764, 5: 2.5706, 9: 2.2622, 10: 2.2281, 30: 2.0423, 120: 1.9799}


@pytest.mark.parametrize(("freedom", "expected"), TABLE.items())
def test_quantiles_are_those_of_the_tables(freedom, expected):
    assert t_quantile(freedom) == pytest.approx(expected, abs=5e-5)


def test_an_interval_by_hand():
    found = estimate([1.0, 2.0, 3.0])  # mean 2, standard deviation 1
    assert found == Estimate(2.0, pytest.approx(4.302653 / sqrt(3), abs=1e-5), 3)
    assert found.low == pytest.approx(2 - 2.484138, abs=1e-5)
    assert found.high == pytest.approx(2 + 2.484138, abs=1e-5)


def test_two_seeds_by_hand():
    assert estimate([0.5, 0.7]).half == pytest.approx(12.7062 * 0.141421 / sqrt(2), abs=1e-4)


def test_one_seed_has_no_interval():
    found = estimate([0.4])
    assert (found.mean, found.half, found.low, found.high, found.verdict) == (0.4, None, None, None, "one seed")
    with pytest.raises(ValueError, match="at least one seed"):
        estimate([])


@pytest.mark.parametrize(
    ("values", "verdict", "words"),
    [
        ([0.01, 0.05, 0.03], "no difference seen", "+3.0 (-2.0 to +8.0), no difference seen"),
        ([0.04, 0.05, 0.06], "higher", "+5.0 (+2.5 to +7.5), higher"),
        ([-0.04, -0.05, -0.06], "lower", "-5.0 (-7.5 to -2.5), lower"),
        ([0.0, 0.0, 0.0], "no difference seen", "+0.0 in each of 3 seeds, no difference seen"),
        ([0.5, 0.5], "no scatter", "+50.0 in each of 2 seeds, no interval without scatter"),
        ([0.3 - 0.2, 0.4 - 0.3, 0.5 - 0.4], "no scatter", "+10.0 in each of 3 seeds, no interval without scatter"),
        ([5.6e-17] * 3, "no difference seen", "+0.0 in each of 3 seeds, no difference seen"),
        ([0.3], "one seed", "+30.0 with one seed, which says nothing"),
    ],
)
def test_nothing_is_claimed_beyond_the_interval(values, verdict, words):
    assert estimate(values).verdict == verdict
    assert in_words(estimate(values)) == words
