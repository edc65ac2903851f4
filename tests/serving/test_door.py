"""What stands before every route: heads and bodies that come too slowly, keys, names of hosts."""

from __future__ import annotations

import base64
import http.client
import socket
import time

import openai
import pytest
from asking import PATH, PATIENCE_S, body, patient

from phantrol.serving.limits import Limits
from phantrol.serving.server import check_api_key, check_image_hosts, served_name

HEAD = f"POST {PATH} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"


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


def test_slow_heads_and_silent_connections(serve, monkeypatch):
    monkeypatch.setattr("phantrol.serving.heads.SECONDS", 0.4)
    with serve() as running:

        def open_for(first: bytes, then: bytes) -> float:
            """Return for how many seconds a client that goes on sending finds the connection open."""
            began = time.monotonic()
            with socket.create_connection(("127.0.0.1", running.port), timeout=10) as connection:
                connection.sendall(first)
                connection.settimeout(0.05)
                while time.monotonic() - began < 60:
                    try:
                        if not connection.recv(65536):
                            break
                    except TimeoutError:
                        connection.sendall(then)
                    except OSError:
                        break
            return time.monotonic() - began

        assert 0.3 < open_for(b"", b"") < 60  # silent
        assert 0.3 < open_for(HEAD.encode(), b"X: ") < 60  # dribbling
        assert 0.3 < open_for(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n", b"G") < 60  # dribbling a second one
        monkeypatch.setattr("phantrol.serving.heads.SECONDS", 1.5)
        whole = f"{HEAD}Content-Length: 2\r\n\r\n".encode()
        # a whole head is in time, whatever its body does
        assert send_slowly(running.port, whole, [b" "] * 2, 1.0)[0] == 400


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


def test_names_keys_and_hosts():
    assert served_name("/runs/mine/final") == "mine"
    assert served_name("final") == "final"
    assert served_name("owner/model") == "model"
    check_api_key("abcdefgh")
    check_image_hosts(["example.org", "example.org:8443"])
    for key in ("", "short", "with a space", "größer-als-ASCII"):
        with pytest.raises(ValueError, match="expected 8 or more"):
            check_api_key(key)
    for host in ("https://example.org", "example.org/a", "*", ""):
        with pytest.raises(ValueError, match="expected a name"):
            check_image_hosts([host])
    with pytest.raises(ValueError, match="the limit rows is 0"):
        Limits(rows=0)
