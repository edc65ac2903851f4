"""Which rows begin alike, with the same pictures, so that a model reads those pictures once for all of their questions.

Every row is read once to find out, but for its pictures; what was found, eight bytes a row, is kept in the cache folder
beside the indices of rows and mapped into memory.

R rows.
"""

from __future__ import annotations

import hashlib
import logging
import os
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from phantrol.cached import cache_folder
from phantrol.data.broken import BrokenRow
from phantrol.data.messages import Example, Message, Picture
from phantrol.data.pictures import stored_bytes

VERSION = 1  # of what is kept
_STAMPED = "state.json"  # in a folder of `datasets`: it changes with the data
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_log = logging.getLogger("phantrol")


@dataclass(frozen=True)
class SharedRows:
    """Rows in groups of one size, but for the last; rows that begin alike lie side by side.

    order  [R] row numbers, group after group
    size   rows of a group
    """

    order: np.ndarray
    size: int

    def __len__(self) -> int:
        return -(-len(self.order) // self.size)

    def __getitem__(self, group: int) -> list[int]:
        return self.order[group * self.size : (group + 1) * self.size].tolist()


def share(beginnings: np.ndarray, size: int) -> SharedRows:
    """Return all rows in groups of `size`, as many as can be beside those of the same beginning.

    A group has always so many rows: then a batch of groups is a batch of so many rows, and the parts of a mixture keep
    their shares of the rows. What begins alike is cut into pieces of at most `size`, and smaller pieces fill a group
    together; a piece is cut once more only where none are left that fit.

    beginnings  [R] uint64, 0 for a row that stands by itself
    """
    order = np.argsort(beginnings, kind="stable")
    found = beginnings[order]
    is_first = np.ones(len(order), bool)
    is_first[1:] = (found[1:] != found[:-1]) | (found[1:] == 0)
    runs = np.flatnonzero(is_first)
    place = np.arange(len(order)) - np.repeat(runs, np.diff(np.append(runs, len(order))))
    begins = np.flatnonzero(place % size == 0)
    lengths = np.diff(np.append(begins, len(order)))
    scattered = np.argsort(order[begins].astype(np.uint64) * _GOLDEN, kind="stable")  # rows of a group: far in the file
    pieces = np.concatenate(
        [np.empty(0, np.int64), *_fill([scattered[lengths[scattered] == n] for n in range(1, size + 1)])]
    )
    taken, begins = lengths[pieces], begins[pieces]
    ends = np.cumsum(taken)
    return SharedRows(order[np.repeat(begins - (ends - taken), taken) + np.arange(len(order))], size)


def _fill(pieces: list[np.ndarray]) -> Iterator[np.ndarray]:
    """Yield all pieces in an order in which they fill one group after the other, large ones first.

    pieces  numbers of the pieces of 1 row, of 2 ..., of as many as a group has
    """
    size, left = len(pieces), [len(some) for some in pieces]

    def take(length: int, count: int) -> np.ndarray:
        left[length - 1] -= count
        end = len(pieces[length - 1]) - left[length - 1]
        return pieces[length - 1][end - count : end]

    for largest in range(size, 0, -1):
        while left[largest - 1]:
            pattern, room = Counter(), size
            for length in range(largest, 0, -1):
                pattern[length] = min(room // length, left[length - 1])
                room -= length * pattern[length]
            if room:
                break
            pattern = +pattern
            groups = min(left[length - 1] // count for length, count in pattern.items())
            yield np.concatenate(
                [take(length, groups * count).reshape(groups, count) for length, count in pattern.items()], axis=1
            ).ravel()
    yield from (take(length, left[length - 1]) for length in range(size, 0, -1))


def beginnings(rows: Any, key: str, read: Callable[[int], Example]) -> np.ndarray:
    """Return a digest of what each row begins with, up to its last picture, [R] uint64: 0 if it has none, or cannot be
    read.

    key   what the answer depends on besides the file
    read  number → the row as an example; raises BrokenRow
    """
    path = rows.path.resolve()
    state = (path / _STAMPED if path.is_dir() else path).stat()
    name = hashlib.sha256(f"{path} {key}".encode()).hexdigest()[:16]
    folder = cache_folder() / "rows"
    kept = folder / f"{name}-{VERSION}-{state.st_size}-{state.st_mtime_ns}.pictures"
    if not kept.is_file():
        found = np.fromiter((_beginning(read, index) for index in range(len(rows))), np.uint64, len(rows))
        try:
            _keep(found, kept, stale=[old for old in folder.glob(f"{name}-*.pictures") if old != kept])
        except OSError as error:
            _log.warning("which rows of %s share pictures is not kept: %s", path.name, error)
            return found
    return np.fromfile(kept, np.uint64) if not len(rows) else np.memmap(kept, np.uint64, "r")


def _beginning(read: Callable[[int], Example], index: int) -> int:
    try:
        messages = read(index).messages
    except BrokenRow:
        return 0
    last = max((number for number, message in enumerate(messages) if message.pictures), default=None)
    if last is None:
        return 0
    digest = hashlib.blake2b(digest_size=8)
    for message in messages[:last]:
        _add(digest, message, message.parts)
    end = max(number for number, part in enumerate(messages[last].parts) if not isinstance(part, str))
    _add(digest, messages[last], messages[last].parts[: end + 1])
    return int.from_bytes(digest.digest(), "big")


def _add(digest: Any, message: Message, parts: tuple[str | Picture, ...]) -> None:
    digest.update(f"\0{message.role}".encode())
    for part in parts:
        said = part.encode("utf-8", "surrogatepass") if isinstance(part, str) else _named(part)
        digest.update(b"\0%c%d\0" % (b"ti"[not isinstance(part, str)], len(said)) + said)


def _named(picture: Picture) -> bytes:
    """Return a path, or the digest of what lies in the row."""
    if isinstance(picture, Path):
        return os.fsencode(picture)
    return hashlib.blake2b(stored_bytes(picture) or picture.tobytes()).digest()


def _keep(found: np.ndarray, path: Path, stale: list[Path]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, beside = tempfile.mkstemp(suffix=".writing", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(found.tobytes())
        os.replace(beside, path)
    finally:
        Path(beside).unlink(missing_ok=True)
    for old in stale:
        old.unlink(missing_ok=True)
