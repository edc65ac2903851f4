"""Answers that are the number of an option become its letter, and what pandas writes for nothing is nothing."""

from __future__ import annotations

import json
import re
from math import nan

import pytest

from phantrol.data.broken import BrokenRow
from phantrol.data.layouts import read_draft
from phantrol.data.rows.opening import open_rows

COLORS = ["red", "blue", "green"]


def spoken(**row):
    draft = read_draft({"question": "Which?", **row})
    return draft.turns[0].text, draft.turns[-1].text, [text for text, _ in draft.rejected]


@pytest.mark.parametrize(
    ("options", "answer", "said"),
    [
        (COLORS, 2, "C"),  # ScienceQA, MMLU
        (COLORS, "0", "A"),  # AI2D
        (COLORS, 1.0, "B"),  # a column of pandas in which another row has none
        (["3", "2", "1", "0"], 2, "C"),  # MMLU: a number is never the text of an option
        (["A", "B"], 1, "B"),  # the picture holds the options
        (["3", "2", "1"], "2", "2"),  # a text that is an option itself
        ([3, 2, 1], 2, "2"),
        (["2.5", "1.0"], 1.0, "1.0"),
        (["10", "20", "30"], 20, "20"),  # the number of no option, but the value of one
        (["10", "20", "30"], 20.0, "20"),
        (["2.50", "3.50"], 2.5, "2.50"),
        (["9007199254740993", "0"], 9007199254740993, "9007199254740993"),  # of no float
        (COLORS, "B", "B"),
        (COLORS, "blue", "blue"),
        ("red or blue", 1, "1"),  # no letters are written, so none is meant
        ({"A": "red", "B": "blue"}, "B", "B"),
        ({"A": "red", "B": "blue"}, 1, "B"),
        ([], 2, "2"),
        (None, 2, "2"),
    ],
)
def test_the_number_of_an_option_is_its_letter(options, answer, said):
    assert spoken(options=options, answer=answer)[1] == said
    assert spoken(choices=options, answer="x", rejected=answer, incorrect=["y", answer])[2] == ["y", said, said]
    asked = spoken(choices=options, answer=answer)[0]
    assert asked == "Which?\nA. red\nB. blue\nC. green" or options is not COLORS


@pytest.mark.parametrize("answer", [3, -1, "3", 0.5, "99999999999", 10**400, float("inf")])
def test_a_number_of_no_option_is_a_broken_row(answer):
    with pytest.raises(BrokenRow, match=r"got .* as answer to 3 options, expected one of them.*from 0 to 2") as met:
        read_draft({"question": "Which?", "choices": COLORS, "answer": answer})
    assert met.value.reason == "wrong-type"


@pytest.mark.parametrize("choices", [COLORS, dict(zip("ABC", COLORS, strict=True))])
@pytest.mark.parametrize("answer", ["D", " Z ", "(D)", "D."])
def test_a_letter_past_the_last_option_is_a_broken_row(answer, choices):
    with pytest.raises(BrokenRow, match=rf"got {re.escape(answer)} as answer to 3 options, expected one of") as met:
        read_draft({"question": "Which?", "choices": choices, "answer": answer})
    assert met.value.reason == "wrong-type"
    assert spoken(options=["C", "N"], answer="N")[1] == "N"  # an option itself
    assert spoken(options=COLORS, answer="d")[1] == "d" and spoken(options="red", answer=answer)[1] == answer


def test_a_whole_conversation_keeps_its_numbers():
    turns = [{"from": "human", "value": "How many?"}, {"from": "gpt", "value": "2"}]
    assert read_draft({"conversations": turns, "choices": COLORS, "answer": 7}).turns[-1].text == "2"


@pytest.mark.parametrize("name", ["a.jsonl", "a.parquet"])
def test_nan_is_nothing(name, write):
    rows = [
        {"id": nan, "question": "a", "answer": "b", "input": nan, "system": nan, "rejected": nan, "image": nan},
        {"id": nan, "question": "a", "answer": nan, "input": nan, "system": nan, "rejected": nan, "image": nan},
    ]
    if name == "a.parquet":
        rows[1]["answer"] = None  # of a column of text; the others are columns of numbers
    opened = open_rows(write(name, rows))
    draft = read_draft(opened[0])
    assert draft.id == "" and [turn.text for turn in draft.turns] == ["a", "b"]
    assert draft.rejected == () and draft.images == ()
    with pytest.raises(BrokenRow) as met:
        read_draft(opened[1])
    assert met.value.reason == "unknown-layout"


@pytest.mark.parametrize(
    "row",
    [
        {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": nan}]},
        {"question": "a", "answer": "b", "rejected": [nan]},
        {"question": "a", "answer": "A", "options": ["c", nan]},
        json.loads('{"prompt": "a", "chosen": [{"role": "assistant", "content": NaN}]}'),
    ],
)
def test_nan_inside_a_field_is_told_as_nothing(row):
    with pytest.raises(BrokenRow, match="got nothing as"):
        read_draft(row)
