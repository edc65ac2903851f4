"""A server that is asked to stop finishes what it began, and takes nothing new."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time

import httpx
import openai
import pytest
from asking import CHATS, PATH, PATIENCE_S, body, patient, to_engine_chat
from pacing import held

from phantrol.serving.limits import Limits


def drained(url, stop, stream, go):
    """Ask a server to stop while `stream` is read; return what new requests and the stream are told.

    The model waits in the middle of the stream until `go()`: before that the server cannot be done.
    """
    first = next(stream)
    stop()
    ends = time.monotonic() + PATIENCE_S
    while (health := patient.get(f"{url}/health")).status_code == 200 and time.monotonic() < ends:
        time.sleep(0.05)
    new = patient.post(url + PATH, json=body(1))
    go()
    text = "".join(c.choices[0].delta.content or "" for c in [first, *stream] if c.choices)
    return new, health, text


def test_a_server_that_stops_finishes_what_it_began(serve, engine):
    expected = engine.answer(to_engine_chat(CHATS[0]), max_new_tokens=120).text
    with serve() as running, held(engine) as (_, go):
        stream = iter(running.client().chat.completions.create(**body(0, max_tokens=120), stream=True))
        new, health, text = drained(running.url, running.server.drain, stream, go.set)
        assert new.status_code == 503 and new.json()["error"]["code"] == "draining" and new.headers["retry-after"]
        assert health.status_code == 503 and health.json()["status"] == "draining"
        assert text == expected
        running.thread.join(PATIENCE_S)
        assert not running.thread.is_alive()


def test_a_server_that_is_asked_twice_stops_at_once(serve, engine):
    with serve() as running, held(engine) as (passes, go):
        running.server.config.timeout_graceful_shutdown = PATIENCE_S  # it would wait so long
        with patient.stream("POST", running.url + PATH, json=body(0, stream=True)) as answer:
            running.until(lambda: len(passes) == 20)
            for _ in range(2):
                running.server.handle_exit(signal.SIGTERM, None)
            running.until(lambda: not running.service.guard.in_flight, 30)
            go.set()
            with pytest.raises(httpx.RemoteProtocolError, match="incomplete"):
                answer.read()
        running.thread.join(PATIENCE_S)
        assert not running.thread.is_alive()


def test_running_answers_get_the_time_of_a_request(serve):
    assert Limits().drain_s == Limits().request_s
    assert Limits(request_s=7.0, drain_s=2.0).drain_s == 2.0
    with pytest.raises(ValueError, match="drain_s"):
        Limits(drain_s=0.0)
    with serve(Limits(request_s=3600.0)) as running:
        running.server.drain()
        assert 3000 < running.server._drain_ends - time.monotonic() <= 3600


HELD = """
import os, sys, time
from phantrol.inference.engine import Engine

opened, passes = Engine.open, []

def wait(module, args):
    passes.append(None)
    while len(passes) == 20 and os.path.exists(os.environ["HELD"]):
        time.sleep(0.01)

def open_held(*args, **options):
    engine = opened(*args, **options)
    engine.model.register_forward_pre_hook(wait)
    return engine

Engine.open = open_held
sys.argv = ["phantrol", *sys.argv[1:]]
from phantrol.cli import main
main()
"""


def test_sigterm_of_the_command(engine, tmp_path):
    """The real command, in a process of its own, on a saved model."""
    folder, gate = tmp_path / "runs" / "mine" / "final", tmp_path / "held"
    engine.model.save_pretrained(folder)
    engine.processor.save_pretrained(folder)
    gate.touch()
    expected = engine.answer(to_engine_chat(CHATS[0]), max_new_tokens=200).text
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-c", HELD, "serve", str(folder), "--port", str(port)]
    environment = {name: value for name, value in os.environ.items() if name != "PHANTROL_API_KEY"}
    environment["HELD"] = str(gate)
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)
    try:
        url, ends = f"http://127.0.0.1:{port}", time.monotonic() + PATIENCE_S
        while True:
            try:
                assert patient.get(f"{url}/health").json()["model"] == "mine"
                break
            except httpx.TransportError:
                assert process.poll() is None, process.stdout.read()
                assert time.monotonic() < ends
                time.sleep(0.2)
        client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=PATIENCE_S)
        asked = body(0, model="mine")
        stream = iter(client.chat.completions.create(**asked, stream=True))
        new, _, text = drained(url, lambda: process.send_signal(signal.SIGTERM), stream, gate.unlink)
        assert new.status_code == 503
        assert text == expected  # to its end
        assert process.wait(PATIENCE_S) == 0
        said = process.stdout.read()
        assert f"mine is at http://127.0.0.1:{port}/v1" in said and "Traceback" not in said
    finally:
        process.kill()
        process.wait()
