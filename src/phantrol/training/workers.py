"""How many processes prepare the batches of a rank."""

from __future__ import annotations

import logging
import os
import shutil
from pathlib import Path

log = logging.getLogger(__name__)

MOST = 8
SHARED_MEMORY = Path("/dev/shm")  # where they hand batches over, on Linux
ROOM_BYTES = 1 << 30


def workers_for(wanted: int | None, on_gpu: bool) -> int:
    """Return `wanted`, or if that is None what this machine has room for.

    Beside a GPU these are the cores of a rank but one, at most 8. On a CPU none: there they take time from what
    computes, and pay only where a stage waits for data, which the log says (docs/performance.md). None either, with a
    warning, where shared memory is too small to hand batches over.
    """
    if wanted is not None or not on_gpu:
        return wanted or 0
    workers = max(0, min(MOST, _cores() // _ranks() - 1))
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


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
