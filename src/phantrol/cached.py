"""Where phantrol keeps what it makes once and reads often, and how a folder gets there, for all floors."""

from __future__ import annotations

import math
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from phantrol.file_lock import lock_file


def cache_folder() -> Path:
    """Return the folder of all that is kept: $PHANTROL_CACHE, else phantrol in the user's cache folder.

    Raises ValueError for a user without a home folder, if neither $PHANTROL_CACHE nor $XDG_CACHE_HOME is set.
    """
    given = os.environ.get("PHANTROL_CACHE")
    try:
        return Path(given) if given else Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "phantrol"
    except RuntimeError:
        raise ValueError("no home folder, where a cache could be kept: set PHANTROL_CACHE to a folder") from None


def written_once(name: str, unpack: Callable[[Path], None]) -> Path:
    """Return the folder called `name` in the cache; if it is not there, `unpack` writes it beside, then it is moved.

    One process does so, and others that want it, such as the ranks of one machine, wait for that.
    """
    folder = cache_folder() / name
    if (folder / "config.json").is_file():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    lock = folder.with_name(f".{name}.lock")
    with lock.open("w") as file:
        lock_file(file, lock, patience_s=math.inf)
        if not (folder / "config.json").is_file():  # nobody wrote it while we waited
            with tempfile.TemporaryDirectory(dir=folder.parent) as beside:
                whole = Path(beside) / name
                unpack(whole)
                if not (folder / "config.json").is_file():  # on a disk without locks another process may be faster
                    shutil.rmtree(folder, ignore_errors=True)
                    os.replace(whole, folder)
    return folder
