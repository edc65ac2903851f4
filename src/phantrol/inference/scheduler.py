"""The scheduler: one thread, one model, many requests that come and go at any time. It knows nothing of HTTP.

Between two decoding steps, requests that wait are read and join the batch, and cancelled ones leave it.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from phantrol.inference.engine import Engine
from phantrol.inference.running import Event, Failure, Read, RunningBatch, Ticket
from phantrol.inference.sampling import Sampling
from phantrol.models.processing import Encoding

PREFILL_TOKENS = 8192  # padding included, of prompts that are read in one forward pass
log = logging.getLogger(__name__)


class QueueFull(Exception):
    """As many requests wait as may wait."""


class Scheduler:
    """Answers requests in one batch, in the order in which they came.

    max_rows     answers under way at the same time
    max_waiting  requests that may wait for a row
    Raises ValueError if max_rows is below 1, or max_waiting below 0.
    """

    def __init__(self, engine: Engine, max_rows: int = 16, max_waiting: int = 64):
        if max_rows < 1 or max_waiting < 0:
            raise ValueError(f"max_rows is {max_rows} and max_waiting {max_waiting}: expected 1 or more, and 0 or more")
        self.engine, self.max_rows, self.max_waiting = engine, max_rows, max_waiting
        self.batch = RunningBatch(engine)
        self._waiting: deque[Ticket] = deque()
        self._being_read: list[Ticket] = []  # who waits no more, and has no row yet
        self._calls: deque[tuple[Callable[[Engine], Any], Future[Any]]] = deque()
        self._wake = threading.Condition()
        self._is_closing = False
        self._thread: threading.Thread | None = None

    @property
    def num_running(self) -> int:
        """How many answers are under way, those included whose prompts are being read."""
        being_read, rows = self._being_read, self.batch.rows  # in this order: who joins is in both for a moment
        joined = {row.ticket for row in rows}
        return len(rows) + sum(ticket.sampling.num_choices for ticket in being_read if ticket not in joined)

    @property
    def num_waiting(self) -> int:
        """How many requests wait for a row."""
        return len(self._waiting)

    def start(self) -> Scheduler:
        """Begin to work, in a thread of its own."""
        self._thread = threading.Thread(target=self._work, name="phantrol-scheduler", daemon=True)
        self._thread.start()
        return self

    def submit(self, prompt: Encoding, sampling: Sampling, tell: Callable[[Event], None]) -> Ticket:
        """Queue a request; `tell` gets its events, in the scheduler's thread. All choices ended, or a Failure, is the
        last that it hears.

        Raises QueueFull if too many wait, ValueError if more choices are asked for than there are rows.
        """
        if not 1 <= sampling.num_choices <= self.max_rows:
            raise ValueError(f"{sampling.num_choices} choices: expected 1 to {self.max_rows}")
        ticket = Ticket(prompt, sampling, tell)
        with self._wake:
            if self._is_closing:
                raise QueueFull("the scheduler is closed")
            self._waiting = deque(waiting for waiting in self._waiting if not waiting.cancelled)
            if len(self._waiting) >= self.max_waiting + max(0, self.max_rows - self.num_running):
                raise QueueFull(f"{len(self._waiting)} requests wait")
            self._waiting.append(ticket)
            self._wake.notify()
        return ticket

    def between_steps(self, function: Callable[[Engine], Any]) -> Future[Any]:
        """Call `function(engine)` while no batch is in the model, for example to look inside it; return its future.

        Raises QueueFull if the scheduler is closed.
        """
        future: Future[Any] = Future()
        with self._wake:
            if self._is_closing:
                raise QueueFull("the scheduler is closed")
            self._calls.append((function, future))
            self._wake.notify()
        return future

    def close(self) -> None:
        """Stop after the step under way; whoever still waits gets a Failure."""
        with self._wake:
            self._is_closing = True
            self._wake.notify()
        if self._thread is not None:
            self._thread.join()
        left = [*self.batch.clear(), *self._waiting]
        self._waiting.clear()
        for ticket in left:
            ticket.tell(Failure(RuntimeError("the scheduler was closed")))
        for _, future in self._calls:
            future.cancel()

    def turn(self) -> None:
        """One turn of the work: a call, leavers, newcomers, and a token for every row."""
        if self._calls:  # one alone: a steady flow of them holds up no stream
            function, future = self._calls.popleft()
            _call(function, self.engine, future)
        try:
            self.batch.drop_cancelled()
            self._take_waiting()
            for read in self._read(self._being_read):
                self.batch.admit(read)
            self._being_read = []
            self.batch.step()
        except Exception as error:
            log.exception("a decoding step failed")
            ended = dict.fromkeys([*self.batch.clear(), *self._being_read])
            self._being_read = []
            for ticket in ended:
                ticket.tell(Failure(error))

    def _work(self) -> None:
        while True:
            with self._wake:
                self._wake.wait_for(lambda: self._is_closing or self._waiting or self._calls or self.batch.rows)
                if self._is_closing:
                    return
            self.turn()

    def _take_waiting(self) -> None:
        """Take who waits longest to be read, as many as there are rows for, and as much as one forward pass should
        read."""
        self._being_read = taken = []
        free = self.max_rows - len(self.batch.rows)
        longest = 0
        with self._wake:
            while self._waiting:
                ticket = self._waiting[0]
                if ticket.cancelled:
                    self._waiting.popleft()
                    continue
                longest = max(longest, len(ticket.prompt.input_ids))
                if ticket.sampling.num_choices > free or (taken and longest * (len(taken) + 1) > PREFILL_TOKENS):
                    break
                if self.batch.fault and (taken or self.batch.rows):
                    break
                free -= ticket.sampling.num_choices
                taken.append(ticket)
                self._waiting.popleft()

    def _read(self, tickets: list[Ticket]) -> list[Read]:
        """Read prompts in one pass. If that fails, one of them may be at fault: then each alone, and the others do not
        pay for it."""
        try:
            return [self.batch.read(tickets)] if tickets else []
        except Exception as error:
            if len(tickets) == 1:
                log.exception("a prompt could not be read")
                self._being_read = [ticket for ticket in self._being_read if ticket is not tickets[0]]
                tickets[0].tell(Failure(error))
                return []
        return [read for ticket in tickets for read in self._read([ticket])]


def _call(function: Callable[[Engine], Any], engine: Engine, future: Future[Any]) -> None:
    if not future.set_running_or_notify_cancel():
        return
    try:
        future.set_result(function(engine))
    except Exception as error:
        future.set_exception(error)
