"""A judge that is a server, results of two tiny models on a few questions of Primer, and results made by hand."""

from __future__ import annotations

import dataclasses
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

import phantrol
from phantrol.evals.card import Card
from phantrol.evals.judging import Judge
from phantrol.evals.runner import Wanted, run_benchmarks
from phantrol.models.tokenizer import train_tokenizer

OPTIONS = ["tasks=shape,captions,existence"]


class Server:
    """A judge whose replies a test decides with `say(prompt)`: a text, or a status."""

    def __init__(self):
        self.asked, self.say = [], lambda prompt: "1.0"
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                outer.asked.append((body, self.headers.get("Authorization")))
                content = body["messages"][0]["content"]
                reply = outer.say(content if isinstance(content, str) else content[0]["text"])
                found = {"model": "made-up-1", "choices": [{"message": {"content": reply}}]}
                self.send_response(reply if isinstance(reply, int) else 200)
                self.end_headers()
                self.wfile.write(json.dumps({"error": "no"} if isinstance(reply, int) else found).encode())

            def log_message(self, *args):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.http.serve_forever, daemon=True).start()
        self.judge = Judge(f"http://127.0.0.1:{self.http.server_address[1]}/v1", "made-up", wait_s=0.0)


@pytest.fixture
def server():
    running = Server()
    yield running
    running.http.shutdown()
    running.http.server_close()


@pytest.fixture(scope="session")
def models(tiny_model, tmp_path_factory):
    """Two saved models that differ in their weights."""
    folder = tmp_path_factory.mktemp("models")
    for seed in (0, 1):
        tokenizer = train_tokenizer(["What color is the circle? red blue green yes no"] * 4, 300)
        made, processor = tiny_model(tokenizer, [phantrol.TrolConfig(gate_bias=0.2)], image_px=64, noise=0.4, seed=seed)
        made.save_pretrained(folder / str(seed))
        processor.save_pretrained(folder / str(seed))
    return [str(folder / str(seed)) for seed in (0, 1)]


def _ask(model, path, batch_size):
    wanted = Wanted(limit=8, batch_size=batch_size, check_batch=5)
    run_benchmarks(model, ["primer"], wanted, json_path=path, options=OPTIONS)


@pytest.fixture(scope="session")
def scored(models, tmp_path_factory):
    """A folder with the results of the first model."""
    folder = tmp_path_factory.mktemp("results")
    _ask(models[0], folder / "a.json", 16)
    return folder


@pytest.fixture(scope="session")
def compared(models, scored):
    """The same with the results of the second model, and of the first one again with batches of one."""
    _ask(models[1], scored / "b.json", 16)
    _ask(models[0], scored / "alone.json", 1)
    return scored


@pytest.fixture
def bare_report():
    """A report without rows, written by hand: what is done with results needs no model."""
    speaker = dict.fromkeys(("weights_sha256", "decoding", "dtype", "weights", "versions"))
    card = {field.name: None for field in dataclasses.fields(Card)} | {"speaker": speaker, "usual_split": True}
    return {"benchmark": "mine", "split": "val", "model": "m", "overall": {}, "missing": [], "rows": [], "card": card}
