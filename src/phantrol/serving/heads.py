"""HTTP/1.1 as uvicorn speaks it, but the head of a request must come in time."""

from __future__ import annotations

import asyncio

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

SECONDS = 10.0


class TimelyHeads(H11Protocol):
    """A connection that says nothing, or dribbles the head of a request, is closed after `SECONDS`.

    uvicorn bounds how long a connection rests after an answer, and its guard counts from a whole head on: a client
    that sends a byte now and then would keep its connection, and one of the process's files, for ever.
    """

    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:
        super().connection_made(transport)
        self._start()

    def data_received(self, data: bytes) -> None:
        if self.conn.their_state is h11.IDLE:
            self._start()
        super().data_received(data)
        if self.conn.their_state is not h11.IDLE:
            self._stop()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop()
        super().connection_lost(exc)

    def _start(self) -> None:
        self._timer = self._timer or self.loop.call_later(SECONDS, self.transport.close)

    def _stop(self) -> None:
        if self._timer:
            self._timer.cancel()
            self._timer = None
