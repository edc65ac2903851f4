"""`phantrol data triples` against a real server on loopback, whose model has learnt by heart what to say."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from transformers import LlamaConfig, SiglipVisionConfig

import phantrol
from phantrol import cli_triples
from phantrol.data.sources.file import FileSource
from phantrol.data.triples import endpoint as endpoints
from phantrol.data.triples.endpoint import Asker, Endpoint, RefusedRequest
from phantrol.data.triples.making import askers_of, failed_path, journal_path, make_by_asking
from phantrol.data.triples.prompts import asking_prompt, judging_prompt
from phantrol.data.triples.reading import OwnRows
from phantrol.inference.engine import Engine
from phantrol.models.tokenizer import train_tokenizer
from phantrol.serving.limits import Limits

# right answer: (incorrect, ambiguous) as the writer says them, and what the judge says of the incorrect one
SAID = {
    "red": ("blue", "red or blue", "yes"),
    "green": ("green", "green or red", "yes"),  # the right answer again
    "black": ("white", "dark", "no"),
    "blue": ("red", "bluish", "maybe"),
    "white": ("", "pale", "yes"),  # says nothing
}
EXPECTED = {
    ("red", "incorrect"): "blue",
    ("red", "ambiguous"): "red or blue",
    ("green", "ambiguous"): "green or red",
    ("black", "ambiguous"): "dark",
    ("blue", "ambiguous"): "bluish",
    ("white", "ambiguous"): "pale",
}


def lessons() -> list[list[dict]]:
    chats = []
    for right, (incorrect, ambiguous, verdict) in SAID.items():
        for kind, text in (("incorrect", incorrect), ("ambiguous", ambiguous)):
            asked = [asking_prompt(kind, "What color?", right), asking_prompt(kind, "What color?", right, (text,))]
            chats += [[*chat, {"role": "assistant", "content": text}] for chat in (asked if text else asked[:1])]
            judged = judging_prompt(kind, "What color?", right, text)
            said = verdict if kind == "incorrect" else "Yes."
            chats.append([*judged, {"role": "assistant", "content": said}])
    return chats


@pytest.fixture(scope="module")
def writer() -> Engine:
    """A model that says what SAID says."""
    chats = lessons()
    tokenizer = train_tokenizer([message["content"] for chat in chats for message in chat] * 3, 700)
    sizes = dict(hidden_size=48, intermediate_size=96, num_attention_heads=2)
    torch.manual_seed(0)
    text = LlamaConfig(vocab_size=8, num_hidden_layers=2, num_key_value_heads=2, **sizes)
    vision = SiglipVisionConfig(num_hidden_layers=1, image_size=32, patch_size=16, vision_use_head=False, **sizes)
    model, processor = phantrol.build(text, vision, [], tokenizer=tokenizer)
    rows = [processor.encode(chat) for chat in chats]
    longest = max(len(row.input_ids) for row in rows)
    ids = torch.tensor([row.input_ids + [0] * (longest - len(row.input_ids)) for row in rows])
    is_said = torch.tensor([row.answer_mask + [False] * (longest - len(row.input_ids)) for row in rows])
    labels, mask = ids.where(is_said, torch.tensor(-100)), (ids != 0).long()
    adam = torch.optim.Adam(model.parameters(), lr=4e-3)
    for _ in range(400):
        adam.zero_grad()
        loss = model.train()(input_ids=ids, attention_mask=mask, labels=labels).loss
        loss.backward()
        adam.step()
        if loss < 0.002:  # by heart, on any processor: at .01 one answer of twenty-five was another
            break
    assert loss < 0.01, "the writer did not learn its part"
    return Engine(model.eval(), processor)


@pytest.fixture
def data(tmp_path):
    rows = [{"id": right, "question": "What color?", "answer": right} for right in SAID]
    path = tmp_path / "data.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in [*rows, {"question": "What color?"}]), "utf-8")
    return path


def endpoint(running, **options):
    return Endpoint(f"{running.url}/v1", "tiny", **{"temperature": 0.0, "max_tokens": 64, **options})


def said(path):
    """{(right answer, kind): wrong answer} of the triples that training would read."""
    source = FileSource(path)
    examples = [source[index][0] for index in range(len(source))]
    return {(each.messages[-1].text, wrong.kind): wrong.text for each in examples for wrong in each.rejected}


def test_only_what_is_wrong_and_has_a_verdict_becomes_a_triple(writer, serve_engine, data):
    out = data.with_name("triples.jsonl")
    with serve_engine(writer) as running:
        asking = endpoint(running, price_in=2.0, price_out=10.0)
        tally = make_by_asking(OwnRows([data]), out, asking, endpoint(running, max_tokens=8), parallel=2)
    assert said(out) == EXPECTED
    assert dict(tally.accepted) == {"incorrect": 1, "ambiguous": 5} and tally.rows == 6
    reasons = {"the right answer": 1, "refused by the judge": 1, "no verdict": 1, "empty": 1}
    assert {reason: count for (_, reason), count in tally.refused.items()} == reasons
    assert tally.rate("incorrect") == pytest.approx(1 / 5)
    (failed,) = [json.loads(line) for line in failed_path(out).read_text().splitlines()]
    assert failed["row"] == "data.jsonl, line 6" and failed["reason"].startswith("unknown-layout")
    # written once where it was good, else twice; the same answer to the same question is judged once
    assert tally.usage["ask"].requests == 5 + 1 + 4 * 2 and tally.usage["judge"].requests == 5 + 3
    lines = [json.loads(line) for line in journal_path(out).read_text().splitlines()]
    tokens = [sum(line[name] for line in lines if line["role"] == "ask") for name in ("tokens_in", "tokens_out")]
    assert tally.usage["ask"].cost == pytest.approx((2 * tokens[0] + 10 * tokens[1]) / 1e6) and min(tokens) > 0
    assert tally.usage["judge"].cost == 0 and tally.asked_now == len(lines)


def test_killed_in_the_middle_it_goes_on_and_asks_nothing_twice(writer, serve_engine, data):
    whole, out = data.with_name("whole.jsonl"), data.with_name("killed.jsonl")
    limits = Limits(answer_tokens=64, rows=1)
    with serve_engine(writer, limits) as running:
        make_by_asking(OwnRows([data]), whole, endpoint(running), endpoint(running, max_tokens=16), parallel=1)
        command = [sys.executable, "-m", "phantrol.cli", "data", "triples", data, "--out", out, "--model", "tiny"]
        command += ["--url", f"{running.url}/v1", "--parallel", "1", "--temperature", "0"]
        command += ["--per-minute", "120", "--max-tokens", "64"]  # slow enough to be killed in the middle
        environment = {**os.environ, "OPENAI_API_KEY": "secret-of-the-test"}
        child = subprocess.Popen(list(map(str, command)), env=environment, stdout=subprocess.DEVNULL)
        running.until(lambda: journal_path(out).exists() and journal_path(out).read_bytes().count(b"\n") >= 5)
        child.send_signal(signal.SIGKILL)
        assert child.wait() == -9 and not out.exists()
        with journal_path(out).open("ab") as journal:
            journal.write(b'{"key": "half of a li')  # as a machine that lost its power leaves it
        kept = journal_path(out).read_bytes().rpartition(b"\n")[0] + b"\n"
        rows, asked = OwnRows([data]), (endpoint(running), endpoint(running, max_tokens=16))
        tally = make_by_asking(rows, out, *asked, parallel=1)
        assert journal_path(out).read_bytes().startswith(kept)
        keys = [json.loads(line)["key"] for line in journal_path(out).read_text().splitlines()]
        assert len(set(keys)) == len(keys) == kept.count(b"\n") + tally.asked_now
        assert keys == [json.loads(line)["key"] for line in journal_path(whole).read_text().splitlines()]
        assert out.read_bytes() == whole.read_bytes()
        again = make_by_asking(rows, out, *asked, parallel=3)
        assert again.asked_now == 0 and out.read_bytes() == whole.read_bytes()
    assert b"secret-of-the-test" not in journal_path(out).read_bytes() + out.read_bytes()


def test_a_busy_server_is_asked_again_and_pictures_come_along(writer, serve_engine, tmp_path):
    from PIL import Image

    (tmp_path / "pictures").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "pictures" / "a.png")
    rows = [{"image": "pictures/a.png", "question": "What color?", "answer": "red"} for _ in range(12)]
    (tmp_path / "data.json").write_text(json.dumps(rows))
    out = tmp_path / "deep" / "triples.parquet"
    with serve_engine(writer, Limits(answer_tokens=64, rows=1, queue=1)) as running:
        asking = endpoint(running, retries=10_000)
        with pytest.MonkeyPatch.context() as patch:
            waits = []
            sleep = lambda seconds: waits.append(seconds) or time.sleep(0.05)  # noqa: E731
            patch.setattr(endpoints, "time", SimpleNamespace(monotonic=time.monotonic, sleep=sleep))
            tally = make_by_asking(OwnRows([tmp_path / "data.json"]), out, asking, asking, parallel=6)
    assert tally.accepted == {"incorrect": 12, "ambiguous": 12} and not tally.failed
    assert tally.retried > 0 and any(wait >= 1 for wait in waits)  # what the server's Retry-After says
    source = FileSource(out)
    pictures = {picture for i in range(len(source)) for picture in source[i][0].messages[0].pictures}
    assert len(source) == 24 and {picture.resolve() for picture in pictures} == {tmp_path / "pictures" / "a.png"}


def test_keys_are_needed_and_never_told(writer, serve_engine, data, monkeypatch):
    out = data.with_name("triples.jsonl")
    with serve_engine(writer, api_key="right-key") as running:
        monkeypatch.setenv("OPENAI_API_KEY", "wrong-key-1234")
        with pytest.raises(ValueError, match="refuses: AuthenticationError") as refusal:
            make_by_asking(OwnRows([data]), out, endpoint(running), endpoint(running))
        assert "wrong-key" not in str(refusal.value) and not out.exists()
        monkeypatch.setenv("OPENAI_API_KEY", "right-key")
        tally = make_by_asking(OwnRows([data]), out, endpoint(running), endpoint(running, max_tokens=8))
    assert tally.accepted["ambiguous"] == 5 and "right-key" not in journal_path(out).read_text()
    asker = Asker(Endpoint("http://127.0.0.1:1/v1", "m"))
    assert "right-key" not in asker._said(ValueError("no such key: right-key"))


def test_nobody_there_stops_and_a_bad_row_does_not(data, monkeypatch):
    monkeypatch.setattr(endpoints, "time", SimpleNamespace(monotonic=time.monotonic, sleep=lambda seconds: None))
    nobody = Endpoint("http://127.0.0.1:9/v1", "tiny", retries=1)
    with pytest.raises(RefusedRequest, match="2 times in a row: APIConnectionError"):
        Asker(nobody).ask([{"role": "user", "content": "a"}])
    out = data.with_name("triples.jsonl")
    tally = make_by_asking(OwnRows([data]), out, nobody, nobody)  # five rows are fewer than give up
    assert len(tally.failed) == 6 and not tally.accepted and not out.exists()
    data.write_text(data.read_text() * 8)
    with pytest.raises(ValueError, match="20 rows one after the other failed"):
        make_by_asking(OwnRows([data]), out, nobody, nobody)
    for address in ("127.0.0.1:8000", "ftp://a/v1", "http://me:secret@a/v1"):
        with pytest.raises(ValueError, match=r"got (the|an) address") as error:
            Endpoint(address, "m")
        assert "secret" not in str(error.value)


@pytest.mark.parametrize(
    ("body", "headers", "reason", "times"),
    [
        (b'{"ch', {"Content-Type": "application/json", "Content-Length": 99}, "2 times in a row: APIConnection", 2),
        (b'{"ch', {"Content-Type": "application/json"}, "2 times in a row: JSONDecodeError", 2),
        (b"<p>Sign in", {"Content-Type": "text/html"}, "a reply without an answer", 1),
    ],
)
def test_a_reply_that_is_cut_off_or_none_is_one_refused_request(body, headers, reason, times, replying, monkeypatch):
    monkeypatch.setattr(endpoints, "time", SimpleNamespace(monotonic=time.monotonic, sleep=lambda seconds: None))
    here = replying(200, body, headers)
    with pytest.raises(RefusedRequest, match=reason):
        Asker(Endpoint(here, "tiny", retries=1)).ask([{"role": "user", "content": "a"}])
    assert len(replying.met[here]) == times


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_takes_no_key_along(status, replying, monkeypatch):
    """OpenAI's client follows it, and leaves the key behind."""
    monkeypatch.setenv("OPENAI_API_KEY", "hush")
    elsewhere = replying(200, b"<p>Sign in", {"Content-Type": "text/html"})
    here = replying(status, b"", {"Location": f"{elsewhere}/chat/completions"})
    with pytest.raises(RefusedRequest):
        Asker(Endpoint(here, "tiny", retries=0)).ask([{"role": "user", "content": "a"}])
    assert replying.met[here] == [("POST", "Bearer hush")]
    assert all(key is None for _, key in replying.met[elsewhere])


