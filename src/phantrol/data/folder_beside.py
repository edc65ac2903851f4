"""Where something is written before it takes its name: a folder beside its place, asked for before any work."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def folder_beside(out: Path) -> Iterator[Path]:
    """Yield a new folder beside `out`, to write into and to rename; what is left of it at the end goes.

    Raises ValueError if nobody can write there.
    """
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        beside = Path(tempfile.mkdtemp(prefix=f".{out.name}.writing-", dir=out.parent))
    except (FileNotFoundError, PermissionError) as error:  # no folder is made below /proc, whoever asks
        reason = "no permission" if isinstance(error, PermissionError) else "no folder can be made there"
        raise ValueError(f"{out} cannot be written, {reason}: choose another place") from None
    try:
        beside.chmod(0o755)
        yield beside
    finally:
        shutil.rmtree(beside, ignore_errors=True)
