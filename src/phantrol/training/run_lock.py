"""One process at a time in the folder of a run: OUT/.lock, freed by the system when the process ends, killed or not."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from phantrol.file_lock import lock_file

FILE = ".lock"
_PATIENCE_S = 1.0  # somebody may look, which takes a moment


@dataclass(frozen=True)
class Holder:
    """The process that trains in a folder, on which machine, and since when (ISO 8601)."""

    pid: int
    host: str
    since: str


@contextmanager
def held(run_dir: Path) -> Iterator[None]:
    """Keep other processes out of the folder of a run, which is made if it is not there.

    Raises ValueError if another process trains there, or no folder can be made there. Where disk or system have no
    locks it says so and goes on.
    """
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
    except FileNotFoundError as error:  # a folder such as /proc takes none
        raise ValueError(f"{run_dir}: no folder can be made there ({error.strerror}); choose another") from None
    with (run_dir / FILE).open("a+", encoding="utf-8") as file:
        if not lock_file(file, run_dir / FILE, patience_s=_PATIENCE_S):
            raise ValueError(
                f"{run_dir}: got a folder in use by {_name(_read(file))}, expected one that no run uses; wait for it, "
                "stop it, or choose another folder"
            )
        # a process that is forked from this one, as loaders of data are, must not hold on to it
        if hasattr(os, "register_at_fork"):  # not on Windows, where no process is forked
            os.register_at_fork(after_in_child=file.close)
        file.truncate(0)
        json.dump(asdict(Holder(os.getpid(), socket.gethostname(), datetime.now().isoformat(" ", "seconds"))), file)
        file.flush()
        yield


def holder(run_dir: Path) -> Holder | None:
    """Return who trains in the folder of a run at this moment, or None."""
    try:
        with (run_dir / FILE).open(encoding="utf-8") as file:
            return None if lock_file(file, run_dir / FILE, exclusive=False) else _read(file)
    except FileNotFoundError:
        return None


def _read(file: Any) -> Holder:
    file.seek(0)
    try:
        return Holder(**json.loads(file.read()))
    except (ValueError, TypeError):  # it has just been taken
        return Holder(0, "?", "?")


def _name(holder: Holder) -> str:
    return f"process {holder.pid} on {holder.host} since {holder.since}" if holder.pid else "another process"
