"""Clients that leave, a server that is full, slow, locked, broken or about to stop."""

from __future__ import annotations

import base64
import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time

import httpx
import openai
import pytest
from asking import CHATS, NAME, to_engine_chat

from phantrol.inference.engine import Engine
from phantrol.serving.limits import Limits
from phantrol.serving.server import check_api_key, check_image_hosts, served_name

PATH = "/v1/chat/completions"


def body(chat=0, **options):
    return {"model": NAME, "messages": CHATS[chat], "max_tokens": 200} | options


@contextlib.contextmanager
def slow(engine, seconds=0.01, fails=None):
    """While this lasts, each pass of the model takes longer, and fails where `fails(number of the pass)` says so."""
    passes = []

    def wait(module, args, kwargs):
        passes.append(time.sleep(seconds))
        if fails is not None and fails(len(passes)):
            raise RuntimeError("out of memory at 0x7f00deadbeef in /usr/lib/model.py")

    hook = engine.model.register_forward_pre_hook(wait, with_kwargs=True)
    try:
        yield passes
    finally:
        hook.remove()


def test_who_leaves_a_stream_frees_the_row(running, engine):
    with slow(engine) as passes:
        with httpx.stream("POST", running.url + PATH, json=body(stream=True)) as answer:
            lines = answer.iter_lines()  # held: once it is forgotten, httpx leaves
            while '"content":"' not in (line := next(lines)) or '"content":""' in line:
                pass
            running.until(lambda: running.service.scheduler.num_running == 1)  # it joins right after its first word
        running.until(running.is_idle)
        assert len(passes) < 150  # of 200
        running.until(lambda: not running.service.guard.in_flight)


def test_who_leaves_before_a_whole_answer_frees_the_row(running, engine):
    with slow(engine) as passes:
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(running.url + PATH, json=body(), timeout=0.3)
        running.until(running.is_idle)
        assert len(passes) < 150
        running.until(lambda: not running.service.guard.in_flight)
    metrics = httpx.get(f"{running.url}/metrics").text
    assert f'phantrol_requests_total{{route="{PATH}",status="499"}}' in metrics


def test_a_neighbour_who_leaves_changes_no_answer(running, engine):
    expected = engine.answer(to_engine_chat(CHATS[2]), max_new_tokens=60).text
    with slow(engine):

        def leave():
            with pytest.raises(httpx.ReadTimeout):
                httpx.post(running.url + PATH, json=body(3), timeout=0.2)

        leaving = threading.Thread(target=leave)
        leaving.start()
        assert httpx.post(running.url + PATH, json=body(2, max_tokens=60)).json()["choices"][0]["message"] == {
            "role": "assistant",
            "content": expected,
            "refusal": None,
        }
        leaving.join()


