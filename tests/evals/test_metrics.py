from __future__ import annotations

from pathlib import Path

import pytest

import phantrol
from phantrol.evals.letters import chosen_letter, option_letter
from phantrol.evals.metrics import (
    anls,
    attribute_f1,
    edit_distance,
    exact_match,
    normalise,
    number,
    relaxed_accuracy,
    share_of_groups_right,
    wilson_interval,
    yes_no,
    yes_no_f1,
)

METRICS = Path(phantrol.__file__).with_name("evals") / "metrics.py"
NOUNS, ADJECTIVES = {"circle", "star", "dog", "ice cream", "cream"}, {"red", "blue", "large", "small"}


def test_normalise():
    assert normalise("  The Red,  circle. ") == "red circle"
    assert normalise('"An owl"!') == "owl"
    assert normalise("**Yes**, a `red` *star*") == "yes red star"
    assert normalise("A.") == normalise("a") == ""  # articles go, which is why letters have a metric of their own


def test_exact_match():
    assert exact_match("A red circle.", "red circle") == 1
    assert exact_match("red circle star", "red circle") == 0
    assert exact_match("", "red") == 0


@pytest.mark.parametrize(
    ("text", "answer", "score"),
    [
        ("A", "A", 1),
        ("a.", "A", 1),
        ("The A", "A", 0),
        ("", "A", 0),
        ("The", "A", 0),
        ("A house", "A", 0),
        ("A", "B", 0),
        ("the", "The", 1),
        ("An", "", 0),
    ],
)
def test_an_answer_of_articles_alone_wants_these_words(text, answer, score):
    assert exact_match(text, answer) == relaxed_accuracy(text, answer) == score


@pytest.mark.parametrize(
    ("text", "answer", "score"),
    [
        ("Yes.", "yes", 1),
        ("no", "yes", 0),
        ("No, there is not.", "no", 1),
        ("yes or no", "yes", 0),
        ("I say yes", "yes", 0),
        ("", "no", 0),
        ("maybe", "no", 0),
    ],
)
def test_yes_no(text, answer, score):
    assert yes_no(text, answer) == score


@pytest.mark.parametrize(
    ("text", "answer", "score"),
    [
        ("3", "3", 1),
        ("There are three.", "3", 1),
        ("13", "3", 0),
        ("2 or 3", "3", 0),
        ("3.0", "3", 1),
        ("1,200 objects", "1200", 1),
        ("-1", "1", 0),
        ("some", "0", 0),
        ("someone", "1", 0),
        (".5", "5", 0),  # a half
        ("No.5", "5", 1),
        ("thirty-five", "5", 0),
        ("thirty-five", "35", 1),
        ("ninety two", "2", 0),
        ("twenty-one of them", "21", 1),
        ("two hundred", "2", 0),
        ("a hundred and two", "2", 0),
        ("One hundred and fifty-two.", "152", 1),
        ("sixteen", "16", 1),
        ("-$5", "5", 0),
        ("−€3.2", "-3.2", 1),
        ("- 5", "-5", 1),
        ("negative five", "-5", 1),
        ("10 - 5", "-5", 0),
        ("10-5", "-5", 0),
        ("5 - 5", "5", 1),  # a dash
        ("level-5", "5", 1),
    ],
)
def test_number(text, answer, score):
    assert number(text, answer) == score


def test_a_right_answer_without_a_number_is_the_benchmarks_fault():
    with pytest.raises(ValueError, match="expected one number"):
        number("3", "three or 4")


