"""MathVista with a judge: what the final answer that it took out of a reply is worth."""

from __future__ import annotations

import pytest

from phantrol.evals.benchmarks.mathvista_judged import is_right
from phantrol.evals.published import PublishedRow


@pytest.mark.parametrize(
    "said", ["5", "$5$", "**5**", r"\boxed{5}", "x = 5", "(5)", "5.", "5 m/s", "5 years old", "about 5", "5 = 5"]
)
def test_a_number_is_right_in_any_form(said):
    row = PublishedRow("1", "t", [], "5", facts={"answer_type": "integer", "precision": None})
    assert is_right(row, said) and not is_right(row, f"{said} or 6")


NOTHING = ("null", "Null", "null.", "`null`", '"null"', "(null)", "None", "N/A", "unknown", "no answer")


@pytest.mark.parametrize("said", [*NOTHING, "The reply gives no final answer.", "I cannot tell."])
def test_no_final_answer_chooses_no_option(said):
    for choices in (("Yes", "No"), ("11", "12 cm", "15 cm")):
        assert not any(is_right(PublishedRow("1", "t", [], answer, choices=choices), said) for answer in choices)


@pytest.mark.parametrize(
    "said", ["B (uncertain)", "I'm not sure, but B", "No\nAnswer: B", "No. Answer: B", "B (no answer fits exactly)"]
)
def test_a_letter_is_an_answer_whatever_doubts_stand_beside_it(said):
    for answer in ("red", "blue"):
        row = PublishedRow("1", "t", [], answer, choices=("red", "blue"))
        assert is_right(row, said) == (answer == "blue")


@pytest.mark.parametrize(
    ("said", "right", "wrong"),
    [
        ("12cn", "12 cm", "15 kg"),
        ("None", "None", "Some"),
        ("A", "red", "blue"),
        ("It can't be told", "Cannot tell", "5"),
    ],
)
def test_a_final_answer_chooses_the_nearest_option(said, right, wrong):
    for answer in (right, wrong):
        row = PublishedRow("1", "t", [], answer, choices=(right, wrong))
        assert is_right(row, said) == (answer == right)
