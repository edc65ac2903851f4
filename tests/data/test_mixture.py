from __future__ import annotations

import itertools
from collections import Counter

import pytest

from phantrol.data.mixture import Groups, Mixture, permuted
from phantrol.data.sources.file import FileSource

WEIGHTS = [(1.0,), (1, 1), (0.7, 0.2, 0.1), (5, 3, 3, 0.01), (1 / 3, 1 / 7, 0.123456, 2)]


def mixture(weights, length=1000) -> Mixture:
    return Mixture(
        tuple((weight, range(number * 10_000, number * 10_000 + length)) for number, weight in enumerate(weights))
    )


@pytest.mark.parametrize("weights", WEIGHTS)
def test_every_prefix_has_the_right_proportions(weights):
    mix, taken = mixture(weights), Counter()
    for index in range(400):
        source, count = mix.pick(index)
        assert count == taken[source]  # the k-th pick of a source is its k-th group: none skipped, none twice
        taken[source] += 1
        for number, weight in enumerate(weights):
            assert abs(taken[number] - (index + 1) * weight / sum(weights)) < 1.2


def test_far_positions_need_no_walk_from_the_start():
    mix = mixture((0.7, 0.2, 0.1))
    start = 10**15
    picks = [mix.pick(index) for index in range(start, start + 10)]
    assert sorted(Counter(source for source, _ in picks).items()) == [(0, 7), (1, 2), (2, 1)]
    assert abs(picks[0][1] - start * [0.7, 0.2, 0.1][picks[0][0]]) < 2


def test_order_by_hand():
    # shares 2/3 and 1/3: due times of source 0 are 0.75, 2.25, 3.75 ...; of source 1 are 1.5, 4.5 ...
    assert [mixture((2, 1)).pick(index) for index in range(6)] == [(0, 0), (1, 0), (0, 1), (0, 2), (1, 1), (0, 3)]


def test_scaling_the_weights_changes_nothing():
    small, large = mixture((0.1, 0.3)), mixture((10, 30))
    assert [small.pick(i) for i in range(50)] == [large.pick(i) for i in range(50)]


@pytest.mark.parametrize("length", [1, 2, 3, 10, 16, 17, 100, 1025])
def test_permuted_is_a_permutation(length):
    assert sorted(permuted(i, length, (0, 1, 2)) for i in range(length)) == list(range(length))


def test_permuted_depends_on_every_part_of_the_key_and_shuffles():
    orders = [tuple(permuted(i, 100, key) for i in range(100)) for key in itertools.product((0, 1), repeat=3)]
    assert len(set(orders)) == 8
    for order in orders:
        fixed_points = sum(position == value for position, value in enumerate(order))
        assert fixed_points < 8  # the mean of a random permutation is 1
        assert sum(b == a + 1 for a, b in itertools.pairwise(order)) < 8


def test_permuted_spreads_evenly_over_a_huge_range():
    length = 2**60 + 3
    values = [permuted(i, length, (7, 0, 0)) for i in range(2000)]
    assert len(set(values)) == 2000
    halves = Counter(value * 4 // length for value in values)
    assert all(abs(halves[quarter] - 500) < 100 for quarter in range(4))


def test_a_finite_source_gives_every_group_once_an_epoch_in_another_order_each_time():
    mix = Mixture(((1.0, range(7)),))
    epochs = [[mix.group(i, seed=3) for i in range(epoch * 7, epoch * 7 + 7)] for epoch in range(4)]
    assert all(sorted(epoch) == list(range(7)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 1
    assert [mix.group(i, seed=4) for i in range(28)] != list(itertools.chain(*epochs))


def test_sources_of_one_length_are_walked_in_orders_of_their_own():
    mix = Mixture(((1.0, range(50)), (1.0, range(50))))
    places = [mix.locate(index, seed=3) for index in range(100)]
    one, other = ([place for source, place in places if source == number] for number in (0, 1))
    assert sorted(one) == sorted(other) == list(range(50)) and one != other


def test_a_source_that_is_never_used_up_is_walked_in_its_own_order():
    long, short = range(100_000_000), range(99_999_999)
    assert [Mixture(((1, long),)).group(i, seed=3) for i in range(20)] == list(range(20))
    assert [Mixture(((1, short),)).group(i, seed=3) for i in range(20)] != list(range(20))


def test_groups_are_a_pure_function_of_the_position():
    mix = mixture((0.7, 0.3), length=13)
    groups = Groups(mix, seed=5, length=40)
    assert len(groups) == 40
    assert [groups[i] for i in reversed(range(40))] == [Groups(mix, 5, 40)[i] for i in reversed(range(40))]


@pytest.mark.parametrize("weight", [0, -1, float("nan"), float("inf"), "2", True])
def test_a_weight_must_be_a_positive_number(weight):
    with pytest.raises(ValueError, match=r"weight of part 1: got .* expected a positive number"):
        Mixture(((1.0, [1]), (weight, [2])))


def test_no_parts_and_empty_sources_are_refused(tmp_path):
    with pytest.raises(ValueError, match="without parts"):
        Mixture(())
    with pytest.raises(ValueError, match="part 0 of the mixture is empty: a list; give it rows"):
        Mixture(((1.0, []),)).group(0)
    (tmp_path / "mine.json").write_text("[]")
    with pytest.raises(ValueError, match=r"part 1 of the mixture is empty: .*mine\.json; give it rows"):
        Mixture(((1.0, [1]), (1.0, FileSource(tmp_path / "mine.json")))).group(1)


SOURCE = FileSource("nowhere.jsonl")


@pytest.mark.parametrize(
    "parts",
    [((1.0, "mine.jsonl"),), (SOURCE,), (1.0, SOURCE), SOURCE, "mine.jsonl", None, ((1.0, FileSource),), ((1, [], 2),)],
    ids=str,
)
def test_parts_are_pairs_of_a_weight_and_a_source(parts):
    assert len(Mixture(zip((1.0, 2.0), (range(5), range(3)), strict=True)).parts) == 2
    with pytest.raises(ValueError, match=r"^parts of a mixture: got .*, expected pairs \(weight, source\), such as"):
        Mixture(parts)
