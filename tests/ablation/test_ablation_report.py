"""What a report makes of the scores of all seeds."""

from __future__ import annotations

from dataclasses import replace

import pytest

from phantrol.ablation.report import Setting, accuracy_rows, cost_rows, difference_rows, write_report
from phantrol.ablation.results import ALL, Cost, Results
from phantrol.ablation.statistics import estimate
from phantrol.ablation.variants import PLAIN, TROL, VARIANTS
from phantrol.evals.report import COLUMNS


@pytest.fixture
def results():
    """Of two seeds; trol is better in each, and has one seed more."""
    scores = {"plain": {4: 0.60, 3: 0.50}, "trol": {3: 0.70, 4: 0.801, 5: 0.9}}
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
    beside_trol = replace(PLAIN, name="third", against="trol")
    costs = {**results.costs, "third": Cost(300, 5.0, 1.0)}
    assert cost_rows([TROL, beside_trol], costs)[2][2:] == ["300", "2.000", "5", "0.250", "1", "0.250"]


def test_each_family_has_its_own_difference(results):
    scores, counts = dict(results.scores), dict(results.counts)
    for family, better in (("shapes", 0.1), ("numbers", -0.05)):
        counts["val", family] = 4
        scores["plain", "val", family, "model"] = {3: 0.5, 4: 0.5}
        scores["trol", "val", family, "model"] = {3: 0.5 + better, 4: 0.5 + better, 5: 0.9}
    head, row = difference_rows(replace(results, scores=scores, counts=counts), "val")
    assert head == ["variant", "against", "seeds", ALL, "shapes", "numbers"]
    assert row[:3] == ["trol", "plain", "2"], "the seeds that both have"
    assert [cell.split(" ")[0].strip("*") for cell in row[4:]] == ["+10.0", "-5.0"]


def test_a_variant_is_finished_with_all_seeds_in_all_splits(results, tiny_recipe, tmp_path):
    scores, counts = dict(results.scores), {**results.counts, ("other", ALL): 8}
    for name, seeds in (("plain", (3, 4)), ("trol", (3,))):
        for column in COLUMNS:
            scores[name, "other", ALL, column] = dict.fromkeys(seeds, 0.5)
    results = replace(results, scores=scores, counts=counts)
    write_report(results, Setting("tiny", tiny_recipe(), seeds=2, limit=8, shared={}), tmp_path)
    assert "**Not finished**: trol. What" in (tmp_path / "report.md").read_text("utf-8")


@pytest.mark.parametrize(
    ("flops", "words"),
    [
        (18.9, "0.945 times the FLOPs of trol (not equal"),
        (19.1, "0.955 times the FLOPs of trol (equal)"),
        (20.9, "1.045 times the FLOPs of trol (equal)"),
        (21.1, "1.055 times the FLOPs of trol (not equal"),
    ],
)
def test_what_a_report_says_of_chance_compute_and_seeds(flops, words, results, tiny_recipe, tmp_path):
    deeper = next(variant for variant in VARIANTS if variant.compute_of is TROL)
    costs = {**results.costs, deeper.name: Cost(100, flops, 1.0)}
    results = replace(results, variants=(PLAIN, deeper, *[TROL] * 20), costs=costs)
    write_report(results, Setting("tiny", tiny_recipe(), seeds=3, limit=8, shared={}), tmp_path)
    said = (tmp_path / "report.md").read_text("utf-8")
    assert "These are 20 comparisons. Of so many, about 1.0 intervals" in said
    assert f"**Not finished**: plain, {deeper.name}. " in said
    assert words in said and "| trol | 0.2 |" in said
