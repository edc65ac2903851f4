"""The load test, for a moment: a sound server is well, and of a server that fails it must say so."""

from __future__ import annotations

import httpx
import pytest
from asking import PATIENCE_S
from load import Tally, ask_stream, ask_whole, faults_of, play, rates, requests
from pacing import slow

# the first things that so many clients do are a malformed request, an answer heard to its end, and one left midway
CLIENTS, SECONDS, BAD = 8, 2.0, 0.3


def alone(running):
    with httpx.Client(base_url=running.url, timeout=PATIENCE_S) as http:
        return [(body, ask_whole(http, body)) for body in requests()[::2]]


def test_a_sound_server_is_well(serve):
    with serve() as running:
        tally, _ = play(running.url, CLIENTS, SECONDS, alone(running), BAD)
    assert faults_of(tally, BAD) == []
    assert tally.right and tally.refused and tally.cancelled


def test_a_server_whose_model_fails_is_not(serve, engine):
    with serve() as running:
        expected = alone(running)
        with slow(engine, 0, fails=lambda number: number % 4 == 0):
            tally, _ = play(running.url, CLIENTS, SECONDS, expected, BAD)
    assert any("the server failed" in fault for fault in faults_of(tally, BAD))


def test_a_wrong_answer_and_a_server_that_is_gone_are_told(serve):
    with serve() as running:
        expected = [(body, text + "!") for body, text in alone(running)]
        tally, _ = play(running.url, CLIENTS, SECONDS, expected, BAD)
    assert not tally.right and any("alone" in fault for fault in faults_of(tally, BAD))
    tally, _ = play(running.url, 1, SECONDS, expected, bad=1.0)  # malformed ones alone
    assert any("ConnectError" in fault for fault in faults_of(tally, 1.0))


def test_one_client_and_sixteen_take_turns(monkeypatch):
    played = []

    def fake(url, clients, seconds, expected, bad):
        played.append((clients, seconds))
        slowed = 2 if len(played) <= 2 else 1  # by something else that the machine does, which both then pay
        return Tally(right=4 * clients, wrong=["a word"] * (len(played) == 5)), seconds * slowed

    monkeypatch.setattr("load.play", fake)
    rate, faults = rates("", 6.0, [])
    assert played == [(1, 2.0), (16, 2.0)] * 3 and faults == ["a word"]
    assert rate == {1: 12 / 8, 16: 192 / 8}


def test_what_was_never_tried_is_told():
    assert faults_of(Tally(right=1), 0.0) == [] != faults_of(Tally(right=1), 0.1)
    assert faults_of(Tally(), 0.0) and faults_of(Tally(right=1, refused=1), 0.1)
    assert faults_of(Tally(right=1, refused=1, cancelled=1), 0.1) == []


@pytest.mark.parametrize(
    ("end", "words"),
    [("", "without .DONE."), ('data: {"error": {"message": "the server failed"}}\n\n', "the server failed")],
)
def test_half_a_stream_is_no_answer(end, words):
    lines = 'data: {"choices": [{"delta": {"content": "red"}}]}\n\n'

    def asked(end):
        transport = httpx.MockTransport(lambda request: httpx.Response(200, text=lines + end))
        with httpx.Client(base_url="http://localhost", transport=transport) as http:
            return ask_stream(http, {}, None, Tally())

    assert asked("data: [DONE]\n\n") == "red"
    with pytest.raises(RuntimeError, match=words):
        asked(end)
