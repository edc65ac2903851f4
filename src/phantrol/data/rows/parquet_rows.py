"""Rows of a Parquet file. It can only be read a row group at a time, so the last groups that were read are kept.

A file whose groups are large is written again once, into the cache folder, in groups of a few rows: rows are read in a
random order, and each would cost a whole group.
"""

from __future__ import annotations

import hashlib
import logging
import math
import os
import tempfile
from collections import OrderedDict
from collections.abc import Iterable
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from phantrol.cached import cache_folder
from phantrol.data.broken import BrokenRow
from phantrol.file_lock import lock_file

GROUP_BYTES, GROUP_ROWS = 16 << 20, 1000  # of a row group: larger ones are written again as smaller ones
ROWS_AT_ONCE = 64  # at most, of a row group that is written here
KEPT_GROUPS = 2
_log = logging.getLogger("phantrol")


class ParquetRows:
    """The rows of one Parquet file by number. Raises ValueError if pyarrow is missing or the file is no Parquet."""

    def __init__(self, path: Path):
        self.path = path
        self._read_from = _in_small_groups(path)
        self._ends = _group_ends(self._read_from)
        self._file: Any = None
        self._kept: OrderedDict[int, Any] = OrderedDict()

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Return row `index` as a dict. Raises BrokenRow if its row group cannot be read."""
        group = int(np.searchsorted(self._ends, index, "right"))
        first = int(self._ends[group - 1]) if group else 0
        try:
            return self._group(group).slice(index - first, 1).to_pylist()[0]
        except (OSError, ValueError) as error:
            where = self.where(index)
            reason = "bad-utf8" if isinstance(error, UnicodeDecodeError) else "wrong-type"
            raise BrokenRow(reason, f"row group {group} cannot be read: {error}", where) from None

    def _group(self, number: int) -> Any:
        if number not in self._kept:
            while len(self._kept) >= KEPT_GROUPS:
                self._kept.popitem(last=False)
            if self._file is None:
                self._file = open_parquet(self._read_from)
            self._kept[number] = self._file.read_row_group(number)
        self._kept.move_to_end(number)
        return self._kept[number]

    def line(self, index: int) -> None:
        return None

    def where(self, index: int) -> str:
        return f"{self.path.name}[{index}]"

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_file": None, "_kept": OrderedDict()}  # another process opens the file anew


def import_pyarrow() -> tuple[Any, Any]:
    """Return pyarrow and its module of Parquet. Raises ValueError if it is not installed."""
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise ValueError("Parquet needs pyarrow, which is not installed: pip install 'phantrol[data]'") from error
    return pyarrow, parquet


def open_parquet(path: Path) -> Any:
    """Return a Parquet file, opened. Raises ValueError if pyarrow is missing or it is no such file."""
    pyarrow, parquet = import_pyarrow()
    try:
        return parquet.ParquetFile(path, buffer_size=1 << 20, pre_buffer=False)
    except (pyarrow.ArrowInvalid, OSError) as error:
        raise ValueError(f"{path} is no Parquet file, or was cut off: {error}") from None


def write_parquet(rows: Iterable[dict[str, Any]], schema: Any, path: Path, at_once: int) -> int:
    """Write rows in row groups of `at_once`, which is what is in memory at a time; return how many there were."""
    pyarrow, parquet = import_pyarrow()
    rows, count = iter(rows), 0
    with parquet.ParquetWriter(path, schema, compression="zstd") as writer:
        while some := list(islice(rows, at_once)):
            writer.write_table(pyarrow.Table.from_pylist(some, schema))
            count += len(some)
    return count


def _group_ends(path: Path) -> np.ndarray:
    """Return how many rows there are up to the end of each row group."""
    metadata = open_parquet(path).metadata
    return np.cumsum([metadata.row_group(number).num_rows for number in range(metadata.num_row_groups)], dtype=np.int64)


def _in_small_groups(path: Path) -> Path:
    """Return the file, or what it was written to again because its row groups are too large.

    One process writes it, and others that want it, such as the ranks of one machine, wait for that. Where it cannot be
    written, the file is read as it is.
    """
    metadata = open_parquet(path).metadata
    groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
    if all(group.total_byte_size <= GROUP_BYTES and group.num_rows <= GROUP_ROWS for group in groups):
        return path
    state, folder = path.stat(), cache_folder() / "rows"
    name = hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:16]
    again, lock = folder / f"{name}-{state.st_size}-{state.st_mtime_ns}.parquet", folder / f".{name}.lock"
    try:
        if not again.is_file():
            folder.mkdir(parents=True, exist_ok=True)
            with lock.open("w") as file:
                lock_file(file, lock, patience_s=math.inf)
                if not again.is_file():  # nobody wrote it while we waited
                    _write_again(path, again, name)
    except (OSError, ValueError) as error:  # no room, or a row group that cannot be read: its rows alone are broken
        _warn_once(path, folder, str(error))
        return path
    return again


@lru_cache
def _warn_once(path: Path, folder: Path, error: str) -> None:
    slow = "its row groups are large, and reading rows of it is slow"
    _log.warning("%s is not written again in small row groups in %s (%s): %s", path, folder, error, slow)


def _write_again(path: Path, again: Path, name: str) -> None:
    """Write it, and remove what was written of the file as it was before, or not to its end."""
    from pyarrow import parquet

    for cut_off in again.parent.glob(f"{name}-*.writing"):
        cut_off.unlink(missing_ok=True)
    source = open_parquet(path)
    total_bytes = sum(source.metadata.row_group(i).total_byte_size for i in range(source.metadata.num_row_groups))
    rows_at_once = max(1, min(ROWS_AT_ONCE, GROUP_BYTES * source.metadata.num_rows // max(1, total_bytes)))
    descriptor, beside = tempfile.mkstemp(prefix=f"{name}-", suffix=".writing", dir=again.parent)
    os.close(descriptor)
    try:
        with parquet.ParquetWriter(beside, source.schema_arrow, compression="lz4", use_dictionary=False) as writer:
            for batch in source.iter_batches(rows_at_once):
                writer.write_batch(batch)
        os.replace(beside, again)
    finally:
        Path(beside).unlink(missing_ok=True)
    for old in again.parent.glob(f"{name}-*.parquet"):
        if old != again:
            old.unlink(missing_ok=True)
