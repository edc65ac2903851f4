"""How many processes prepare the batches of a rank."""

from __future__ import annotations

import logging
import multiprocessing
import os
import shutil
from pathlib import Path

log = logging.getLogger(__name__)

MOST = 8
SHARED_MEMORY = Path("/dev/shm")  # where they hand batches over, on Linux
ROOM_BYTES = 1 << 30


def workers_for(wanted: int | None, on_gpu: bool) -> int:
    """Return `wanted`, or if that is None what this machine has room for.

    Beside a GPU these are the cores of a rank but one, at most 8. On a CPU one, which takes little time from what
    computes (docs/performance.md), if the rank has a second core and a process is forked in no time. None, with a
    warning, where shared memory is too small to hand batches over.
    """
    if wanted is not None:
        return wanted
    most = MOST if on_gpu else int(_forks())
    workers = max(0, min(most, _cores() // _ranks() - 1))
    if workers and SHARED_MEMORY.is_dir() and (free := shutil.disk_usage(SHARED_MEMORY).free) < ROOM_BYTES:
        log.warning(
            f"batches are prepared between steps: got {free >> 20} MiB of shared memory, expected at least "
            f"{ROOM_BYTES >> 20} for processes that prepare them beside; give a container more (--shm-size=8g), or say "
            "workers=N to try it all the same"
        )
        return 0
    return workers


def _ranks() -> int:
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))  # of this machine; every launcher says it


def _forks() -> bool:
    """Return whether a process begins as a copy of this one; one that imports torch anew takes seconds."""
    return (multiprocessing.get_start_method(allow_none=True) or multiprocessing.get_all_start_methods()[0]) == "fork"


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
