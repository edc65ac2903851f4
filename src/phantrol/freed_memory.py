"""What the C library does with memory that is freed: keep it for the next step, or give it back to the system.

glibc gives large blocks back at once and asks for them again in the next step, and the system clears each page anew.
A training step of two layers of InternLM2-1.8B's shape spends 6 % of its time so, and TroL's 9 %: gradients come twice.
"""

from __future__ import annotations

import ctypes
import os

KEPT_BYTES = 256 * 2**20  # blocks up to here: gradients and activations, not the caches of many long texts
TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # glibc's numbers of its options: M_TRIM_THRESHOLD, M_MMAP_THRESHOLD
CHOSEN_BY = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES")


def keep_freed_memory() -> bool:
    """Let this process keep blocks of up to `KEPT_BYTES` that it frees. Return whether it does.

    Between two steps it then holds what one of them needed, and a few blocks more than without (6 % in training: glibc
    asks for room to align each block, and finds none where it was before until it has some ten to choose from).
    Nothing is changed where the user has chosen (the variables of `CHOSEN_BY`), and where the C library is not glibc.
    """
    if any(name in os.environ for name in CHOSEN_BY):
        return False
    try:
        options = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # macOS, musl; Windows has no library without a name
        return False
    return bool(options(MMAP_THRESHOLD, KEPT_BYTES)) and bool(options(TRIM_THRESHOLD, 2**31 - 1))
