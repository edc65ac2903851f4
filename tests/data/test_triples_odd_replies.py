"""Replies of an endpoint that are none, or have another form than OpenAI's: one row fails, or nothing does."""

from __future__ import annotations

import json

import pytest

from phantrol.data.triples.endpoint import Endpoint
from phantrol.data.triples.journal import Journal
from phantrol.data.triples.making import failed_path, journal_path, make_by_asking
from phantrol.data.triples.reading import OwnRows

USAGE = {"prompt_tokens": 3, "completion_tokens": 2}


@pytest.fixture
def rows(write):
    return OwnRows([write("own.jsonl", [{"question": f"Color {n}?", "answer": "red"} for n in range(3)])])


@pytest.fixture
def said(replying):
    """`said(content)`: an endpoint that says this and nothing else; `choices=` and `usage=` are what the reply has."""

    def start(content="yes", usage=USAGE, **choices):
        choices = choices or {"choices": [{"index": 0, "message": {"role": "assistant", "content": content}}]}
        body = {"id": "x", "object": "chat.completion", "created": 1, "model": "m", "usage": usage, **choices}
        address = replying(200, json.dumps(body).encode(), {"Content-Type": "application/json"})
        return Endpoint(address, "m", retries=0)

    return start


@pytest.mark.parametrize(
    "choices",
    [
        [{"index": 0, "message": None}],
        [{"index": 0, "text": "hi"}],
        [{"index": 0, "message": "hi"}],
        [{"index": 0, "message": {"role": "assistant", "content": 7}}],
        [{"index": 0, "message": {"role": "assistant", "content": [{"type": "thinking", "thinking": "hm"}]}}],
        [None],
        {"0": {"message": {"role": "assistant", "content": "hi"}}},
        None,
    ],
)
def test_a_reply_without_an_answer_fails_its_row_and_no_other(choices, said, rows):
    out = rows.paths[0].with_name("out.jsonl")
    for _ in range(2):  # the next run is not stopped by what the first one wrote
        tally = make_by_asking(rows, out, said(choices=choices), said("yes"))
        assert tally.rows == 3 and not tally.accepted
        failed = [json.loads(line) for line in failed_path(out).read_text().splitlines()]
        assert [line["reason"] for line in failed] == ["a reply without an answer"] * 3
    assert not journal_path(out).read_bytes()
    assert make_by_asking(rows, out, said("blue"), said("yes"), ("incorrect",)).accepted["incorrect"] == 3


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ([{"type": "thinking", "text": "hm"}, {"type": "text", "text": "bl"}, {"type": "text", "text": "ue"}], "blue"),
        ("blue\ud83d", "blue"),
        ("blue\u2028and\x85white", "blue\u2028and\x85white"),
    ],
    ids=["parts", "half of a surrogate pair", "ends of lines"],
)
def test_an_answer_of_another_form_is_read_and_kept(content, text, said, rows):
    out = rows.paths[0].with_name("out.jsonl")
    asking, judging = said(content), said("yes")
    first = make_by_asking(rows, out, asking, judging, ("incorrect",))
    assert first.accepted["incorrect"] == 3 and first.asked_now == 6
    written = [json.loads(line) for line in out.read_text("utf-8").split("\n")[:-1]]
    assert {line["rejected"][0]["content"] for line in written} == {text}
    assert make_by_asking(rows, out, asking, judging, ("incorrect",)).asked_now == 0


@pytest.mark.parametrize(
    ("usage", "tokens"),
    [
        (USAGE, (9, 6)),
        ({"prompt_tokens": "3", "completion_tokens": 2.5}, (0, 0)),
        ({"prompt_tokens": True, "completion_tokens": 2}, (0, 6)),
        ([3, 2], (0, 0)),
        ("none", (0, 0)),
    ],
)
def test_counts_that_are_no_whole_numbers_are_none(usage, tokens, said, rows):
    out = rows.paths[0].with_name("out.jsonl")
    used = make_by_asking(rows, out, said("blue", usage), said("yes"), ("incorrect",)).usage["ask"]
    assert (used.tokens_in, used.tokens_out) == tokens and used.uncounted == (0 if all(tokens) else 3)


@pytest.mark.parametrize("odd", [{"text": ["blue"]}, {"text": 7}, {"tokens_in": "3"}, {"tokens_out": 2.5}])
def test_what_an_older_version_kept_of_such_replies_is_asked_for_again(odd, said, rows):
    out = rows.paths[0].with_name("out.jsonl")
    asking, judging = said("blue"), said("yes")
    whole = make_by_asking(rows, out, asking, judging, ("incorrect",))
    lines = [json.loads(line) for line in journal_path(out).read_text().splitlines()]
    lines[0].update(odd)
    journal_path(out).write_text("".join(json.dumps(line) + "\n" for line in lines))
    again = make_by_asking(rows, out, asking, judging, ("incorrect",))
    assert again.asked_now == 1 and again.usage == whole.usage and again.accepted == whole.accepted
    journal = Journal(journal_path(out))
    assert len(journal) == len(lines) and journal.find(lines[0]["key"])["text"] in ("blue", "yes")
    journal.close()
