"""Every hostile request gets its refusal in OpenAI's shape, is told nothing of this machine, and harms nobody."""

from __future__ import annotations

import re
import socket

import httpx
import pytest
from asking import CHATS, NAME, PATIENCE_S
from hostile import HOSTILE, PATH, WIRE

TYPES = {"invalid_request_error", "authentication_error", "permission_error", "rate_limit_error", "server_error"}
TELLING = re.compile(r"0x[0-9a-f]{4,}|/usr|/tmp|/home|/root|/etc/|site-packages|Traceback|\.py\b|<_io")


@pytest.fixture(scope="module")
def http(running):
    with httpx.Client(base_url=running.url, timeout=PATIENCE_S) as client:
        yield client


def test_the_corpus_is_as_large_as_it_says():
    assert len({name for name, *_ in HOSTILE}) == len(HOSTILE) >= 60


@pytest.mark.parametrize(("sent", "status", "words"), [case[1:] for case in HOSTILE], ids=[case[0] for case in HOSTILE])
def test_a_hostile_request_is_refused(http, sent, status, words):
    if isinstance(sent, dict):
        answer = http.post(PATH, json=sent)
    else:
        # as it stands: httpx would tidy the path up
        request = http.build_request(sent.method, "/", content=sent.body, headers=sent.headers)
        request.url = request.url.copy_with(raw_path=sent.path.encode())
        answer = http.send(request)
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["type"] in TYPES
    assert words in error["message"]
    assert len(answer.text) < 1000 and not TELLING.search(answer.text), answer.text


@pytest.mark.parametrize(("sent", "statuses"), [case[1:] for case in WIRE], ids=[case[0] for case in WIRE])
def test_what_is_no_http_is_refused(running, sent, statuses):
    with socket.create_connection(("127.0.0.1", running.port), timeout=PATIENCE_S) as connection:
        connection.sendall(sent)
        answer = connection.recv(65536)
    assert int(answer.split()[1]) in statuses, answer
    assert not TELLING.search(answer.decode("latin-1"))


def test_after_all_of_it_the_server_answers_as_before(running, http, engine):
    """Runs last in this file: whatever came before left nothing behind."""
    answer = http.post(PATH, json={"model": NAME, "messages": CHATS[1], "max_tokens": 8}).json()
    assert answer["choices"][0]["message"]["content"] == engine.answer(CHATS[1], max_new_tokens=8).text
    running.until(running.is_idle)
    assert running.service.guard.in_flight == 0


def test_a_sound_request_is_not_refused(http):
    """The corpus would pass on a server that refuses everything."""
    assert http.post(PATH, json={"model": NAME, "messages": CHATS[0], "max_tokens": 2}).status_code == 200
