"""What stands before every route: who may ask, how much, for how long, and whether the server still takes requests."""

from __future__ import annotations

import asyncio
import base64
import binascii
import hmac
import ipaddress
import logging
import os
import re
import time
from collections.abc import Callable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from phantrol.serving.errors import Refusal, server_fault
from phantrol.serving.limits import Limits

API_KEY = "PHANTROL_API_KEY"  # the environment's name for --api-key, which other users of a machine can see
OBSERVING = ("/health", "/metrics")  # these are answered while the server is full, or drains
GRACE_S = 10.0  # after a request's time, in which its route may say so
DISCARD_S, DISCARD_BYTES = 1.0, 8_000_000  # of a refused body, read so that its client hears the refusal
log = logging.getLogger(__name__)


def known_key(key: str | None) -> str | None:
    """Return the key, by default that of the environment, PHANTROL_API_KEY, or None.

    Raises ValueError for one that no header can carry, or that is empty.
    """
    key = key if key is not None else os.environ.get(API_KEY)
    if key is not None and not re.fullmatch(r"[!-~]{8,}", key):
        raise ValueError("the API key: expected 8 or more characters of ASCII, without spaces")
    return key


class Guard:
    """An ASGI application around another one.

    api_key      every route asks for it, as a bearer token, or as the password of HTTP's basic scheme, which browsers
                 ask people for
    local_names  whether Host must name this machine: a page elsewhere can give its own name this machine's address,
                 and would otherwise read what a server without a key says
    counted      is told (route, status, seconds) of every request
    """

    def __init__(
        self,
        app: ASGIApp,
        limits: Limits,
        api_key: str | None = None,
        local_names: bool = True,
        counted: Callable[[str, int, float], None] = lambda route, status, seconds: None,
    ):
        self.app, self.limits = app, limits
        self._key = None if api_key is None else api_key.encode()
        self._local_names, self._counted = local_names, counted
        self.draining = False
        self.in_flight = 0  # requests that are being answered
        self._mean_s = 1.0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        elif scope["type"] != "http":
            await self.app(scope, receive, send)
        else:
            await self._answer(scope, receive, send)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        began, status, is_work = time.monotonic(), 0, scope["path"] not in OBSERVING
        if scope["method"] == "HEAD":  # whatever may be got; HTTP leaves the body out by itself
            scope = {**scope, "method": "GET"}
        body = _Body(receive, self.limits)

        async def watched_send(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message.setdefault("headers", []).append((b"x-content-type-options", b"nosniff"))
            elif status >= 400 and status != 408 and not message.get("more_body"):
                # the refusal, the rest of the body, and then the end. Its rest asked for first, a client that expects
                # "100 Continue" would be told to send what nobody wants, and hear of the refusal later
                await send({**message, "more_body": True})
                await body.discard()
                message = {"type": "http.response.body"}
            await send(message)

        async def refuse(refusal: Refusal) -> None:
            if not status:
                refusal.headers["Connection"] = "close"  # what is left of its body is nobody's
                await refusal.response()(scope, receive, watched_send)

        self.in_flight += is_work
        try:
            async with asyncio.timeout(self.limits.request_s + GRACE_S):
                self._check(scope)
                await self.app(scope, body.receive, watched_send)
        except Refusal as refusal:
            await refuse(refusal)
        except TimeoutError:
            await refuse(Refusal(504, "the request took too long", code="timeout"))
        except Exception:
            log.exception("a request failed")
            await refuse(server_fault())
        finally:
            self.in_flight -= is_work
            seconds = time.monotonic() - began
            if status == 200 and scope["method"] == "POST":
                self._mean_s += 0.1 * (seconds - self._mean_s)
            # the pattern of the route, never the path: clients make paths up
            self._counted(getattr(scope.get("route"), "path", "none"), status or 499, seconds)

    def _check(self, scope: Scope) -> None:
        headers = {name.lower(): value.decode("latin-1") for name, value in scope["headers"]}
        if self._key is not None:
            self._check_key(headers)
        elif self._local_names and not _is_local(headers.get(b"host", "")):
            raise Refusal(403, "this server answers to localhost alone; with an API key, to any name", code="bad_host")
        if b"content-length" in headers and b"transfer-encoding" in headers:
            # a proxy that believes the other one would take the rest of the body for the next request
            raise Refusal(400, "expected a body with Content-Length or with Transfer-Encoding, not both")
        if scope["path"] in OBSERVING:
            return
        if self.draining:
            raise Refusal(503, "the server is stopping", code="draining", retry_after_s=5)
        if scope["method"] != "POST":
            return
        if self.in_flight > self.limits.rows + self.limits.queue:
            wait_s = min(60.0, self._mean_s * self.in_flight / self.limits.rows)
            raise Refusal(429, "too many requests wait: come again", code="queue_full", retry_after_s=wait_s)
        if headers.get(b"content-type", "").split(";")[0].strip().lower() != "application/json":
            # and no page elsewhere can send this without being asked for leave, which it does not get
            raise Refusal(415, "expected a body of Content-Type: application/json")
        if headers.get(b"content-encoding", "identity").lower() != "identity":
            raise Refusal(415, "expected a body without Content-Encoding")
        length = headers.get(b"content-length", "0")
        if length.isdigit() and int(length) > self.limits.body_bytes:
            raise too_large(self.limits)

    def _check_key(self, headers: dict[bytes, str]) -> None:
        scheme, _, given = headers.get(b"authorization", "").partition(" ")
        if scheme.lower() == "basic":
            try:
                given = base64.b64decode(given, validate=True).decode("latin-1").partition(":")[2]
            except (binascii.Error, ValueError):
                given = ""
        elif scheme.lower() != "bearer":
            given = ""
        if not hmac.compare_digest(given.strip().encode("latin-1", "replace"), self._key):
            # a browser that is told of the basic scheme asks for a password; programs get a plain answer
            is_page = "text/html" in headers.get(b"accept", "")
            challenge = 'Basic realm="phantrol", charset="UTF-8"' if is_page else "Bearer"
            message = "the API key is missing or wrong: expected Authorization: Bearer KEY"
            raise Refusal(401, message, code="invalid_api_key", headers={"WWW-Authenticate": challenge})


class _Body:
    """The body of a request, which must be whole within `body_s` and `body_bytes`."""

    def __init__(self, receive: Receive, limits: Limits):
        self._receive, self._limits = receive, limits
        self._ends, self._size = asyncio.get_running_loop().time() + limits.body_s, 0
        self._is_whole = False

    async def receive(self) -> Message:
        """Return the next message, as ASGI has it. Raises Refusal (408, 413)."""
        if self._is_whole:
            return await self._receive()
        try:
            async with asyncio.timeout_at(self._ends):
                message = await self._next()
        except TimeoutError:
            message = f"the body did not come within {self._limits.body_s:g} seconds"
            raise Refusal(408, message, code="timeout") from None
        if self._size > self._limits.body_bytes:
            raise too_large(self._limits)
        return message

    async def discard(self) -> None:
        """Read the rest, if it is not too much: a connection closed upon unread bytes loses the answer with them."""
        try:
            async with asyncio.timeout(DISCARD_S):
                while not self._is_whole and self._size < DISCARD_BYTES:
                    await self._next()
        except TimeoutError:
            self._is_whole = True

    async def _next(self) -> Message:
        message = await self._receive()
        self._size += len(message.get("body", b""))
        self._is_whole = not message.get("more_body", False)
        return message


def too_large(limits: Limits) -> Refusal:
    """Return what is said of a body that is larger than allowed."""
    return Refusal(413, f"the body is larger than {limits.body_bytes:,} bytes", code="body_too_large")


def is_loopback(host: str) -> bool:
    """Return whether a name or an address, without a port, can only mean this machine."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower().rstrip(".") == "localhost"


def _is_local(host: str) -> bool:
    """As is_loopback, of a Host header, which may name a port, and nothing else."""
    found = re.fullmatch(r"(\[[^\[\]]*\]|[^:@\[\]]*)(?::[0-9]{1,5})?", host)
    return bool(found) and is_loopback(found[1])
