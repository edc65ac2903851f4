"""HTTP/1.1 as uvicorn speaks it, but in time: a request's head, what its answer did not wait for, and who reads it."""

from __future__ import annotations

import asyncio
import json
import logging
import math
import sys
from http import HTTPStatus

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from phantrol.serving.errors import Refusal

SECONDS = 10.0
REST_S = 1.0  # for the rest of a body: closed at once upon unread bytes, a connection loses the answer with them
UNREAD_S = 30.0  # in which a client must take some of what waits for it
NO_HTTP = "Invalid HTTP request received."  # what uvicorn says and logs of it


class TimelyHeads(H11Protocol):
    """A connection that says nothing, or dribbles the head of a request, is closed after `SECONDS`; one whose request
    was answered before its body had come, after `REST_S`. One whose client takes nothing of what waits for it is broken
    off after `UNREAD_S`: a close would wait for the client too.

    uvicorn bounds how long a connection rests after an answer, and its guard counts from a whole head to the answer: a
    client that sends a byte now and then, or does not read, would keep its connection, and one of the process's files,
    for ever.
    """

    _timer: asyncio.TimerHandle | None = None
    _reader_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:
        super().connection_made(transport)
        transport.set_write_buffer_limits(high=0)  # writing is paused as long as anything waits
        self._start(SECONDS)

    def data_received(self, data: bytes) -> None:
        if self.conn.their_state is h11.IDLE:
            self._start(SECONDS)
        super().data_received(data)
        if self.conn.their_state is not h11.IDLE and not self._is_answered:
            self._stop()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self._is_answered:
            self._start(REST_S)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop()
        self.resume_writing()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._await_reader(math.inf)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._reader_timer:
            self._reader_timer.cancel()

    def _unsupported_upgrade_warning(self) -> None:
        """Say nothing: whoever asks for a WebSocket is answered in HTTP, as the standard has it. uvicorn, which calls
        this, would fill the log with two lines for each such request and tell to install another protocol."""

    def send_400_response(self, msg: str) -> None:
        """Answer what h11 cannot take, as uvicorn does, but in the shape of every other refusal, with h11's status; not
        into an answer that has begun, where uvicorn would fail and log a trace."""
        if self.conn.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            self.transport.close()
            return
        status = HTTPStatus(getattr(sys.exception(), "error_status_hint", 400))  # uvicorn calls this where h11 raised
        too_large = status == HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
        said = "the head of the request is too large" if too_large else "the request cannot be read as HTTP/1.1"
        refusal = Refusal(int(status), said, code="invalid_http")
        body = json.dumps(refusal.body()).encode()
        headers = [("content-type", "application/json"), ("content-length", str(len(body))), ("connection", "close")]
        for event in (
            h11.Response(status_code=int(status), headers=headers, reason=status.phrase.encode()),
            h11.Data(data=body),
            h11.EndOfMessage(),
        ):
            self.transport.write(self.conn.send(event))
        self.transport.close()

    @property
    def _is_answered(self) -> bool:
        """Whether a request has its answer, but its body no end yet; not so one that was pipelined behind it."""
        return self.conn.their_state is h11.SEND_BODY and self.conn.our_state is h11.DONE

    def _await_reader(self, waited: float) -> None:
        """Break the connection off, unless fewer bytes wait for the client than before (`waited`)."""
        waits = self.transport.get_write_buffer_size()
        if waits < waited:
            self._reader_timer = self.loop.call_later(UNREAD_S, self._await_reader, waits)
        else:
            self.transport.abort()

    def _start(self, seconds: float) -> None:
        self._timer = self._timer or self.loop.call_later(seconds, self.transport.close)

    def _stop(self) -> None:
        if self._timer:
            self._timer.cancel()
            self._timer = None


def _is_no_broken_request(record: logging.LogRecord) -> bool:
    return record.msg != NO_HTTP


# a line for each would let anyone fill the log, before any key
logging.getLogger("uvicorn.error").addFilter(_is_no_broken_request)