@pytest.mark.parametrize(
    ("text", "answer", "score"),
    [
        ("100", "100", 1),
        ("95", "100", 1),
        ("105", "100", 1),
        ("94.9", "100", 0),
        ("105.1", "100", 0),
        # 5 % of the answer, not of what was said: 5 % of 105.2 would be 5.26
        ("105.2", "100", 0),
        ("95.0", "100.0", 1),
        ("0.95", "1", 1),
        ("1.05", "1", 1),
        ("10", "9.6", 1),
        ("-95", "-100", 1),
        ("95", "-100", 0),
        ("−95", "-100", 1),  # the sign of typography
        ("−95", "100", 0),
        ("0", "0", 1),
        ("0.001", "0", 0),  # 5 % of nothing is nothing
        ("1,150", "1200", 1),
        (".5", "0.5", 1),
        ("-.5 m", "-0.5", 1),
        ("0.51", ".5", 1),
        (".5", "5", 0),
        ("$1,200", "1200", 1),
        ("about 12 %", "12%", 1),
        ("twelve", "12", 1),
        ("12 of 40", "12", 0),  # two numbers: which one is meant?
        ("", "12", 0),
        ("3", "3 cm", 1),
        ("three", "three", 1),
        ("Oslo.", "Oslo", 1),  # not a number: the words count
        ("Bonn", "Oslo", 0),
        ("2021", "2020-03-01", 0),  # a date is not a number to be near to
        ("2020-03-01", "2020-03-01", 1),
        ("4 July", "4 June", 0),
        ("21 June", "20 June", 0),
        ("21 Jan", "20 Jan", 0),
        ("21 Sept", "20 Sept", 0),
        ("21 dec", "20 dec", 0),
        ("4 june.", "4 June", 1),
        ("5 marks", "5", 1),
        ("1.2 million", "1.2 billion", 0),
        ("$1.21 billion", "1.2 billion", 1),
        ("1.2 billion", "1.2", 1),  # the answer counts in billions
        ("3 months", "3 years", 1),  # units do not matter
        ("minus 5", "-5", 1),
        ("minus 5", "5", 0),
        ("-5", "Minus five", 1),
        ("minus twenty %", "-20", 1),
        ("10 minus 5", "5", 0),
        ("-$5", "-5", 1),
        ("5", "−$5", 0),
        ("- 5 %", "-5", 1),
        ("negative 5", "-5", 1),
        ("3 - 5", "-5", 0),
        ("5.1 trillion", "5 trillion", 1),
        ("5.1 thousand", "5 million", 0),
        ("one hundred million", "100 million", 1),
        ("36", "thirty-five", 1),
        ("two hundred", "2", 0),
        ("100", "a hundred", 1),
        ("5", "the five", 1),
    ],
)
def test_relaxed_accuracy(text, answer, score):
    assert relaxed_accuracy(text, answer) == score


def test_relaxed_accuracy_looks_from_the_answer():
    """With text and answer the wrong way round these two would come out exchanged."""
    assert relaxed_accuracy("104.9", "100") == 1 and relaxed_accuracy("95.2", "100") == 1
    assert relaxed_accuracy("100", "95.2") == 0  # 4.8 is more than 5 % of 95.2
    assert relaxed_accuracy("100", "105.2") == 1  # 5.2 is less than 5 % of 105.2
    assert relaxed_accuracy("110", "100", tolerance=0.1) == 1


@pytest.mark.parametrize(
    ("one", "other", "distance"),
    [("", "", 0), ("", "abc", 3), ("kitten", "sitting", 3), ("flaw", "lawn", 2), ("ab", "ba", 2), ("same", "same", 0)],
)
def test_edit_distance(one, other, distance):
    assert edit_distance(one, other) == edit_distance(other, one) == distance


@pytest.mark.parametrize(
    ("text", "answer", "score"),
    [
        ("Hello", "hello", 1),
        ("  new   york ", "New York", 1),
        ("kitten", "sitting", 1 - 3 / 7),
        ("hellp", "hello", 0.8),
        ("the hello", "hello", 1 - 4 / 9),  # articles count, other than in exact match
        ("abcd", "abxy", 0),  # half of it is wrong: the threshold is not enough
        ("abcde", "abcxy", 0.6),
        ("", "hello", 0),
        ("12.50", "12.80", 0.8),
    ],
)
def test_anls(text, answer, score):
    assert anls(text, answer) == pytest.approx(score)


def test_anls_takes_another_threshold_but_no_empty_answer():
    assert anls("abcd", "abxy", threshold=0.51) == 0.5
    with pytest.raises(ValueError, match="empty"):
        anls("a", " ")


