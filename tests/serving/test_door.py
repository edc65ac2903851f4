"""What stands before every route: heads and bodies that come too slowly, keys, and how many may ask."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import http.client
import json
import logging
import socket
import time
from types import SimpleNamespace

import openai
import pytest
from asking import PATH, PATIENCE_S, body, patient
from pacing import slow

from phantrol.serving.guard import Guard
from phantrol.serving.limits import Limits

HEAD = f"POST {PATH} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
GET = "GET /health HTTP/1.1\r\nHost: localhost\r\n"


def send_slowly(port, head, pieces, seconds):
    """Send a request in pieces; return the status and the text that come back."""
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S) as connection:
        connection.sendall(head)
        for piece in pieces:
            time.sleep(seconds)
            try:
                connection.sendall(piece)
            except OSError:
                break
        answer = http.client.HTTPResponse(connection)
        answer.begin()
        return answer.status, answer.read().decode()


def open_for(port: int, first: bytes, then: bytes) -> tuple[float, bytes]:
    """Return for how many seconds a client that goes on sending finds the connection open, and what it hears."""
    began, heard = time.monotonic(), b""
    with (
        contextlib.suppress(OSError),
        socket.create_connection(("127.0.0.1", port), timeout=10) as connection,
    ):
        connection.sendall(first)
        connection.settimeout(0.05)
        while time.monotonic() - began < 60:
            with contextlib.suppress(TimeoutError):
                if not (got := connection.recv(65536)):
                    break
                heard += got
            connection.sendall(then)
    return time.monotonic() - began, heard


def test_whom_the_door_lets_in_and_when_the_others_may_come_again(monkeypatch):
    """A mean of 1 s at first, of which each answer moves a tenth; of refusals and failures nothing is learnt."""
    clock, sent = [0.0], []
    monkeypatch.setattr("phantrol.serving.guard.time", SimpleNamespace(monotonic=lambda: clock[0]))
    scope = {"type": "http", "method": "POST", "path": PATH, "headers": [(b"content-type", b"application/json")]}

    def ask(in_flight, status=200, seconds=0.0):
        """Return status and Retry-After of what is asked while so many others are answered."""

        async def app(scope, receive, send):
            clock[0] += seconds
            await send({"type": "http.response.start", "status": status, "headers": []})
            await send({"type": "http.response.body"})

        async def receive():
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message):
            sent.append(message)

        guard.app, guard.in_flight = app, in_flight
        sent.clear()
        asyncio.run(guard(scope, receive, send))
        return sent[0]["status"], dict(sent[0]["headers"]).get(b"retry-after")

    guard = Guard(None, Limits(rows=2, queue=1), local_names=False)
    assert ask(2, seconds=1.0) == (200, None)  # two are answered, and one may wait
    assert ask(3) == (429, b"2")
    assert ask(0, seconds=63.0) == (200, None) and ask(3) == (429, b"15")  # 7.2 s · 4 / 2
    assert ask(0, 500, seconds=63.0) == (500, None) and ask(3) == (429, b"15")
    assert ask(0, seconds=20.2) == (200, None) and ask(3) == (429, b"17")  # 8.5 s · 4 / 2


def test_slow_and_endless_bodies(serve):
    with serve(Limits(body_s=0.3)) as running:
        status, text = send_slowly(running.port, f"{HEAD}Content-Length: 5000\r\n\r\n".encode(), [b" "] * 6, 0.1)
        assert status == 408 and "did not come within" in text
        running.until(lambda: not running.service.guard.in_flight)
    with serve(Limits(body_bytes=10_000)) as running:
        chunk = b"3e8\r\n" + b" " * 1000 + b"\r\n"
        head = f"{HEAD}Transfer-Encoding: chunked\r\n\r\n".encode()
        assert send_slowly(running.port, head, [chunk] * 12, 0)[0] == 413
        running.until(lambda: not running.service.guard.in_flight)


@pytest.mark.parametrize("protocol", ["websocket", "h2c"])
def test_who_asks_for_another_protocol_is_answered_in_http_and_not_in_the_log(serve, caplog, protocol):
    with serve() as running:
        said = logging.getLogger("uvicorn.error")  # uvicorn sets its level as it starts, and tells no other logger
        said.addHandler(caplog.handler)
        head = f"{GET}Connection: Upgrade\r\nUpgrade: {protocol}\r\n\r\n"
        with caplog.at_level(logging.WARNING, "uvicorn.error"):
            assert send_slowly(running.port, head.encode(), [], 0)[0] == 200
        said.removeHandler(caplog.handler)
    assert caplog.text == ""


@pytest.mark.parametrize(("pieces", "status"), [([], 400), ([b"zz\r\n"], 415)])
def test_what_is_no_http_is_not_in_the_log(serve, caplog, pieces, status):
    """Neither at once, nor in a body that goes on after its answer."""
    head = (
        f"POST {PATH} HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n" if pieces else "noise\r\n\r\n"
    )
    with serve() as running:
        said = logging.getLogger("uvicorn.error")
        said.addHandler(caplog.handler)
        with caplog.at_level(logging.WARNING, "uvicorn.error"):
            answered, text = send_slowly(running.port, head.encode(), pieces, 0.3)
            running.until(lambda: not running.server.server_state.connections)
        said.removeHandler(caplog.handler)
    assert answered == status and json.loads(text)["error"]["type"] == "invalid_request_error"
    assert caplog.text == ""


def test_slow_heads_and_silent_connections(serve, monkeypatch):
    monkeypatch.setattr("phantrol.serving.heads.SECONDS", 0.4)
    with serve() as running:
        assert 0.3 < open_for(running.port, b"", b"")[0] < 60  # silent
        assert 0.3 < open_for(running.port, HEAD.encode(), b"X: ")[0] < 60  # dribbling
        # dribbling a second one
        assert 0.3 < open_for(running.port, f"{GET}\r\n".encode(), b"G")[0] < 60
        monkeypatch.setattr("phantrol.serving.heads.SECONDS", 1.5)
        whole = f"{HEAD}Content-Length: 2\r\n\r\n".encode()
        # a whole head is in time, whatever its body does
        assert send_slowly(running.port, whole, [b" "] * 2, 1.0)[0] == 400


CHUNK = b"fa0\r\n" + b" " * 4000 + b"\r\n"


@pytest.mark.parametrize(
    ("first", "then", "status"),
    [
        (f"{HEAD}Content-Length: 5000\r\n\r\n".encode(), b" ", 408),
        (f"{HEAD}Transfer-Encoding: chunked\r\n\r\n".encode(), b"1\r\n \r\n", 408),
        (f"{HEAD}Transfer-Encoding: chunked\r\n\r\n".encode() + 3 * CHUNK, CHUNK, 413),
        (f"{GET}Content-Length: 1000000000\r\n\r\n".encode(), b" " * 1000, 200),
        (f"{GET}Transfer-Encoding: chunked\r\n\r\n".encode(), CHUNK, 200),
    ],
)
def test_a_body_that_goes_on_after_its_answer_ends_the_connection(serve, monkeypatch, first, then, status):
    monkeypatch.setattr("phantrol.serving.heads.REST_S", 0.4)
    with serve(Limits(body_s=0.5, body_bytes=10_000)) as running:
        seconds, heard = open_for(running.port, first, then)
        assert seconds < 30
        head, _, said = heard.partition(b"\r\n\r\n")
        assert int(head.split()[1]) == status and json.loads(said)  # the whole answer, and only one
        running.until(lambda: not running.server.server_state.connections)


def test_a_body_that_ends_after_its_answer_keeps_the_connection(serve, monkeypatch):
    monkeypatch.setattr("phantrol.serving.heads.REST_S", 3600.0)
    asked = f"{HEAD}Content-Length: 2\r\n\r\n".encode()
    with serve() as running, socket.create_connection(("127.0.0.1", running.port), timeout=PATIENCE_S) as connection:

        def hear() -> int:
            answer = http.client.HTTPResponse(connection)
            answer.begin()
            answer.read()
            return answer.status

        connection.sendall(f"{GET}Content-Length: 2\r\n\r\n".encode())
        assert hear() == 200
        (server_side,) = running.server.server_state.connections
        running.until(lambda: server_side._timer is not None)
        for late in (b"ab", b""):  # the second time, two requests come at once
            connection.sendall(late + (b"" if late else f"{GET}\r\n".encode()) + asked)
            assert late or hear() == 200
            running.until(lambda: running.service.guard.in_flight == 1)
            assert server_side._timer is None  # its body is waited for, for as long as any other's
            connection.sendall(b"{}")
            assert hear() == 400
            assert server_side._timer is None


@pytest.mark.parametrize("stream", [False, True])
def test_the_time_of_a_request_runs_while_its_body_comes(serve, engine, stream):
    asked = json.dumps(body(1, stream=stream, max_tokens=3)).encode()
    head = f"{HEAD}Content-Length: {len(asked)}\r\n\r\n".encode()
    with serve(Limits(request_s=1.0)) as running, slow(engine, 0.1):
        status, text = send_slowly(running.port, head, [asked[:9], asked[9:]], 0.6)
        assert status == (200 if stream else 504) and "not done within 1 seconds" in text and "DONE" not in text


def expecting(kind: str, length: int) -> bytes:
    head = f"POST {PATH} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n"
    return f"{head}Expect: 100-continue\r\n\r\n".encode()


@pytest.mark.parametrize(
    ("kind", "length", "status"), [("text/plain", 1000, 415), ("application/json", 10**9, 413), (None, 1000, 401)]
)
def test_a_body_that_is_refused_by_its_head_is_not_asked_for(serve, monkeypatch, kind, length, status):
    monkeypatch.setattr("phantrol.serving.guard.DISCARD_S", 2 * PATIENCE_S)  # it does not hold the refusal up
    with (
        serve(api_key=None if kind else "a-key-of-tests") as running,
        socket.create_connection(("127.0.0.1", running.port), timeout=PATIENCE_S) as connection,
    ):
        connection.sendall(expecting(kind or "application/json", length))
        first = connection.recv(20)
        assert first.startswith(f"HTTP/1.1 {status} ".encode()), first
        heard = first + connection.recv(65536)
        while not heard.endswith(b"}}"):
            heard += connection.recv(65536)
        head, _, said = heard.partition(b"\r\n\r\n")
        assert b"connection: close" in head.lower() and json.loads(said)["error"]["message"]
        connection.sendall(b"{")  # who sends it nonetheless is heard to the end
        connection.close()
        running.until(lambda: not running.service.guard.in_flight)


def test_a_body_that_is_taken_is_asked_for(running):
    asked = json.dumps(body(1, max_tokens=2)).encode()
    with socket.create_connection(("127.0.0.1", running.port), timeout=PATIENCE_S) as connection:
        connection.sendall(expecting("application/json", len(asked)))
        assert connection.recv(65536).startswith(b"HTTP/1.1 100 ")
        connection.sendall(asked)
        answer = http.client.HTTPResponse(connection)
        answer.begin()
        assert answer.status == 200 and json.loads(answer.read())["choices"]


def test_a_key_covers_every_route(serve):
    key = "a-key-of-tests"
    with serve(api_key=key) as running:
        routes = sorted({(m, r.path) for r in running.service.app.routes for m in getattr(r, "methods", None) or []})
        assert ("POST", PATH) in routes and ("GET", "/metrics") in routes
        of_the_page = [("GET", "/"), ("GET", "/page/page.js"), ("POST", "/v1/phantrol/explain")]
        for method, path in [*routes, *of_the_page, ("GET", "/no-such-route")]:
            for headers in (
                {},
                {"Authorization": "Bearer wrong"},
                {"Authorization": "Bearer"},
                {"Authorization": f"Digest {key}"},
                {"Authorization": f"Bearer {key}x"},
                {"Authorization": "Basic ????"},
                {"Authorization": b"Bearer \xff\xfe"},
            ):
                answer = patient.request(method, running.url + path, headers=headers)
                assert answer.status_code == 401, (method, path, headers)
                assert method == "HEAD" or answer.json()["error"]["code"] == "invalid_api_key"
        assert running.client(key).chat.completions.create(**body(1)).choices
        basic = base64.b64encode(f"anyone:{key}".encode()).decode()
        assert patient.get(f"{running.url}/v1/models", headers={"Authorization": f"Basic {basic}"}).status_code == 200
        page = patient.get(running.url, headers={"Accept": "text/html,*/*"})
        assert page.headers["www-authenticate"].startswith("Basic")  # so that a browser asks for it
        other_name = {"Authorization": f"Bearer {key}", "Host": "models.example"}
        assert patient.get(f"{running.url}/v1/models", headers=other_name).status_code == 200
        with pytest.raises(openai.AuthenticationError):
            running.client("wrong-key").models.list()


def test_whatever_may_be_got_has_a_head(running):
    for path in ("/", "/page/page.js", "/health", "/metrics", "/v1/models"):
        answer = patient.head(running.url + path)
        assert answer.status_code == 200 and not answer.content, path
        assert answer.headers["content-type"] == patient.get(running.url + path).headers["content-type"]
        assert answer.headers.get_list("x-content-type-options") == ["nosniff"]
    assert patient.head(running.url + PATH).status_code == 405
