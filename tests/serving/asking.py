"""Requests of the tests: conversations with pictures, as clients of OpenAI's protocol write them."""

from __future__ import annotations

import base64
import io

import httpx
from PIL import Image, ImageDraw

NAME = "tiny"
PATH = "/v1/chat/completions"
PATIENCE_S = 240.0  # for what takes a second: a machine may be slow and busy
# a client with patience, and with a connection for each request
patient = httpx.Client(timeout=PATIENCE_S, limits=httpx.Limits(max_keepalive_connections=0), trust_env=False)


def png(colour="red", size=(40, 20), kind="PNG") -> bytes:
    image = Image.new("RGB", size, colour)
    ImageDraw.Draw(image).ellipse((5, 5, 18, 15), fill="white")
    file = io.BytesIO()
    image.save(file, kind)
    return file.getvalue()


def data_uri(data: bytes, kind="png") -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def ask(*parts) -> dict:
    """A user's message of texts (str) and pictures (bytes, or an address as a tuple of one)."""
    content = []
    for part in parts:
        if isinstance(part, str):
            content.append({"type": "text", "text": part})
        else:
            url = part[0] if isinstance(part, tuple) else data_uri(part)
            content.append({"type": "image_url", "image_url": {"url": url}})
    return {"role": "user", "content": content}


CHATS = [
    [ask(png("red"), "What color is the circle?")],
    [{"role": "user", "content": "a red circle"}],
    [ask(png("blue"), "What?"), {"role": "assistant", "content": "a small blue star"}, ask("What color is it?")],
    [ask(png("green"), "and", png("yellow", (20, 50), "JPEG"), "a star or a circle?" * 4)],
    [{"role": "system", "content": "a large star"}, {"role": "user", "content": "What?"}],
    [ask(png("black"), "a?"), {"role": "assistant", "content": "red"}, ask(png("white"), "What color?")],
    [ask("What is the circle? " * 6)],
]


def body(chat=0, **options) -> dict:
    """A request for 200 tokens about one of the conversations."""
    return {"model": NAME, "messages": CHATS[chat], "max_tokens": 200} | options


def to_engine_chat(messages: list[dict]) -> list[dict]:
    """The same conversation as an Engine takes it."""

    def part(given):
        if given["type"] == "text":
            return given
        data = base64.b64decode(given["image_url"]["url"].partition(",")[2])
        return {"type": "image", "image": data}

    return [
        {**m, "content": m["content"] if isinstance(m["content"], str) else [part(p) for p in m["content"]]}
        for m in messages
    ]
