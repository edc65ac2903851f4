"""Locks of files that the system frees when their process ends, killed or not: one writer at a time."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import IO, Any

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

_log = logging.getLogger("phantrol")


def lock_file(file: IO[Any] | int, path: Path, exclusive: bool = True, patience_s: float = 0.0) -> bool:
    """Return whether nobody else holds the lock of an open file; it is ours until the file is closed.

    path        its name, for what is said
    exclusive   False: only look, and keep out nobody who looks too
    patience_s  so long a lock may be held by somebody who will free it
    Where disk or system have no locks it says so in the log, and that nobody else holds it.
    """
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
                _log.warning("%s cannot be locked (%s): two processes that write to it would not notice", path, error)
            return True
    if exclusive:
        _log.warning("this system has no locks of files: two processes that write to %s would not notice", path)
    return True
