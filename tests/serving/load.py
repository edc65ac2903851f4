"""A bounded load test on loopback: `phantrol serve` in a process of its own, many clients, some of them malicious.

    python tests/serving/load.py --seconds 180 --clients 64     # a tiny random model
    python tests/serving/load.py --model runs/demo/final

A tenth of the requests is malformed and must be refused, a tenth of the others is cancelled midway, and every whole
answer is held against the one that the same question got alone, before. Prints a report; exit code 1 if something is
wrong: an answer, a refusal, memory that grows by more than 5 %, a row that stays taken, or batching that gives less
than three times the requests a second of one client at a time.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import httpx

sys.path.append(str(Path(__file__).parent))

from asking import CHATS, NAME, PATH

QUESTION = {"role": "user", "content": "a"}
HERE = {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://127.0.0.1/"}}]}
MALFORMED = [
    (b"{", 400),
    (json.dumps({"model": NAME, "messages": []}).encode(), 400),
    (json.dumps({"model": NAME, "messages": [QUESTION], "max_tokens": -1}).encode(), 400),
    (json.dumps({"model": "other", "messages": [QUESTION]}).encode(), 404),
    (json.dumps({"model": NAME, "messages": [HERE]}).encode(), 400),
]


@dataclasses.dataclass
class Tally:
    """What all clients saw."""

    right: int = 0
    wrong: list = dataclasses.field(default_factory=list)
    refused: int = 0
    cancelled: int = 0
    again: int = 0  # answers 429
    tokens: int = 0
    first_token_s: list = dataclasses.field(default_factory=list)
    lock: threading.Lock = dataclasses.field(default_factory=threading.Lock)


def requests() -> list[dict]:
    """Text, pictures and several turns; short and long; greedy and by chance with a seed."""
    found = []
    for i, chat in enumerate(CHATS):
        for seeded in (False, True):
            sampling = {"temperature": 1.0, "seed": i} if seeded else {}
            found.append({"model": NAME, "messages": chat, "max_tokens": 12 + 6 * (i % 4), **sampling})
    return found


def save_tiny_model(folder: Path) -> None:
    """Random weights in float64: rounding in another company cannot change a word."""
    sys.path.insert(0, str(Path(__file__).parents[1]))
    import torch
    from conftest import tiny_model

    import phantrol
    from phantrol.models.tokenizer import train_tokenizer

    words = [a + b + c for a in "bdfgklmn" for b in ("a", "e", "i", "o", "oo") for c in "lmnprst"]
    tokenizer = train_tokenizer([" ".join(words), "What color is the circle?", "é 漢字"] * 4, 700)
    modifiers = [phantrol.TrolConfig(gate_bias=0.2), phantrol.PhantomConfig(init="random")]
    model, processor = tiny_model(tokenizer, modifiers, noise=0.4, dtype=torch.float64)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)


def ask_whole(http: httpx.Client, body: dict) -> str:
    answer = http.post(PATH, json=body)
    answer.raise_for_status()
    return answer.json()["choices"][0]["message"]["content"]


def ask_stream(http: httpx.Client, body: dict, cancel_after: int | None, tally: Tally) -> str | None:
    """Return the text, or None if the client left, or was told to come again. Raises RuntimeError for half a stream."""
    began, pieces, first_s, is_whole = time.monotonic(), [], None, False
    with http.stream("POST", PATH, json={**body, "stream": True}) as answer:
        if answer.status_code == 429:
            time.sleep(min(2.0, float(answer.headers["retry-after"])))
            with tally.lock:
                tally.again += 1
            return None
        answer.raise_for_status()
        for line in answer.iter_lines():
            is_whole = line == "data: [DONE]" or is_whole
            if not line.startswith("data: {"):
                continue
            chunk = json.loads(line[6:])
            if "error" in chunk:
                raise RuntimeError(f"a stream ended with {chunk['error']['message']!r}")
            text = chunk["choices"][0]["delta"].get("content")
            if text:
                pieces.append(text)
                first_s = first_s or time.monotonic() - began
            if cancel_after is not None and len(pieces) >= cancel_after:
                with tally.lock:
                    tally.cancelled += 1
                return None
    if not is_whole:
        raise RuntimeError("a stream ended without [DONE]")
    with tally.lock:
        tally.tokens += len(pieces)
        if first_s is not None:
            tally.first_token_s.append(first_s)
    return "".join(pieces)


def be_client(url: str, seed: int, ends: float, expected: list[tuple[dict, str]], tally: Tally, bad: float) -> None:
    """Ask one thing after another until the time is over; `bad` is the share of malformed and cancelled requests."""
    chance = random.Random(seed)
    with httpx.Client(
        base_url=url, timeout=120, verify=False
    ) as http:  # plain HTTP: certificates would be read in vain
        while time.monotonic() < ends:
            try:
                ask_once(http, chance, expected, tally, bad)
            except Exception as error:  # whatever it was: a client that ends early would hide it
                with tally.lock:
                    tally.wrong.append(repr(error))


def ask_once(http: httpx.Client, chance: random.Random, expected: list, tally: Tally, bad: float) -> None:
    """Make one request, and count what came of it."""
    if chance.random() < bad:
        body, status = chance.choice(MALFORMED)
        got = http.post(PATH, content=body, headers={"Content-Type": "application/json"}).status_code
        with tally.lock:
            tally.refused += got == status
            if got not in (status, 429):
                tally.wrong.append(f"{body!r} got {got}, expected {status}")
        return
    body, text = chance.choice(expected)
    said = ask_stream(http, body, 2 if chance.random() < bad else None, tally)
    with tally.lock:
        if said == text:
            tally.right += 1
        elif said is not None:
            tally.wrong.append(f"said {said!r}, alone {text!r}")


def play(url: str, clients: int, seconds: float, expected: list, bad: float, watch=lambda: None) -> tuple[Tally, float]:
    """Let so many clients ask for so long; return what they saw, and how long it took to the last answer."""
    tally, began = Tally(), time.monotonic()
    threads = [
        threading.Thread(target=be_client, args=(url, seed, began + seconds, expected, tally, bad))
        for seed in range(clients)
    ]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        watch()
        time.sleep(0.25)
    return tally, time.monotonic() - began


def rates(url: str, seconds: float, expected: list, rounds: int = 3) -> tuple[dict[int, float], list[str]]:
    """Return the requests a second of 1 and of 16 clients, and what is wrong. They take turns, each for `seconds` in
    all: whatever else a machine has to do then falls on both."""
    right, took, faults = {1: 0, 16: 0}, {1: 0.0, 16: 0.0}, []
    for _ in range(rounds):
        for count in right:
            tally, part_s = play(url, count, seconds / rounds, expected, bad=0.0)
            right[count] += tally.right
            took[count] += part_s
            faults += faults_of(tally, 0.0)
    return {count: right[count] / took[count] for count in right}, faults


def faults_of(tally: Tally, bad: float) -> list[str]:
    """Return what is wrong with what the clients saw, and what they should have seen but did not."""
    missing = not tally.right or (bad and not (tally.refused and tally.cancelled))
    return [*tally.wrong[:5], *["not every kind of request was made: give it more --seconds"] * bool(missing)]


def memory_mb(pid: int) -> float:
    """Resident memory of a process."""
    pages = int(Path(f"/proc/{pid}/statm").read_text("ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def wait_until(condition, seconds: float) -> bool:
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        if condition():
            return True
        time.sleep(0.1)
    return False


def is_up(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health").status_code == 200
    except httpx.TransportError:
        return False


def is_idle(url: str) -> bool:
    health = httpx.get(f"{url}/health").json()
    return health["running"] == health["waiting"] == 0


def measure(url: str, pid: int, clients: int, seconds: float) -> list[str]:
    """Run everything; print the report, and return what is wrong."""
    with httpx.Client(base_url=url, timeout=120) as http:
        expected = [(body, ask_whole(http, body)) for body in requests()]
    print(f"{len(expected)} questions, {len({text for _, text in expected})} different answers alone")
    rate, faults = rates(url, max(9.0, seconds / 6), expected)
    print("".join(f"{count:3} clients: {each:7.1f} requests/s\n" for count, each in rate.items()), end="")
    if faults:
        return faults
    print(f"batching: {rate[16] / rate[1]:.2f} times one at a time")
    tally, _ = play(url, clients, max(3.0, seconds / 8), expected, bad=0.1)  # memory is measured with every pool filled
    faults += tally.wrong[:5]
    samples = []
    tally, took = play(url, clients, seconds, expected, 0.1, lambda: samples.append(memory_mb(pid)))
    waits = sorted(tally.first_token_s) or [math.nan]
    share = max(1, len(samples) // 5)
    before, after = max(samples[:share]), max(samples[-share:])
    print(
        f"{clients} clients, {took:.0f} s: {tally.right} right, {len(tally.wrong)} wrong, {tally.refused} malformed "
        f"refused, {tally.cancelled} cancelled, {tally.again} told to come again\n"
        f"{tally.right / took:.1f} requests/s, {tally.tokens / took:.0f} pieces/s; time to first token: median "
        f"{waits[len(waits) // 2]:.3f} s, p95 {waits[int(0.95 * len(waits))]:.3f} s\n"
        f"memory: {before:.0f} MB in the first fifth, {after:.0f} MB in the last ({after / before - 1:+.1%})"
    )
    faults += faults_of(tally, 0.1)
    if not wait_until(lambda: is_idle(url), 10):
        faults.append(f"rows stay taken: {httpx.get(f'{url}/health').text}")
    if after > 1.05 * before:
        faults.append("memory grows")
    if rate[16] < 3 * rate[1]:
        faults.append("batching gives less than three times one at a time")
    return faults


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seconds", type=float, default=180.0)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--rows", type=int, default=16)
    parser.add_argument("--model", help="a folder; by default a tiny random model")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, socket.create_server(("127.0.0.1", 0)) as free:
        model = options.model or folder
        if options.model is None:
            save_tiny_model(Path(folder))
        port = free.getsockname()[1]
        free.close()
        command = [sys.executable, "-m", "phantrol.cli", "serve", model, "--name", NAME, "--port", str(port)]
        command += ["--rows", str(options.rows), "--queue", str(max(64, options.clients))]
        url, process = f"http://127.0.0.1:{port}", subprocess.Popen(command)
        try:
            if not wait_until(lambda: is_up(url), 300):
                print("the server did not come up")
                return 1
            faults = measure(url, process.pid, options.clients, options.seconds)
            process.send_signal(signal.SIGTERM)
            if process.wait(30) != 0:
                faults.append(f"exit code {process.returncode} after SIGTERM")
        finally:
            process.kill()
            process.wait()
    print("\n".join(f"WRONG: {fault}" for fault in faults) or "All is well.")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
