"""An OpenAI-compatible endpoint that is asked politely: so many requests a minute, so many at once, and again later
when it is busy.

A key comes from the environment alone, and no message that leaves this file holds it.
"""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

AGAIN = (408, 409, 425, 429)  # and all from 500 on: another time it may go well
HOPELESS = (401, 403, 404)  # it will never go well, for no row
LONGEST_WAIT_S = 120.0


class RefusedRequest(Exception):
    """One request that failed for good: others may go well."""


@dataclass(frozen=True)
class Endpoint:
    """Where to ask, and how.

    url          ends in /v1, as for OpenAI's client;  model  its name there
    key_names    variables of the environment in which a key may stand, the first that is set wins; none is needed by
                 a server without keys
    per_minute   most requests in a minute to the address, None: as many as go
    retries      of one request, when busy or out of reach;  timeout_s  of one request
    temperature, max_tokens  of the answer
    price_in, price_out  of a million tokens, in any currency

    Raises ValueError for an address that is none, or carries a password.
    """

    url: str
    model: str
    key_names: tuple[str, ...] = ("OPENAI_API_KEY",)
    per_minute: float | None = None
    retries: int = 5
    timeout_s: float = 60.0
    temperature: float = 0.7
    max_tokens: int = 256
    price_in: float = 0.0
    price_out: float = 0.0

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"got the address {self.url!r}, expected one such as http://127.0.0.1:8000/v1")
        if parts.username or parts.password:
            raise ValueError("got an address with a user or a password in it: put the key into the environment")
        if self.per_minute is not None and self.per_minute <= 0:
            raise ValueError(f"requests a minute: got {self.per_minute}, expected more than 0")

    def cost(self, tokens_in: int, tokens_out: int) -> float:
        return (tokens_in * self.price_in + tokens_out * self.price_out) / 1e6


class Pace:
    """Lets threads go on one after the other, so many a minute; None: at once."""

    def __init__(self, per_minute: float | None = None):
        self.per_minute, self._next_s, self._lock = per_minute, 0.0, threading.Lock()

    def wait(self) -> None:
        if self.per_minute is None:
            return
        with self._lock:
            turn = max(self._next_s, time.monotonic())
            self._next_s = turn + 60 / self.per_minute
        time.sleep(max(0.0, turn - time.monotonic()))


@dataclass
class Asker:
    """Sends requests to one endpoint, from any number of threads; `retried` counts those that were sent again.

    pace  shared by all who ask the same address; by default the endpoint's own
    Raises ValueError if OpenAI's client is not installed.
    """

    endpoint: Endpoint
    pace: Pace | None = None
    retried: int = 0
    _lock: Any = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        try:
            import openai
        except ImportError:
            raise ValueError("asking an endpoint needs OpenAI's client: pip install 'phantrol[triples]'") from None
        self.pace = self.pace or Pace(self.endpoint.per_minute)
        key = next((os.environ[name] for name in self.endpoint.key_names if os.environ.get(name)), "")
        self._secret, self._errors = key, openai
        options = dict(base_url=self.endpoint.url, max_retries=0, timeout=self.endpoint.timeout_s)
        self._client = openai.OpenAI(api_key=key or "none", **options)

    def ask(self, chat: Sequence[Mapping[str, Any]], temperature: float | None = None) -> dict[str, Any]:
        """Return {text, tokens_in, tokens_out}; both are 0 if the endpoint does not count them.

        Raises RefusedRequest if this request fails for good, and ValueError if every other one would too.
        """
        errors, endpoint = self._errors, self.endpoint
        for attempt in range(endpoint.retries + 1):
            self.pace.wait()
            try:
                done = self._client.chat.completions.create(
                    model=endpoint.model,
                    messages=list(chat),
                    temperature=endpoint.temperature if temperature is None else temperature,
                    max_tokens=endpoint.max_tokens,
                )
                return _read(done)
            except errors.APIStatusError as error:
                if error.status_code in HOPELESS:
                    raise ValueError(f"{endpoint.url} refuses: {self._said(error)}") from None
                if error.status_code not in AGAIN and error.status_code < 500:
                    raise RefusedRequest(self._said(error)) from None
                reason, asked_s = self._said(error), _retry_after(error.response.headers)
            except (errors.APIError, ValueError) as error:  # out of reach, too slow, or a reply that is no JSON
                reason, asked_s = self._said(error), None
            if attempt < endpoint.retries:
                with self._lock:
                    self.retried += 1
                time.sleep(asked_s if asked_s is not None else min(60.0, 0.5 * 2**attempt * random.uniform(0.7, 1.3)))
        raise RefusedRequest(f"{endpoint.retries + 1} times in a row: {reason}")

    def _said(self, error: Exception) -> str:
        text = " ".join(f"{type(error).__name__}: {error}".split())
        return (text.replace(self._secret, "***") if self._secret else text)[:300]


def _read(done: Any) -> dict[str, Any]:
    """Return {text, tokens_in, tokens_out} of a reply. The client checks nothing of what a server sends."""
    choices = getattr(done, "choices", None)  # a reply that does not say it is JSON, and is none, comes as its text
    first = choices[0] if isinstance(choices, list) and choices else None
    content = getattr(getattr(first, "message", None), "content", False)  # null is an empty answer
    if isinstance(content, list):  # in parts, of which those that are thoughts are no answer
        parts = [part for part in content if isinstance(part, dict) and part.get("type") == "text"]
        content = "".join(text for part in parts if isinstance(text := part.get("text"), str)) if parts else False
    if not isinstance(content, str | None):
        raise RefusedRequest("a reply without an answer")
    # half of a surrogate pair, as of an emoji that was cut off, is no character and cannot be written
    text = (content or "").encode("utf-8", "ignore").decode("utf-8")
    counts = {"tokens_in": "prompt_tokens", "tokens_out": "completion_tokens"}  # of servers, some send none, or nulls
    counted = {name: getattr(getattr(done, "usage", None), theirs, None) for name, theirs in counts.items()}
    return {"text": text, **{name: count if type(count) is int else 0 for name, count in counted.items()}}


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Return the seconds that a server asks to wait, if it says so in seconds, bounded."""
    try:
        return min(LONGEST_WAIT_S, max(0.0, float(headers["retry-after"])))
    except (KeyError, ValueError):
        return None
