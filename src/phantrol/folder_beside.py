"""Where something is written before it takes its name: a folder beside its place, asked for before any work."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_OCCUPIED = (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR, errno.EISDIR)  # by a folder in use, or a file
_HANGUP = getattr(signal, "SIGHUP", signal.SIGTERM)  # Windows has none


@contextmanager
def folder_beside(out: Path) -> Iterator[Path]:
    """Yield a new folder beside `out`, to write into and to rename; what is left of it at the end goes.

    SIGTERM and SIGHUP end the block as an error does: see `ended_by_signals`.
    Raises ValueError if nobody can write there, and if what is written cannot take its name, since in the meantime
    somebody else's did.
    """
    with ended_by_signals():
        try:
            out.parent.mkdir(parents=True, exist_ok=True)
            beside = Path(tempfile.mkdtemp(prefix=f".{out.name}.writing-", dir=out.parent))
        except (FileExistsError, NotADirectoryError) as error:
            reason = f"a file stands where a folder is expected: {error.filename}"
            raise ValueError(f"{out} cannot be written, {reason}; choose another place") from None
        except (FileNotFoundError, PermissionError) as error:  # no folder is made below /proc, whoever asks
            reason = "no permission" if isinstance(error, PermissionError) else "no folder can be made there"
            raise ValueError(f"{out} cannot be written, {reason}: choose another place") from None
        try:
            beside.chmod(0o755)
            yield beside
        except OSError as error:
            if error.errno in _OCCUPIED and error.filename2 is not None and Path(error.filename2) == out:
                raise ValueError(f"{out} appeared while this was written: choose another name") from None
            raise
        finally:
            shutil.rmtree(beside, ignore_errors=True)


def find_place(out: Path) -> Path:
    """Return where a new folder goes, links followed, for one takes the place of a folder but not of a link.

    Raises ValueError if something is there, or if it is an empty folder that cannot be replaced.
    """
    place = Path(os.path.realpath(out)) if out.is_symlink() else out
    if os.path.lexists(place):
        if not place.is_dir() or any(place.iterdir()):
            raise ValueError(f"{out} is in use: choose another folder, or remove it")
        what = "the current folder" if place.samefile(os.curdir) else "a mount point" if place.is_mount() else ""
        if what:
            raise ValueError(
                f"{out} is {what}, which cannot be replaced: name a new folder in it, such as {out / 'new'}"
            )
    return place


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """Let SIGTERM, and SIGHUP of a terminal that closes, which would end the process at once, raise SystemExit(143) or
    SystemExit(129), so that the block tidies up. One that somebody handles or ignores, as nohup does, is left alone."""
    is_main = threading.current_thread() is threading.main_thread()  # only there can a signal be handled
    ours = [each for each in {signal.SIGTERM, _HANGUP} if is_main and signal.getsignal(each) is signal.SIG_DFL]

    def end(number: int, frame: Any) -> None:
        if _HANGUP in ours:  # it comes twice, from the system and from the shell, the second while the block tidies up
            signal.signal(_HANGUP, signal.SIG_IGN)
        sys.exit(128 + number)

    for each in ours:
        signal.signal(each, end)
    try:
        yield
    finally:
        for each in ours:
            signal.signal(each, signal.SIG_DFL)
