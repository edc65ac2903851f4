from __future__ import annotations

from itertools import product
from math import inf

import numpy as np
import pytest

from phantrol.evals.benchmark import Benchmark, Row
from phantrol.evals.intervals import FLIPS, bootstrap, half_sample_intervals, holm, interval, sign_flip_p
from phantrol.evals.metrics import wilson_interval, yes_no_f1
from phantrol.evals.published import mean_of_tasks
from phantrol.evals.report import Report, Sample
from phantrol.evals.score_intervals import find_intervals


def rows(scores, task="task", group=None):
    return [(f"{task}{i}" if group is None else group(i), {task: float(score)}) for i, score in enumerate(scores)]


def test_the_bootstrap_is_as_wide_as_theory_says():
    draws = bootstrap(rows([1, 0, 0, 1] * 100), draws=4000)["task"]
    assert draws.mean() == pytest.approx(0.5, abs=0.005)
    assert draws.std() == pytest.approx((0.25 / 400) ** 0.5, rel=0.05)
    low, high = interval(draws)
    assert low == pytest.approx(0.5 - 1.96 * 0.025, abs=0.006) and high == pytest.approx(0.5 + 1.96 * 0.025, abs=0.006)


def test_rows_of_a_group_do_not_count_as_so_many():
    scores = [score for score in [1, 0] * 50 for _ in range(4)]
    alone = bootstrap(rows(scores))["task"].std()
    together = bootstrap(rows(scores, group=lambda i: i // 4))["task"].std()
    assert together == pytest.approx(2 * alone, rel=0.1)


def test_each_score_keeps_its_rows():
    mixed = rows([1, 0] * 10, "one") + rows([1] * 5, "two") + [("both", {"one": 1.0, "two": 0.0})]
    draws = bootstrap(mixed, draws=300)
    assert list(draws) == ["one", "two"]
    assert np.isfinite(draws["one"]).all() and np.isfinite(draws["two"]).all()
    assert set(np.round(draws["two"] * 6)) == {5}  # the groups of one kind keep their number
    same = bootstrap(mixed, draws=300)
    assert all((same[name] == draws[name]).all() for name in draws)
    assert not (bootstrap(mixed, draws=300, seed=1)["one"] == draws["one"]).all()


def half_sample_interval(groups, score, **options):
    return half_sample_intervals(groups, lambda some: {"score": score(some)}, **options)["score"]


def test_half_samples_are_as_wide_as_the_bootstrap_where_both_fit():
    generator = np.random.default_rng(0)
    values = generator.random(300)
    low, high = half_sample_interval(range(300), lambda some: float(values[list(some)].mean()), halves=2000)
    expected = 2 * 1.96 * values.std() / 300**0.5
    assert high - low == pytest.approx(expected, rel=0.08)
    assert (low + high) / 2 == pytest.approx(values.mean(), abs=0.01)


def test_the_interval_of_an_f1_holds_it():
    pairs = [("yes", "yes"), ("no", "yes"), ("yes", "no"), ("no", "no")] * 20
    low, high = half_sample_interval(range(80), lambda some: yes_no_f1([pairs[i] for i in some]))
    assert 0.3 < low < 0.5 < high < 0.7
    assert half_sample_interval(["one"], lambda some: 0.5) == (0.5, 0.5)
    scores = half_sample_intervals(range(4), lambda some: {"all": 0.5} | ({"first": 0.8} if 0 in some else {}))
    assert scores == {"all": (0.5, 0.5), "first": (0.8, 0.8)}  # a half without a score says nothing of it


def test_an_interval_ends_where_scores_do():
    values = [0.9, 1.3]
    for highest, end in ((1.0, 1.0), (1.2, 1.2), (inf, 1.3)):
        ends = half_sample_interval(range(2), lambda some: sum(values[i] for i in some) / len(some), highest=highest)
        assert ends == pytest.approx((0.9, end))
    assert half_sample_interval(range(2), lambda some: 0.1 - 2 * (some == [0]), highest=inf)[0] == 0


def report_of(rows):
    """A report of rows (group, {score name: score})."""
    samples = tuple(Sample(g, "t", "q", "a", {}, {"model": scores}, "", g) for g, scores in rows)
    return Report("primer", "val", "m", 0, samples)


def ends_of_the_mean(rows):
    return find_intervals(Benchmark(), [], report_of(rows))["mean of tasks"]


@pytest.mark.parametrize(("value", "ends"), [(0.0, (0, 0.2425)), (1.0, (0.7575, 1))])
def test_a_mean_of_tasks_that_are_all_right_or_all_wrong_is_not_certain(value, ends):
    assert wilson_interval(value, 12) == pytest.approx(ends, abs=1e-4)
    apart = [(f"{task}{i}", {task: value}) for task in ("shape", "count") for i in range(6)]
    assert ends_of_the_mean(apart) == pytest.approx(ends, abs=1e-4)
    both = [(f"{i}", {"captions": value, "captions_exact": value}) for i in range(12)]  # twelve rows, not 24
    assert ends_of_the_mean(both) == pytest.approx(ends, abs=1e-4)
    uneven = [
        *apart[:6],
        *((f"more{i}", {"count": value}) for i in range(994)),
    ]  # a mean knows as little as its least part
    assert ends_of_the_mean(uneven) == pytest.approx(ends, abs=1e-4)


def test_what_tasks_that_do_not_scatter_may_be_off_is_added():
    mixed = [(f"s{i}", {"shape": 1.0}) for i in range(12)] + [(f"c{i}", {"count": 0.0}) for i in range(12)]
    low, high = ends_of_the_mean(mixed)
    assert (0.5 - low, high - 0.5) == pytest.approx((0.2425 / 2, 0.2425 / 2), abs=1e-4)
    half = [(f"h{i}", {"half": i % 2}) for i in range(12)]
    drawn = ends_of_the_mean(half)
    assert drawn == pytest.approx(find_intervals(Benchmark(), [], report_of(half))["half"])
    low, high = ends_of_the_mean(mixed[:12] + half)
    assert high == pytest.approx((1 + drawn[1]) / 2)  # what is all right can only be worse
    assert 0.75 - low == pytest.approx(((0.5 - drawn[0]) ** 2 + 0.2425**2) ** 0.5 / 2, abs=1e-4)


class OfTasks(Benchmark):
    """Overall is the mean of the tasks, and `count_f1` knows but one of them."""

    def overall(self, rows, texts):
        pairs = [(row.answer, text) for row, text in zip(rows, texts, strict=True) if row.task == "count"]
        one = {"count_f1": (yes_no_f1([(text, answer) for answer, text in pairs]), len(pairs))} if pairs else {}
        return mean_of_tasks([(row, float(text == row.answer)) for row, text in zip(rows, texts, strict=True)]) | one


def intervals_of(shares, number=12):
    """The intervals of tasks of which these shares of twelve rows are right; a right answer is yes, a wrong one no."""
    rows = [Row(f"{task}{i}", task, [], "yes") for task in shares for i in range(number)]
    texts = ["yes" if i < share * number else "no" for share in shares.values() for i in range(number)]
    scores = [{"model": {row.task: float(text == "yes")}} for row, text in zip(rows, texts, strict=True)]
    samples = [
        Sample(row.id, row.task, "", "yes", {"model": text}, each, "", row.id)
        for row, text, each in zip(rows, texts, scores, strict=True)
    ]
    benchmark = OfTasks()
    overall = {name: {"model": value, "n": n} for name, (value, n) in benchmark.overall(rows, texts).items()}
    return find_intervals(benchmark, rows, Report("b", "val", "m", 0, tuple(samples), overall))


def test_an_overall_score_is_as_unsure_as_the_mean_of_its_tasks():
    """Halves of tasks that are all right or all wrong do not scatter: alone they would have no width here."""
    found = intervals_of({"shape": 1.0, "count": 0.0, "color": 1.0})
    assert found["overall"] == pytest.approx(found["mean of tasks"])
    assert found["overall"] == pytest.approx((2 / 3 * (1 - 0.1380), 2 / 3 + 0.2425 / 3), abs=1e-4)
    assert found["count_f1"] == pytest.approx(wilson_interval(0, 12), abs=1e-4)  # of its own rows alone
    mixed = intervals_of({"shape": 1.0, "count": 0.5, "color": 1.0})
    assert mixed["overall"] == pytest.approx(mixed["mean of tasks"], abs=0.02)
    both = intervals_of({"count": 1.0, "color": 0.5})
    alone = intervals_of({"count": 0.5, "color": 0.5})
    assert both["count_f1"] == pytest.approx(wilson_interval(1, 12), abs=1e-4)
    assert alone["overall"] == pytest.approx(alone["mean of tasks"], abs=0.03)


def test_groups_that_are_all_half_right_are_not_certain_either():
    """Two questions about a picture, and the same answer to both: each group is half right, as in MME."""
    rows = [(f"{i}", {"existence": float(second)}) for i in range(12) for second in (0, 1)]
    assert find_intervals(Benchmark(), [], report_of(rows))["existence"] == pytest.approx(
        (0.5 - 0.2425 / 2, 0.5 + 0.2425 / 2), abs=1e-4
    )


def test_the_permutation_test_is_exact_where_it_can_be():
    apart = [0.5, -0.25, 1.0, 0.125]
    sums = [abs(sum(a * s for a, s in zip(apart, signs, strict=True))) for signs in product((1, -1), repeat=4)]
    expected = sum(total >= abs(sum(apart)) for total in sums) / 16
    assert sign_flip_p(enumerate(apart)) == pytest.approx(expected)
    # McNemar: 8 better and 1 worse, 2 · (1 + 9) / 2⁹
    assert sign_flip_p(enumerate([1.0] * 8 + [-1.0] + [0.0] * 50)) == pytest.approx(20 / 512)
    assert sign_flip_p(enumerate([0.0, 0.0])) == 1


def test_the_permutation_test_by_chance():
    generator = np.random.default_rng(1)
    none = generator.normal(0, 1, 200)
    assert sign_flip_p(enumerate(none - none.mean())) > 0.9
    assert sign_flip_p(enumerate(none + 0.5)) < 0.001
    assert sign_flip_p(enumerate(range(1, 15))) == 2 / 2**14  # of so few, all signs are tried
    grouped = [(i // 50, value) for i, value in enumerate([0.1] * 200)]
    assert sign_flip_p(grouped) == 0.125  # four groups, all better: 2 / 2⁴
    assert sign_flip_p(enumerate(range(1, 41))) == 1 / (1 + FLIPS)  # never 0: what is seen is one of the flips


def test_holm():
    assert holm({"a": 0.01, "b": 0.04, "c": 0.03}) == pytest.approx({"a": 0.03, "b": 0.06, "c": 0.06})
    assert holm({"a": 0.6, "b": 0.9}) == {"a": 1.0, "b": 1.0}
    assert holm({}) == {}
