"""What stops a run, in words."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from phantrol.tables import first_line

# in the words of torch's loader, gloo and NCCL
_WORKER_LOST = re.compile(r"DataLoader worker \(pid")
_SAID_BY_WORKER = re.compile(
    r"\ACaught \w+ in DataLoader worker process \d+\.\n.*Traceback \(most recent call last\):\n"
    r"(?: [^\n]*\n)+[^\s:][^:\n]*: (.+)\Z",  # frames are indented, what was raised is not
    re.S,
)
_RANK_LOST = re.compile(r"gloo/transport|by peer|remote process|ncclRemoteError")
_PATIENCE_S = 5.0


class RunFault(ValueError):
    """A run that cannot go on: `reason`, and a remedy for who typed `phantrol train`; other verbs know their own."""

    def __init__(self, reason: str, remedy: str):
        super().__init__(f"{reason}; {remedy}")
        self.reason = reason


@contextmanager
def naming_lost_processes(where: Callable[[], str]) -> Iterator[None]:
    """Raise RunFault where the block fails since a process that it works with is gone: a worker, or another rank.

    where  says in words where the run would go on from
    Raises a worker's ValueError in its own words alone, since torch puts the worker's whole traceback before them.
    """
    try:
        with _letting_the_system_tell():
            yield
    except ValueError as error:
        if said := _SAID_BY_WORKER.search(str(error).rstrip()):
            raise ValueError(said[1]) from error
        raise
    except RuntimeError as error:
        said = first_line(error).rstrip(" .")
        if _WORKER_LOST.search(said):
            reason = f"a process that prepares batches is gone: {said}"
            remedy = "if memory ran out, free some or set workers=0, and go on with --resume"
        elif _RANK_LOST.search(str(error)):
            reason = f"another rank of this run is gone: {said}"
            remedy = "mend what it says, or what ended it, often a lack of memory, and go on with --resume"
        else:
            raise
        raise RunFault(reason, f"{where()}: {remedy}") from error


@contextmanager
def _letting_the_system_tell() -> Iterator[None]:
    """A worker's pipe may break before the system tells of its end; torch then raises, in this thread, who it was."""
    try:
        yield
    except (ConnectionResetError, ConnectionRefusedError, EOFError):
        time.sleep(_PATIENCE_S)
        raise
