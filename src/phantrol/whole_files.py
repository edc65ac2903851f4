"""Small files that are whole or not there, and what tells one file from another, for all floors."""

from __future__ import annotations

import errno
import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def checksum(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Give a name beside `path` to write to; the file takes its place when the block ends, and goes if it fails. Its
    folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = _beside(path)
    try:
        yield beside
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a small file whole or not at all."""
    with written_whole(path) as beside:
        beside.write_text(text, "utf-8")


def make_room(path: Path) -> None:
    """Make the folder of a file that is written later, after the work. Raises ValueError if it cannot stand there."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        is_folder = path.is_dir()
        _beside(path).exists()
    except (FileExistsError, NotADirectoryError, FileNotFoundError):
        raise ValueError(f"{path}: {path.parent} is no folder; choose another file") from None
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        raise ValueError(f"{path}: the name is too long; choose a shorter one") from None
    if is_folder:
        raise ValueError(f"{path} is a folder: expected the name of a file")
    try:
        with tempfile.TemporaryFile(dir=path.parent):  # a folder such as /proc takes none
            pass
    except FileNotFoundError as error:
        raise ValueError(f"{path}: no file can be made in {path.parent} ({error.strerror}); choose another") from None


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.name}.writing")
