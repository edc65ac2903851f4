"""`phantrol serve`: a model, an address, and an end that lets running answers finish."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket
import time
from collections.abc import Sequence
from pathlib import PurePath
from types import FrameType
from typing import Any

import uvicorn

from phantrol.inference.engine import Engine
from phantrol.inference.sampling import not_followed
from phantrol.serving.app import Service
from phantrol.serving.fetching import check_image_hosts
from phantrol.serving.guard import API_KEY, is_loopback, known_key
from phantrol.serving.heads import TimelyHeads
from phantrol.serving.limits import Limits

MAX_HEADER_BYTES = 32_768


class DrainingServer(uvicorn.Server):
    """uvicorn, but the first signal only closes the door: running answers finish, and new requests get 503.

    uvicorn itself would stop listening, and a client could not tell a server that stops from one that is gone.
    """

    def __init__(self, service: Service, **options: Any):
        # forwarded addresses are not trusted, and nobody is told what serves here
        defaults = dict(http=TimelyHeads, ws="none", proxy_headers=False, server_header=False, access_log=False)
        super().__init__(
            uvicorn.Config(
                service.guard,
                **{**defaults, **options},
                h11_max_incomplete_event_size=MAX_HEADER_BYTES,
                timeout_keep_alive=10,
                timeout_graceful_shutdown=5,
            )
        )
        self._service, self._drain_ends, self._at_once = service, 0.0, False

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self._drain_ends:
            self._at_once = True
            super().handle_exit(sig, frame)
        else:
            self.drain()

    def drain(self) -> None:
        """Take no new requests; end when the running ones are done, or their time is over."""
        self._service.guard.draining = True
        self._drain_ends = time.monotonic() + self._service.limits.drain_s

    async def on_tick(self, counter: int) -> bool:
        if self._drain_ends and (not self._service.guard.in_flight or time.monotonic() > self._drain_ends):
            self.should_exit = True
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        if self._at_once:  # uvicorn would wait for what still runs, and log a trace of each answer that it then ends
            for connection in list(self.server_state.connections):
                connection.transport.abort()
        await super().shutdown(sockets)


def serve(
    model: str,
    host: str = "127.0.0.1",
    port: int = 8000,
    name: str | None = None,
    api_key: str | None = None,
    image_hosts: Sequence[str] = (),
    weights: str | None = None,
    limits: Limits | None = None,
) -> None:
    """Load a model and serve it until a signal ends it.

    name     by which clients ask for the model; by default the last part of `model`, or the one before a "final"
    api_key  by default from the environment, PHANTROL_API_KEY
    Raises ValueError if there is no such model, the key or a host cannot be one, or the address cannot be had.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s")
    api_key = known_key(api_key)
    check_image_hosts(image_hosts)
    check_address(host, port)
    engine = Engine.open(model, weights)
    service = Service(engine, name or served_name(model), limits, api_key, image_hosts, is_loopback(host))
    if service.scheduler.batch.fault:
        print(f"Requests run one at a time: {service.scheduler.batch.fault}.")
    if names := not_followed(engine.model.generation_config):
        print(f"Not followed of the model's generation config: {', '.join(names)}.")
    if api_key is None and not is_loopback(host):
        print(f"Anyone who reaches {host}:{port} can use this server: set --api-key, or {API_KEY}.")
    shown = f"[{host}]" if ":" in host else host
    print(f"{service.name} is at http://{shown}:{port}/v1; stop it with Ctrl+C.", flush=True)
    DrainingServer(service, host=host, port=port, log_level="warning").run()


def served_name(model: str) -> str:
    """Return what clients call a model: no folder of this machine is told."""
    parts = [part for part in PurePath(model).parts if part not in ("/", ".", "..")]
    if len(parts) > 1 and parts[-1] == "final":
        parts.pop()
    return parts[-1] if parts else "phantrol"


def check_address(host: str, port: int) -> None:
    """Raise ValueError for an address that this machine has not, or that another program listens on: better known
    before a model is loaded."""

    async def attempt() -> None:  # just as uvicorn will do it, on all addresses of a name
        loop = asyncio.get_running_loop()
        (await loop.create_server(asyncio.Protocol, host, port, start_serving=False)).close()

    try:
        asyncio.run(attempt())
    except OSError as error:
        is_name = isinstance(error, socket.gaierror)  # and none of many that can be had has no number
        reason = error.strerror if is_name else os.strerror(error.errno or errno.EADDRNOTAVAIL)
        raise ValueError(f"--host {host} --port {port}: {reason}; expected a free address of this machine") from None
