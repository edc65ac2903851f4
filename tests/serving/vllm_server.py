"""`vllm serve MODEL` beside our own answers, over HTTP. No test: see test_vllm.py.

    .venv-vllm/bin/python tests/serving/vllm_server.py

prints one line of JSON: how many answers of /v1/chat/completions are ours, and what it says to prompts that it must
refuse or take as text. The plugin is found by its entry point alone, as a user's `vllm serve` finds it.
"""

from __future__ import annotations

import base64
import io
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import vllm_case

START_S = 900  # two processes that import vLLM, on a busy machine
SCHEDULING = ["--max-model-len", "1024", "--block-size", "32", "--max-num-batched-tokens", "64"]
OPTIONS = ["--dtype", "float32", *SCHEDULING]


def data_uri(image: Any) -> str:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def as_openai(chat: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return messages as OpenAI's protocol has them."""

    def part(one: dict[str, Any]) -> dict[str, Any]:
        return one if one["type"] == "text" else {"type": "image_url", "image_url": {"url": data_uri(one["image"])}}

    return [
        {**m, "content": m["content"] if isinstance(m["content"], str) else [part(one) for one in m["content"]]}
        for m in chat
    ]


def post(url: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=300) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def wait_until_open(url: str, process: subprocess.Popen, log: Any) -> None:
    for _ in range(START_S // 2):
        if process.poll() is not None:
            log.seek(0)
            raise RuntimeError(f"vllm serve ended: {log.read()[-3000:]}")
        try:
            urllib.request.urlopen(f"{url}/health", timeout=5).close()
            return
        except OSError:
            time.sleep(2)
    raise TimeoutError(f"vllm serve did not open within {START_S} s")


def ask(url: str, chats: list[list[dict[str, Any]]], expected: list[list[int]]) -> dict[str, Any]:
    """Return what came of our questions, and of those that must not be answered as they stand.

    Tokens are compared, since these random models say bytes that are no text.
    """
    greedy = {"model": "tiny", "temperature": 0, "max_tokens": vllm_case.NEW_TOKENS}
    asked = [{**greedy, "messages": as_openai(chat), "return_token_ids": True} for chat in chats]
    answers = [post(f"{url}/v1/chat/completions", body) for body in asked]
    said = [body["choices"][0]["token_ids"] if status == 200 else body for status, body in answers]
    typed = {**greedy, "messages": [{"role": "user", "content": "an <image> that is typed"}]}
    status, refused = post(f"{url}/v1/completions", {**greedy, "prompt": [9, 10, 11]})
    return {
        "requests": len(chats),
        "equal": sum(one == ours for one, ours in zip(said, expected, strict=True)),
        "different_answers": len(set(map(tuple, expected))),
        "first_difference": next(([one, ours] for one, ours in zip(said, expected, strict=True) if one != ours), None),
        "typed_placeholder_status": post(f"{url}/v1/chat/completions", typed)[0],
        "other_first_token_status": status,
        "other_first_token": json.dumps(refused)[:200],
    }


def main() -> None:
    modifiers = [vllm_case.config_from_dict(one) for one in vllm_case.METHODS["both"]]
    model, processor = vllm_case.build("llama", modifiers)
    chats = vllm_case.requests(12, text_only=False)
    prompts = [vllm_case.encode(processor, chat, False) for chat in chats]
    expected = vllm_case.our_answers(model, processor, prompts, False)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile("w+") as log:
        model.save_pretrained(folder)
        processor.save_pretrained(folder)
        address = ["--host", "127.0.0.1", "--port", str(port), "--served-model-name", "tiny"]
        command = [str(Path(sys.executable).parent / "vllm"), "serve", folder, *address, *OPTIONS]
        environment = {name: value for name, value in os.environ.items() if name != "VLLM_ENABLE_V1_MULTIPROCESSING"}
        with subprocess.Popen(command, stdout=log, stderr=log, env=environment) as process:
            try:
                wait_until_open(f"http://127.0.0.1:{port}", process, log)
                print(json.dumps(ask(f"http://127.0.0.1:{port}", chats, expected)), flush=True)
            finally:
                process.terminate()


if __name__ == "__main__":
    main()
