"""Clients that do not read what they are answered, or slowly; and a stream whose request ends before it began."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import socket
import time

import httpx
import pytest
from asking import PATH, PATIENCE_S, body, patient

from phantrol.serving import heads
from phantrol.serving.limits import Limits

PAGE = b"GET /page/page.js HTTP/1.1\r\nHost: localhost\r\n\r\n"


def long_answer(**options) -> bytes:
    """A request for half a megabyte."""
    asked = json.dumps(body(1, n=8, temperature=1.0, logprobs=True, top_logprobs=20, max_tokens=40, **options)).encode()
    head = f"POST {PATH} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(asked)}\r\n\r\n".encode() + asked


def connect(running, request):
    """Return a connection for which the system holds little ready, on either side, with the request sent."""
    (listener,) = running.server.servers[0].sockets
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)  # of the connections that it will take
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.settimeout(PATIENCE_S)
    connection.connect(("127.0.0.1", running.port))
    connection.sendall(request)
    return connection


@pytest.mark.parametrize("request_s", [3600.0, 1.0])
@pytest.mark.parametrize(
    "asked", [200 * PAGE, long_answer(), long_answer(stream=True)], ids=["page", "whole", "stream"]
)
def test_who_does_not_read_keeps_neither_a_place_nor_a_connection(serve, monkeypatch, asked, request_s):
    monkeypatch.setattr(heads, "UNREAD_S", 0.5 if request_s == 3600.0 else 3.0)
    monkeypatch.setattr("phantrol.serving.guard.GRACE_S", 0.1)
    with serve(Limits(request_s=request_s)) as running, connect(running, asked):
        running.until(lambda: running.service.guard.in_flight == 1)
        running.until(lambda: not (running.service.guard.in_flight or running.server.server_state.connections), 60)
        running.until(running.is_idle)


def test_who_reads_slowly_hears_the_whole_answer(serve, monkeypatch):
    monkeypatch.setattr(heads, "UNREAD_S", 0.5)
    with serve() as running, connect(running, long_answer()) as connection:
        answer, heard, began = http.client.HTTPResponse(connection), b"", 0.0
        answer.begin()
        while piece := answer.read(8000):
            began = began or time.monotonic()
            heard += piece
            time.sleep(0.04)
        assert time.monotonic() - began > 3 * heads.UNREAD_S
        assert len(json.loads(heard)["choices"]) == 8


def test_a_request_that_ends_before_its_stream_began_frees_the_row(serve, monkeypatch):
    with serve() as running:
        submit, begun = running.service._submit, []

        def and_end(*args):
            (task,) = running.server.server_state.tasks
            asyncio.get_running_loop().call_soon(task.cancel)
            begun.append(submit(*args))
            return begun[0]

        monkeypatch.setattr(running.service, "_submit", and_end)
        with contextlib.suppress(httpx.TransportError):
            patient.post(running.url + PATH, json=body(stream=True))
        running.until(lambda: not running.service.guard.in_flight)
        assert begun[0].ticket.cancelled
