"""One process at a time in the folder of a run: OUT/.lock, freed by the system when the process ends, killed or not."""

from __future__ import annotations

import json
import logging
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

FILE = ".lock"
_PATIENCE_S = 1.0  # somebody may look, which takes a moment
_log = logging.getLogger("phantrol")


@dataclass(frozen=True)
class Holder:
    """The process that trains in a folder, on which machine, and since when (ISO 8601)."""

    pid: int
    host: str
    since: str


@contextmanager
def held(run_dir: Path) -> Iterator[None]:
    """Keep other processes out of the folder of a run, which is made if it is not there.

    Raises ValueError if another process trains there. Where disk or system have no locks it says so and goes on.
    """
    run_dir.mkdir(parents=True, exist_ok=True)
    with (run_dir / FILE).open("a+", encoding="utf-8") as file:
        if not _lock(file, exclusive=True, patience_s=_PATIENCE_S):
            raise ValueError(
                f"{run_dir}: got a folder in use by {_name(_read(file))}, expected one that no run uses; wait for it, "
                "stop it, or choose another folder"
            )
        # a process that is forked from this one, as loaders of data are, must not hold on to it
        os.register_at_fork(after_in_child=file.close)
        file.truncate(0)
        json.dump(asdict(Holder(os.getpid(), socket.gethostname(), datetime.now().isoformat(" ", "seconds"))), file)
        file.flush()
        yield


def holder(run_dir: Path) -> Holder | None:
    """Return who trains in the folder of a run at this moment, or None."""
    try:
        with (run_dir / FILE).open(encoding="utf-8") as file:
            return None if _lock(file, exclusive=False) else _read(file)
    except FileNotFoundError:
        return None


def _lock(file: Any, exclusive: bool, patience_s: float = 0.0) -> bool:
    """Return whether nobody else holds the lock of a file; it is ours until the file is closed."""
    until_s = time.monotonic() + patience_s
    while fcntl is not None:
        try:
            fcntl.flock(file, (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() >= until_s:
                return False
            time.sleep(0.05)
        except OSError as error:
            if exclusive:
                _log.warning("%s cannot be locked (%s): two runs in this folder would not notice", file.name, error)
            return True
    if exclusive:
        _log.warning("this system has no locks of files: two runs in %s would not notice", file.name)
    return True


def _read(file: Any) -> Holder:
    file.seek(0)
    try:
        return Holder(**json.loads(file.read()))
    except (ValueError, TypeError):  # it has just been taken
        return Holder(0, "?", "?")


def _name(holder: Holder) -> str:
    return f"process {holder.pid} on {holder.host} since {holder.since}" if holder.pid else "another process"
