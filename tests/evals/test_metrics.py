from __future__ import annotations

import pytest

from phantrol.evals.metrics import (
    attribute_f1,
    chosen_letter,
    exact_match,
    normalise,
    number,
    option_letter,
    wilson_interval,
    yes_no,
)

NOUNS, ADJECTIVES = {"circle", "star", "dog"}, {"red", "blue", "large", "small"}


def test_normalise():
    assert normalise("  The Red,  circle. ") == "red circle"
    assert normalise('"An owl"!') == "owl"
    assert normalise("A.") == normalise("a") == ""  # articles go, which is why letters have a metric of their own


def test_exact_match():
    assert exact_match("A red circle.", "red circle") == 1
    assert exact_match("red circle star", "red circle") == 0
    assert exact_match("", "red") == 0


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
    ],
)
def test_number(text, answer, score):
    assert number(text, answer) == score


def test_a_right_answer_without_a_number_is_the_benchmarks_fault():
    with pytest.raises(ValueError, match="expected one number"):
        number("3", "three or 4")


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
        ("red", None),
        ("", None),
        ("It is I", "I"),
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