def test_a_full_server_says_come_again(serve, engine):
    limits = Limits(rows=1, queue=1, answer_tokens=256)
    with serve(limits) as running, slow(engine, 0.02):
        statuses, waits, texts = [], [], []

        def one():
            answer = httpx.post(running.url + PATH, json=body(1, max_tokens=20), timeout=30)
            statuses.append(answer.status_code)
            if answer.status_code == 429:
                waits.append(int(answer.headers["retry-after"]))
                assert answer.json()["error"]["code"] == "queue_full"
            else:
                texts.append(answer.json()["choices"][0]["message"]["content"])

        threads = [threading.Thread(target=one) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert statuses.count(200) in (2, 3) and statuses.count(429) == 6 - statuses.count(200)
        assert all(1 <= wait <= 60 for wait in waits)
        assert set(texts) == {engine.answer(CHATS[1], max_new_tokens=20).text}
        assert httpx.post(running.url + PATH, json=body(1, max_tokens=2)).status_code == 200
        with pytest.raises(openai.BadRequestError, match="at most 1"):
            running.client().chat.completions.create(**body(1), n=2)


def test_what_takes_too_long_is_ended(serve, engine):
    with serve(Limits(request_s=0.4, answer_tokens=256)) as running, slow(engine, 0.02):
        answer = httpx.post(running.url + PATH, json=body())
        assert answer.status_code == 504
        assert answer.json()["error"]["code"] == "timeout"
        with pytest.raises(openai.APIError, match="not done within"):
            for _ in running.client().chat.completions.create(**body(), stream=True):
                pass
        running.until(running.is_idle)


def send_slowly(port, head, pieces, seconds):
    """Send a request in pieces; return what comes back."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(head)
        for piece in pieces:
            time.sleep(seconds)
            try:
                connection.sendall(piece)
            except OSError:
                break
        return connection.recv(65536).decode("latin-1")


HEAD = f"POST {PATH} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"


def test_slow_and_endless_bodies(serve):
    with serve(Limits(body_s=0.3, body_bytes=10_000)) as running:
        slowly = send_slowly(running.port, f"{HEAD}Content-Length: 5000\r\n\r\n".encode(), [b" "] * 6, 0.1)
        assert slowly.split()[1] == "408" and "did not come within" in slowly
        chunk = b"3e8\r\n" + b" " * 1000 + b"\r\n"
        endless = send_slowly(running.port, f"{HEAD}Transfer-Encoding: chunked\r\n\r\n".encode(), [chunk] * 12, 0)
        assert endless.split()[1] == "413"
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
                while time.monotonic() - began < 5:
                    try:
                        if not connection.recv(65536):
                            break
                    except TimeoutError:
                        connection.sendall(then)
                    except OSError:
                        break
            return time.monotonic() - began

        assert 0.3 < open_for(b"", b"") < 2  # silent
        assert 0.3 < open_for(HEAD.encode(), b"X: ") < 2  # dribbling
        assert 0.3 < open_for(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n", b"G") < 2  # dribbling a second one
        whole = f"{HEAD}Content-Length: 2\r\n\r\n".encode()
        slowly = send_slowly(running.port, whole, [b" "] * 2, 0.4)  # a whole head is in time, whatever its body does
        assert slowly.split()[1] == "400"


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
                answer = httpx.request(method, running.url + path, headers=headers)
                assert answer.status_code == 401, (method, path, headers)
                assert method == "HEAD" or answer.json()["error"]["code"] == "invalid_api_key"
        assert running.client(key).chat.completions.create(**body(1)).choices
        basic = base64.b64encode(f"anyone:{key}".encode()).decode()
        assert httpx.get(f"{running.url}/v1/models", headers={"Authorization": f"Basic {basic}"}).status_code == 200
        page = httpx.get(running.url, headers={"Accept": "text/html,*/*"})
        assert page.headers["www-authenticate"].startswith("Basic")  # so that a browser asks for it
        other_name = {"Authorization": f"Bearer {key}", "Host": "models.example"}
        assert httpx.get(f"{running.url}/v1/models", headers=other_name).status_code == 200
        with pytest.raises(openai.AuthenticationError):
            running.client("wrong-key").models.list()


def test_a_fault_of_the_model_ends_who_was_in_it_and_nobody_else(serve, engine):
    with serve() as running:
        with slow(engine, 0, fails=lambda number: number == 4):
            answer = httpx.post(running.url + PATH, json=body(1))
            assert answer.status_code == 500
            error = answer.json()["error"]
            assert error["type"] == "server_error" and "0x7f" not in answer.text and "/usr" not in answer.text
        with slow(engine, 0, fails=lambda number: number == 4), pytest.raises(openai.APIError, match="server failed"):
            for _ in running.client().chat.completions.create(**body(1), stream=True):
                pass
        text = running.client().chat.completions.create(**body(1, max_tokens=9)).choices[0].message.content
        assert text == engine.answer(CHATS[1], max_new_tokens=9).text


def test_a_prompt_that_fails_is_alone_in_failing(engine):
    from phantrol.inference.running import Failure, Piece
    from phantrol.inference.sampling import Sampling
    from phantrol.inference.scheduler import Scheduler

    scheduler = Scheduler(engine)  # not started: its turns are taken here
    heard = {chat: [] for chat in (0, 1, 3)}
    for chat, events in heard.items():
        prompt = engine.processor.encode(to_engine_chat(CHATS[chat]), True)
        if chat == 3:
            prompt = type(prompt)(prompt.input_ids, prompt.answer_mask, prompt.pixel_values[:1])  # a picture is lost
        scheduler.submit(prompt, Sampling(max_new_tokens=8), events.append)
    for _ in range(8):
        scheduler.turn()
    assert [type(event) for event in heard[3]] == [Failure]
    for chat in (0, 1):
        text = "".join(event.text for event in heard[chat] if isinstance(event, Piece))
        assert text == engine.answer(to_engine_chat(CHATS[chat]), max_new_tokens=8).text


def test_a_model_that_cannot_batch_answers_one_at_a_time_and_says_so(tiny_model, engine, serve_engine):
    import torch

    from phantrol.modifiers.trol import TrolConfig

    tokenizer = engine.processor.tokenizer
    sliding = Engine(
        *tiny_model(tokenizer, [TrolConfig()], family="mistral", sliding_window=6, noise=0.4, dtype=torch.float64)
    )
    with serve_engine(sliding) as running:
        health = httpx.get(f"{running.url}/health").json()
        assert health["batching"] is False and "one at a time" in health["why_not"]
        texts = [None] * 4

        def one(chat):
            answer = httpx.post(running.url + PATH, json=body(chat, max_tokens=10), timeout=30)
            texts[chat] = answer.json()["choices"][0]["message"]["content"]

        threads = [threading.Thread(target=one, args=(chat,)) for chat in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert texts == [sliding.answer(to_engine_chat(chat), max_new_tokens=10).text for chat in CHATS[:4]]


def test_a_look_inside_the_model_waits_for_its_turn_and_changes_no_answer(running, engine):
    expected = engine.answer(to_engine_chat(CHATS[3]), max_new_tokens=80).text
    maps = {"model": NAME, "messages": [*CHATS[0][:1]]}
    typed = {"model": NAME, "messages": [{"role": "user", "content": "What is <image>?"}], "max_tokens": 3}
    with slow(engine, 0.002):
        stream = running.client().chat.completions.create(**body(3, max_tokens=80), stream=True)
        text, looks, typing = "", [], []
        for number, chunk in enumerate(stream):
            text += chunk.choices[0].delta.content or ""
            if number % 8 == 0:
                looks.append(httpx.post(f"{running.url}/v1/phantrol/explain", json=maps, timeout=30))
                typing.append(httpx.post(running.url + PATH, json=typed, timeout=30).json())
    assert text == expected
    assert len(looks) > 3 and {look.status_code for look in looks} == {200}
    assert len({look.text for look in looks}) == 1
    assert len({told["usage"]["prompt_tokens"] for told in typing}) == 1
    too_long = [{"role": "user", "content": "é漢" * 400}]
    refused = httpx.post(f"{running.url}/v1/phantrol/explain", json={"messages": too_long})
    assert refused.status_code == 400 and refused.json()["error"]["code"] == "context_length_exceeded"
    assert httpx.post(f"{running.url}/v1/phantrol/explain", json={"messages": []}).status_code == 400


def drained(running_url, pid_or_server, stream):
    """Ask a server to stop while `stream` is read; return what new requests and the stream are told."""
    first = next(stream)
    pid_or_server()
    ends = time.monotonic() + 10
    while (new := httpx.post(running_url + PATH, json=body(1))).status_code != 503 and time.monotonic() < ends:
        time.sleep(0.05)
    health = httpx.get(f"{running_url}/health")
    text = "".join(c.choices[0].delta.content or "" for c in [first, *stream] if c.choices)
    return new, health, text


def test_a_server_that_stops_finishes_what_it_began(serve, engine):
    expected = engine.answer(to_engine_chat(CHATS[0]), max_new_tokens=120).text
    with serve() as running, slow(engine):
        stream = iter(running.client().chat.completions.create(**body(0, max_tokens=120), stream=True))
        new, health, text = drained(running.url, running.server.drain, stream)
        assert new.status_code == 503 and new.json()["error"]["code"] == "draining" and new.headers["retry-after"]
        assert health.status_code == 503 and health.json()["status"] == "draining"
        assert text == expected
        running.thread.join(10)
        assert not running.thread.is_alive()


def test_sigterm_of_the_command(engine, tmp_path):
    """The real command, in a process of its own, on a saved model."""
    folder = tmp_path / "runs" / "mine" / "final"
    engine.model.save_pretrained(folder)
    engine.processor.save_pretrained(folder)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "phantrol.cli", "serve", str(folder), "--port", str(port)]
    environment = {name: value for name, value in os.environ.items() if name != "PHANTROL_API_KEY"}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)
    try:
        url, ends = f"http://127.0.0.1:{port}", time.monotonic() + 60
        while True:
            try:
                assert httpx.get(f"{url}/health").json()["model"] == "mine"
                break
            except httpx.TransportError:
                assert process.poll() is None, process.stdout.read()
                assert time.monotonic() < ends
                time.sleep(0.2)
        client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
        asked = {"model": "mine", "messages": CHATS[0], "max_tokens": 1000}
        stream = iter(client.chat.completions.create(**asked, stream=True))
        new, _, text = drained(url, lambda: process.send_signal(signal.SIGTERM), stream)
        assert new.status_code == 503
        assert len(text) > 1000  # to its end
        assert process.wait(20) == 0
        said = process.stdout.read()
        assert f"mine is at http://127.0.0.1:{port}/v1" in said and "Traceback" not in said
    finally:
        process.kill()
        process.wait()


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
