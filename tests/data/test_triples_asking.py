"""What the writer and the judge of triples are asked, how long a busy one is waited for, and what stops the asking."""

from __future__ import annotations

import time
from types import SimpleNamespace

import pytest

from phantrol.data.messages import Example, Message
from phantrol.data.triples import endpoint as endpoints
from phantrol.data.triples.asking import Answers
from phantrol.data.triples.endpoint import Asker, Endpoint, RefusedRequest
from phantrol.data.triples.journal import Journal
from phantrol.data.triples.reading import Row

CHAT = [{"role": "user", "content": "a"}]


@pytest.fixture
def slept(monkeypatch):
    """The seconds that were waited, without waiting and without scatter."""
    found = []
    monkeypatch.setattr(endpoints, "time", SimpleNamespace(monotonic=time.monotonic, sleep=found.append))
    monkeypatch.setattr(endpoints, "random", SimpleNamespace(uniform=lambda low, high: 1.0))
    return found


def test_what_an_endpoint_is_asked():
    asker = Asker(Endpoint("http://127.0.0.1:9/v1", "m", temperature=0.7, max_tokens=9, timeout_s=3.0))
    asked, done = [], SimpleNamespace(choices=[SimpleNamespace(message=SimpleNamespace(content="b"))])
    assert asker._client.timeout == 3.0
    asker._client.chat.completions.create = lambda **options: asked.append(options) or done
    assert [asker.ask(CHAT)["text"], asker.ask(CHAT, 0.0)["text"]] == ["b", "b"]
    assert [(each["temperature"], each["max_tokens"]) for each in asked] == [(0.7, 9), (0.0, 9)]


@pytest.mark.parametrize(
    ("status", "kind", "times"),
    [
        *((status, ValueError, 1) for status in (401, 403, 404)),
        (400, RefusedRequest, 1),
        *((status, RefusedRequest, 3) for status in (408, 409, 425, 429, 500, 503)),
    ],
)
def test_which_refusals_are_for_good(status, kind, times, replying, slept):
    here = replying(status, b"no")
    with pytest.raises(kind):
        Asker(Endpoint(here, "m", retries=2)).ask(CHAT)
    assert len(replying.met[here]) == times and slept == [0.5, 1.0][: times - 1]


@pytest.mark.parametrize(("said", "waits"), [("900", 120.0), ("-5", 0.0), ("soon", 0.5)])
def test_how_long_a_busy_server_is_waited_for(said, waits, replying, slept):
    with pytest.raises(RefusedRequest):
        Asker(Endpoint(replying(429, b"no", {"Retry-After": said}), "m", retries=1)).ask(CHAT)
    assert slept == [waits]


def test_the_longest_wait_between_two_tries(replying, slept):
    with pytest.raises(RefusedRequest):
        Asker(Endpoint(replying(500, b"no"), "m", retries=9)).ask(CHAT)
    assert slept == [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0]


def test_the_first_key_that_is_set_is_sent(replying, monkeypatch):
    here = replying(400, b"no")
    monkeypatch.setenv("OPENAI_API_KEY", "writer")
    for judge in ("", "judge"):
        monkeypatch.setenv("JUDGE_API_KEY", judge)
        with pytest.raises(RefusedRequest):
            Asker(Endpoint(here, "m", key_names=("JUDGE_API_KEY", "OPENAI_API_KEY"))).ask(CHAT)
    assert [key for _, key in replying.met[here]] == ["Bearer writer", "Bearer judge"]


class Told:
    """An asker that says `say(last message)`, and notes what it was asked and at which temperature."""

    def __init__(self, say, model="m"):
        self.say, self.endpoint, self.asked = say, SimpleNamespace(model=model), []

    def ask(self, chat, temperature=None):
        self.asked.append((chat[-1]["content"], temperature))
        return {"text": self.say(chat[-1]["content"]), "tokens_in": 1, "tokens_out": 1}


def agreeing():
    return Told(lambda asked: "yes", "judge")


def rows(number, question="What color?"):
    said = Message("user", (question,)), Message("assistant", ("red",))
    return [Row(f"row {n}", Example(f"row {n}", said)) for n in range(number)]


def made(tmp_path, writer, judge, rows):
    journal = Journal(tmp_path / "journal.jsonl")
    try:
        return list(Answers(writer, judge, journal, ("incorrect",), parallel=1)(rows))
    finally:
        journal.close()


def test_the_writer_is_told_what_was_not_good_and_the_judge_does_not_guess(tmp_path):
    writer, judge = Told(lambda asked: "blue" if "Not this again: red" in asked else "red"), agreeing()
    (found,) = made(tmp_path, writer, judge, rows(1))
    assert found.rejected == (("blue", "incorrect"),)
    assert [temperature for _, temperature in writer.asked] == [None, None]
    assert [temperature for _, temperature in judge.asked] == [0.0]


def test_a_reply_is_that_of_its_row_and_model_alone(tmp_path):
    first, other, judge = Told(lambda asked: "blue"), Told(lambda asked: "green", "other"), agreeing()
    made(tmp_path, first, judge, rows(2))
    assert len(first.asked) == len(judge.asked) == 2  # the same question, of two pictures perhaps
    made(tmp_path, other, judge, rows(2))
    assert len(other.asked) == 2


def test_only_failures_one_after_the_other_stop(tmp_path):
    def say(asked):
        if "odd" in asked:
            raise RefusedRequest("no")
        return "blue"

    broken, odd = [Row(f"broken {n}", None, "bad") for n in range(30)], rows(30, "odd")
    mixed = [row for pair in zip(rows(30), odd, strict=True) for row in pair]
    apart = [row for pair in zip(odd, broken, strict=True) for row in pair]  # a row that is broken asks nothing
    assert len(made(tmp_path, Told(say), agreeing(), [*broken, *mixed])) == 90
    with pytest.raises(ValueError, match="20 rows one after the other failed: no"):
        made(tmp_path, Told(say), agreeing(), odd)
    with pytest.raises(ValueError, match="20 rows one after the other failed: no"):
        made(tmp_path, Told(say), agreeing(), apart)


def test_an_answer_that_was_said_already_is_asked_for_anew(tmp_path):
    writer = Told(lambda asked: "green" if "Not this again: blue" in asked else "blue")
    journal = Journal(tmp_path / "journal.jsonl")
    (found,) = Answers(writer, agreeing(), journal, ("incorrect", "ambiguous"), parallel=1)(rows(1))
    journal.close()
    assert found.rejected == (("blue", "incorrect"), ("green", "ambiguous"))