def test_yes_no_f1_by_hand():
    # said yes 3 times, rightly 2 of them; 4 are a yes: precision 2/3, recall 2/4
    pairs = [("Yes.", "yes"), ("yes", "yes"), ("yes", "no"), ("no", "yes"), ("maybe", "yes"), ("no", "no")]
    assert yes_no_f1(pairs) == pytest.approx(2 * (2 / 3) * (2 / 4) / (2 / 3 + 2 / 4))
    assert yes_no_f1([("yes", "yes"), ("no", "no")]) == 1
    assert yes_no_f1([("no", "yes"), ("no", "no")]) == 0
    assert yes_no_f1([]) == 0
    assert yes_no_f1([("yes or no", "yes")]) == 0
    # who always says yes gets 2/3 where half of the answers are a yes, whoever always says no nothing
    assert yes_no_f1([("yes", "yes"), ("yes", "no")]) == pytest.approx(2 / 3)
    with pytest.raises(ValueError, match="'perhaps'"):
        yes_no_f1([("yes", "perhaps")])


def test_groups_count_only_if_all_of_them_is_right():
    scores = [("a", 1.0), ("b", 1.0), ("a", 1.0), ("b", 0.0), ("a", 1.0), ("c", 0.5)]
    assert share_of_groups_right(scores) == pytest.approx((1 / 3, 3))
    assert share_of_groups_right(reversed(scores)) == pytest.approx((1 / 3, 3))
    assert share_of_groups_right([]) == (0, 0)


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("B", "B"),
        ("b", "B"),
        ("(B)", "B"),
        ("B.", "B"),
        ("B. red", "B"),
        ("B: a dog", "B"),
        ("The answer is C", "C"),
        ("The answer is (C).", "C"),
        ("option D", "D"),
        ("I choose A.", "A"),
        ("A dog is in the image", None),
        ("A. red B. blue", None),
        ("A or B", None),
        ("A or B.", None),
        ("(A) or (B)", None),
        ("It is A, B", None),
        ("A/B", None),
        ("Either A and B are right", None),
        ("red", None),
        ("", None),
        ("It is I", "I"),
        ("the answer is b", "B"),
        ("Answer: b.", "B"),
        ("The answer: B because it is red", "B"),
        ("**B**", "B"),
        ('"B"', "B"),
        ("[B]", "B"),
        ("B red", "B"),
        ("The answer is not A but B", "B"),
        ("not B", None),
        ("B\nC", None),
        ("Bananas", None),
        ("the answer is blue", None),
    ],
)
def test_chosen_letter(text, letter):
    assert chosen_letter(text) == letter
    assert option_letter(text, "B") == float(letter == "B")


def test_attribute_f1_by_hand():
    def f1(text, answer):
        return attribute_f1(text, answer, NOUNS, ADJECTIVES)

    truth = "The image shows a large red circle and a small blue star."
    assert f1(truth, truth) == 1
    assert f1("a small blue star, a large red circle", truth) == 1  # in another order
    # colours swapped: circle, large circle, star, small star are right of 6 said and 6 true
    assert f1("a large blue circle and a small red star", truth) == pytest.approx(2 * 4 / 12)
    # one object unsaid: 3 right of 3 said and 6 true
    assert f1("a large red circle", truth) == pytest.approx(2 * 3 / 9)
    assert f1("a dog", truth) == 0
    assert f1("", truth) == 0
    assert f1("red or blue circle", "red circle") == pytest.approx(2 * 1 / 4)  # the colour next to it counts
    # a noun of two words is one noun, and its words none
    assert f1("ice cream", "ice cream") == 1 and f1("cream", "ice cream") == 0
    assert f1("a small ice cream and a dog", "a dog and small ice cream") == 1
    # saying everything twice does not help
    assert f1("red circle red circle", "red circle") == pytest.approx(2 * 2 / 6)
    with pytest.raises(ValueError, match="none of the known nouns"):
        f1("a", "a house")


def test_wilson_interval():
    low, high = wilson_interval(0.5, 100)
    assert (round(low, 4), round(high, 4)) == (0.4038, 0.5962)  # from the textbook
    assert wilson_interval(1.0, 10)[0] == pytest.approx(0.7225, abs=1e-4)
    assert wilson_interval(0.0, 10) == (pytest.approx(0, abs=1e-12), pytest.approx(0.2775, abs=1e-4))
    assert wilson_interval(0.3, 0) == (0, 1)


def test_metrics_stand_alone():
    """letters.py and the benchmarks stand on them, and not the other way, inside a function either."""
    assert "phantrol" not in METRICS.read_text("utf-8")
