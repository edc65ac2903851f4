"""Intervals by hand, the words that they allow, and what a report makes of them."""

from __future__ import annotations

from dataclasses import replace
from math import sqrt

import pytest

from phantrol.ablation.report import Setting, accuracy_rows, cost_rows, difference_rows, in_words, write_report
from phantrol.ablation.results import ALL, Cost, Results
from phantrol.ablation.statistics import Estimate, estimate, t_quantile
from phantrol.ablation.variants import PLAIN, TROL, VARIANTS
from phantrol.evals.report import COLUMNS

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


@pytest.fixture
def results():
    """Of two seeds; trol is better in each, and has one seed more."""
    scores = {"plain": {3: 0.50, 4: 0.60}, "trol": {3: 0.70, 4: 0.801, 5: 0.9}}
    lower = dict(zip(COLUMNS, (0.0, 0.2, 0.3), strict=True))
    found = {
        (name, "val", ALL, column): {seed: value - lower[column] for seed, value in values.items()}
        for name, values in scores.items()
        for column in COLUMNS
    }
    costs = {"plain": Cost(100, 10.0, 1.0), "trol": Cost(150, 20.0, 4.0)}
    return Results((PLAIN, TROL), costs, found, {("val", ALL): 8}, {"trol": {"mean_w": {3: 0.1, 4: 0.3}}})


def test_what_is_apart_is_bold_and_blind_columns_are_their_own(results):
    assert difference_rows(results, "val")[1][-1].startswith("**+20.")
    negated = {key: {seed: -value for seed, value in values.items()} for key, values in results.scores.items()}
    assert difference_rows(replace(results, scores=negated), "val")[1][-1].startswith("**-20.")
    assert accuracy_rows(results, "val")[1][-2:] == ["35.0", "25.0"]
    plain, trol = results.rows()
    assert (plain["shuffled"], plain["prior"]) == pytest.approx((0.35, 0.25))
    apart, own = estimate([0.2, 0.201]), estimate([0.7, 0.801, 0.9])
    assert (trol["difference_low"], trol["difference_high"]) == pytest.approx((apart.low, apart.high))
    assert (trol["low"], trol["high"]) == pytest.approx((own.low, own.high))


def test_costs_are_multiples_of_those_of_the_other(results):
    assert cost_rows(results.variants, results.costs)[2][2:] == ["150", "1.500", "20", "2.000", "4", "4.000"]


@pytest.mark.parametrize(("flops", "words"), [(20.5, "1.025 times the FLOPs of trol (equal)"), (25.0, "(not equal")])
def test_what_a_report_says_of_chance_compute_and_seeds(flops, words, results, tiny_recipe, tmp_path):
    deeper = next(variant for variant in VARIANTS if variant.compute_of is TROL)
    costs = {**results.costs, deeper.name: Cost(100, flops, 1.0)}
    results = replace(results, variants=(PLAIN, deeper, *[TROL] * 20), costs=costs)
    write_report(results, Setting("tiny", tiny_recipe(), seeds=3, limit=8, shared={}), tmp_path)
    said = (tmp_path / "report.md").read_text("utf-8")
    assert "These are 20 comparisons. Of so many, about 1.0 intervals" in said
    assert f"**Not finished**: plain, {deeper.name}. " in said
    assert words in said and "| trol | 0.2 |" in said
