"""What a judge's reply says, which urls are a judge's, and servers that send on or break off."""

from __future__ import annotations

import json
import time
from types import SimpleNamespace

import pytest
from PIL import Image

from phantrol.evals import judging
from phantrol.evals.evaluation import Evaluation
from phantrol.evals.judged import JudgedBenchmark, NoVerdict, read_pair, read_share, read_yes, same_as_truth
from phantrol.evals.judging import TRIES, Judge, judge_answers
from phantrol.evals.published import PublishedRow
from phantrol.evals.report import Missing, Report, Sample


@pytest.mark.parametrize(
    ("read", "reply", "verdict"),
    [
        (read_share, "0.7", 0.7),
        (read_share, " 1.0\n", 1.0),
        (read_share, "Correctness: 0.0", 0.0),
        (read_share, "1", 1.0),
        (read_share, "10", None),
        (read_share, "1.5", None),
        (read_share, "", None),
        (read_share, "I cannot say. 0.5", None),
        (read_share, "**0.5**", 0.5),
        (read_share, "**Number**: (0.5).", None),  # a name in Markdown: nobody was asked for that
        (read_share, "Number:\n0.5", 0.5),
        (read_share, "0.5\nBecause 1 of 2 parts is there.", 0.5),
        *(
            (read_share, odd, None)
            for odd in ("1/10", "0/10", "0,9", "-1", "-0.5", "1 out of 10", "1 of 3", "1%", "1-2")
        ),
        *((read_share, odd, None) for odd in ("1e-3", "0.5 0.9", "0.5\n0.9", "0.5/1", ".1", "0.5 because", "~0.5")),
        (read_pair, "8 9\nFine.", (0.8, 0.9)),
        (read_pair, "7.5, 10", (0.75, 1.0)),
        (read_pair, "8 9 7", None),
        (read_pair, "Assistant 1: 8, Assistant 2: 9", None),
        (read_pair, "0 9", None),
        (read_pair, "", None),
        (read_yes, "1", 1.0),
        (read_yes, "Judgement: 0.", 0.0),
        (read_yes, "10", None),
        *((read_yes, odd, None) for odd in ("-1", ".1", "1%", "1/10")),
        (read_yes, "yes", None),
    ],
)
def test_replies(read, reply, verdict):
    if verdict is None:
        with pytest.raises(NoVerdict):
            read(reply)
    else:
        assert read(reply) == verdict


class Compared(JudgedBenchmark):
    def judge(self, row, text, ask):
        return {"t": same_as_truth("What?", row.answer, text, ask)}


def test_what_could_not_be_read_is_asked_for_again(server, tmp_path):
    sample = Sample("1", "t", "What?", "5", {"model": "It is 5"}, {"model": {}})
    found = Evaluation(Compared(), (PublishedRow("1", "t", [], "5"),), Report("c", "test", "m", 0, (sample,)))

    def judged(*replies):
        server.asked, left = [], list(replies)
        server.say = lambda prompt: left.pop(0)
        graded, card = judge_answers(found, server.judge, tmp_path / "kept.jsonl")
        assert not left and card["judged"] + card["failed"] == 1
        return graded.report.overall.get("overall", {}).get("model")

    assert judged("5", "I refuse") is None  # once, and not again in the same run
    assert judged(400) is None  # both prompts of the row are asked anew, and the first one fails
    assert judged("5", "1") == 1
    assert judged() == 1  # the last reply is the one that is kept


class Seeing(JudgedBenchmark):
    def judge(self, row, text, ask):
        return {"t": read_share(ask("Right?", max_tokens=7, pictures=(row.facts["picture"],)))}


def test_what_is_kept_is_of_one_picture_and_what_was_missing_stays(server, tmp_path):
    lost = Missing("lost", "t", "its picture is broken")
    sample = Sample("1", "t", "What?", "5", {"model": "5"}, {"model": {}})
    report = Report("c", "test", "m", 0, (sample,), missing=(lost,))
    for colour, asked in (("red", 1), ("blue", 2), ("red", 2)):
        row = PublishedRow("1", "t", [], "5", facts={"picture": Image.new("RGB", (4, 4), colour)})
        graded, _ = judge_answers(Evaluation(Seeing(), (row,), report), server.judge, tmp_path / "kept.jsonl")
        assert len(server.asked) == asked and graded.report.missing == (lost,)
    assert {body["max_tokens"] for body, _ in server.asked} == {7}


def test_a_judge_is_a_server():
    for url in ("api.openai.com", "ftp://x", "http://me:secret@x/v1"):
        with pytest.raises(ValueError, match="the judge's url") as error:
            Judge(url, "gpt")
        assert "secret" not in str(error.value)


VERDICT = json.dumps({"model": "m", "choices": [{"message": {"content": "1"}}]}).encode()
CUT = {"Content-Length": 999}


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_an_error_and_the_key_goes_nowhere_else(status, replying, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "hush")
    elsewhere = replying(200, VERDICT)
    here = replying(status, b"moved", {"Location": f"{elsewhere}/chat/completions"})
    with pytest.raises(NoVerdict, match=f"the judge's server says {status}: moved"):
        Judge(here, "m", wait_s=0.0).reply("a", 8)
    assert replying.met == {elsewhere: [], here: [("POST", "Bearer hush")]}
    assert Judge(elsewhere, "m").reply("a", 8) == ("1", "m")  # it would have answered


@pytest.mark.parametrize(
    ("status", "body", "headers", "reason", "times"),
    [
        (200, VERDICT, CUT, "does not answer: IncompleteRead", TRIES),
        (500, b"no", CUT, "says 500: IncompleteRead", TRIES),
        (400, b"no", CUT, "says 400: IncompleteRead", 1),
        (None, b"junk\r\n\r\n", {}, "does not answer: junk", TRIES),
        (200, b"[" * 200_000, {}, "does not answer: maximum recursion depth", TRIES),
    ],
)
def test_a_reply_that_is_cut_off_is_no_verdict(status, body, headers, reason, times, replying):
    here = replying(status, body, headers)
    with pytest.raises(NoVerdict, match=reason):
        Judge(here, "m", wait_s=0.0).reply("a", 8)
    assert len(replying.met[here]) == times


@pytest.mark.parametrize("status", [408, 409, 429, 500])
def test_a_busy_judge_is_asked_again_after_longer_and_longer(status, replying, monkeypatch):
    slept, here = [], replying(status, b"no")
    monkeypatch.setattr(judging, "time", SimpleNamespace(sleep=slept.append))
    with pytest.raises(NoVerdict, match=f"says {status}"):
        Judge(here, "m").reply("a", 8)
    assert len(replying.met[here]) == TRIES and slept == [2.0, 4.0, 8.0]


def test_a_judge_that_hangs_is_not_waited_for(server, monkeypatch):
    monkeypatch.setattr(judging, "TIMEOUT_S", 0.2)
    monkeypatch.setattr(judging, "TRIES", 1)
    server.say = lambda prompt: time.sleep(1) or "1"
    with pytest.raises(NoVerdict, match="does not answer: timed out"):
        server.judge.reply("a", 8)


def test_a_reply_can_be_written(replying):
    """JSON can say half of a character, which is none in UTF-8."""
    body = b'{"model": "m\\ud83d", "choices": [{"message": {"content": "0.5 \\ud83d"}}]}'
    assert Judge(replying(200, body), "m").reply("a", 8) == ("0.5 ?", "m?")
