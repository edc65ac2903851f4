"""A tiny model behind a real server on loopback, in a thread, and the official client of OpenAI."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import socket
import sys
import threading
import time
import traceback
from pathlib import Path

import openai
import pytest
import torch

import phantrol
from phantrol.inference.engine import Engine
from phantrol.models.tokenizer import train_tokenizer
from phantrol.serving.app import Service
from phantrol.serving.limits import Limits
from phantrol.serving.server import DrainingServer

sys.path.append(str(Path(__file__).parent))  # asking.py and hostile.py are no tests: see there

from asking import NAME, PATIENCE_S


@pytest.fixture(scope="session")
def engine(tiny_model) -> Engine:
    words = [a + b + c for a in "bdfgklmn" for b in ("a", "e", "i", "o", "oo") for c in "lmnprst"]
    tokenizer = train_tokenizer([" ".join(words), "What color is the circle?", "é 漢字"] * 4, 700)
    modifiers = [phantrol.TrolConfig(gate_bias=0.2), phantrol.PhantomConfig(init="random")]
    return Engine(*tiny_model(tokenizer, modifiers, noise=0.4, dtype=torch.float64))


class Running:
    """A server that runs: its address, its Service, and what ends it."""

    def __init__(self, service, server, thread, port):
        self.service, self.server, self.thread, self.port = service, server, thread, port
        self.url = f"http://127.0.0.1:{port}"

    def client(self, key="none", **options):
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key=key, max_retries=0, timeout=PATIENCE_S, **options)

    def until(self, condition, seconds=PATIENCE_S):
        """Wait until a condition holds; fail if it does not."""
        ends = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < ends, "it did not happen in time"
            time.sleep(0.01)

    def is_idle(self):
        scheduler = self.service.scheduler
        return not (scheduler.num_running or scheduler.num_waiting)


@contextlib.contextmanager
def serving(engine, limits=None, **options):
    """Serve an engine on a free port of loopback."""
    listener = socket.create_server(("127.0.0.1", 0))
    service = Service(engine, NAME, limits or Limits(answer_tokens=256, rows=8), **options)
    server = DrainingServer(service, log_level="error")
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    running = Running(service, server, thread, listener.getsockname()[1])
    running.until(lambda: server.started)
    try:
        yield running
    finally:
        server.should_exit = True
        thread.join(PATIENCE_S)
        assert not thread.is_alive(), f"the server does not end: {_where_it_stands()}"


def _where_it_stands():
    """Each thread's stack, and what each task of asyncio waits for."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    found = [(names.get(each, each), traceback.format_stack(frame)) for each, frame in sys._current_frames().items()]
    stacks = [f"--- {name}\n{''.join(stack)}" for name, stack in found]
    tasks = [repr(each) for each in gc.get_objects() if isinstance(each, asyncio.Task) and not each.done()]
    return "\n".join(stacks + tasks)


@pytest.fixture(scope="session")
def serve(engine):
    """`serve(limits, ...)`: a context manager around a server of one's own."""
    return lambda limits=None, **options: serving(engine, limits, **options)


@pytest.fixture
def serve_engine():
    """`serve_engine(engine)`: a context manager around a server of another engine."""
    return serving


@pytest.fixture(scope="session")
def running(engine):
    """A server that tests share, with small limits."""
    limits = Limits(
        answer_tokens=256,
        rows=8,
        queue=64,
        body_bytes=600_000,
        image_pixels=1_000_000,
        images=3,
        messages=6,
        prompt_tokens=600,
        text_characters=20_000,
    )
    with serving(engine, limits) as running:
        yield running