def test_so_many_requests_a_minute(monkeypatch):
    clock, slept = [100.0], []
    # a clock of its own: the servers of other tests live by everybody's
    monkeypatch.setattr(endpoints, "time", SimpleNamespace(monotonic=lambda: clock[0], sleep=slept.append))
    here, there = (Endpoint(f"http://127.0.0.1:{port}/v1", "m", per_minute=30) for port in (9, 10))
    writer, judge = askers_of(here, replace(here, model="judge"))
    for asker in (writer, judge, writer):  # one address, one count
        asker.pace.wait()
    clock[0] = 110.0
    writer.pace.wait()
    assert slept == [0.0, 2.0, 4.0, 0.0]
    askers_of(here, there)[1].pace.wait()
    assert slept[-1] == 0.0


@pytest.mark.parametrize(
    ("usage", "is_counted"),
    [
        ({"usage": {"prompt_tokens": 10, "completion_tokens": 2, "total_tokens": 12}}, True),
        ({}, False),
        ({"usage": None}, False),
        ({"usage": {}}, False),
        ({"usage": {"prompt_tokens": 10, "completion_tokens": None}}, False),
    ],
)
def test_answers_without_usage_are_counted_and_their_cost_is_a_lower_bound(usage, is_counted, replying, data, capsys):
    choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "yes"}}
    body = {"id": "a", "object": "chat.completion", "created": 0, "model": "tiny", "choices": [choice], **usage}
    here = Endpoint(
        replying(200, json.dumps(body).encode(), {"Content-Type": "application/json"}), "tiny", price_in=1e5
    )
    tally = make_by_asking(OwnRows([data]), data.with_name("triples.jsonl"), here, here, ("incorrect",))
    assert tally.accepted["incorrect"] == 5
    assert [used.uncounted for used in tally.usage.values()] == [0 if is_counted else 5] * 2
    cli_triples._say(tally, ("incorrect",))
    shown = capsys.readouterr().out
    assert ("cost 5.0000\n" in shown) == is_counted
    assert shown.count("; 5 answers came without usage, so the cost is a lower bound\n") == (0 if is_counted else 2)
