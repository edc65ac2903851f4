"""Rows of a JSON file: an array of them, or one a line. The index of where they are is built once and kept.

The index is three whole numbers a row in a file of its own, in the cache folder, and is mapped into memory: a million
rows cost 24 MB of disk and next to no memory. It is built again when the file has changed.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import sys
import tempfile
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from phantrol.cached import cache_folder
from phantrol.data.broken import BrokenRow
from phantrol.data.rows.scanning import Scan

VERSION = 2  # of the index
_log = logging.getLogger("phantrol")


class JsonRows:
    """The rows of one JSON file by number.

    is_array  one array of rows, or else one row a line
    fault     why the file ends too early or goes on too long, or ""; the rows before are there
    """

    def __init__(self, path: Path):
        self.path = path
        self.is_array, self.fault, self._index = _index(path)

    def __len__(self) -> int:
        return len(self._index)

    def __getitem__(self, index: int) -> Any:
        """Return row `index`. Raises BrokenRow if it is not valid JSON in UTF-8."""
        raw = self.raw(index)
        try:
            row = json.loads(raw.decode("utf-8"))
        except UnicodeDecodeError as error:
            byte = f"byte {raw[error.start]:#04x} at {int(self._index[index, 0]) + error.start}"
            raise BrokenRow("bad-utf8", f"{byte} is not UTF-8: save the file as UTF-8", self.where(index)) from None
        except json.JSONDecodeError as error:
            detail = (
                f"not JSON: {error.msg}, at character {error.pos + 1} of the row" if raw else "not JSON: an empty row"
            )
            raise BrokenRow("bad-json", detail, self.where(index)) from None
        except ValueError:  # the only one left: Python reads no whole number of so many digits
            most = f"expected at most {sys.get_int_max_str_digits():,} digits"
            raise BrokenRow("bad-json", f"a number is too long: {most}", self.where(index)) from None
        except RecursionError:
            raise BrokenRow("bad-json", "brackets are nested too deeply", self.where(index)) from None
        if b"\\ud" in raw or b"\\uD" in raw:
            try:
                json.dumps(row, ensure_ascii=False).encode("utf-8")
            except UnicodeEncodeError:
                raise BrokenRow(
                    "bad-utf8", "half of a surrogate pair (\\ud...): no character", self.where(index)
                ) from None
        return row

    def raw(self, index: int) -> bytes:
        """Return the bytes of row `index`, without white space around them."""
        begin, end, _ = self._index[index].tolist()
        with self.path.open("rb") as file:
            file.seek(begin)
            return file.read(end - begin).strip()

    def line(self, index: int) -> int:
        begin, end, line = self._index[index].tolist()
        if not self.is_array:
            return line
        with self.path.open("rb") as file:
            file.seek(begin)
            raw = file.read(end - begin)
        return line + raw[: len(raw) - len(raw.lstrip())].count(b"\n")

    def where(self, index: int) -> str:
        return f"{self.path.name}[{index}]" if self.is_array else f"{self.path.name}, line {self.line(index)}"


def _index(path: Path) -> tuple[bool, str, np.ndarray]:
    """Return (is_array, fault, [R, 3]) of a file, from the cache folder if it was met before."""
    state, resolved = path.stat(), path.resolve()
    name = hashlib.sha256(str(resolved).encode()).hexdigest()[:16]
    stamp = f"{VERSION}-{state.st_size}-{state.st_mtime_ns}"
    folder = cache_folder() / "rows"
    told = folder / f"{name}.json"
    stale = ""
    try:
        known = json.loads(told.read_text("utf-8"))
        stale = known["index"]
        if known["stamp"] == stamp:
            return known["is_array"], known["fault"], _mapped(folder / stale)
    except (OSError, ValueError, KeyError, TypeError):
        pass  # not met before, or met by another version: it is built again
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor, beside = tempfile.mkstemp(prefix=f"{name}-", suffix=".index", dir=folder)
    except OSError as error:
        _log.warning("no index of %s is kept, because %s cannot be written: %s", path, folder, error)
        with path.open("rb") as file, tempfile.TemporaryFile() as index:
            scan = _write(file, index, path)
            index.seek(0)
            return scan.is_array, scan.fault, np.frombuffer(index.read(), np.int64).reshape(-1, 3)
    try:
        with os.fdopen(descriptor, "wb") as index, path.open("rb") as file:
            scan = _write(file, index, path)
        _tell(told, {"stamp": stamp, "index": Path(beside).name, "is_array": scan.is_array, "fault": scan.fault})
    except BaseException:
        Path(beside).unlink(missing_ok=True)
        raise
    if stale:
        (folder / Path(stale).name).unlink(missing_ok=True)
    return scan.is_array, scan.fault, _mapped(Path(beside))


def _write(file: BinaryIO, index: BinaryIO, path: Path) -> Scan:
    try:
        scan = Scan(file)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    for rows in scan:
        index.write(np.ascontiguousarray(rows, np.int64).tobytes())
    return scan


def _mapped(path: Path) -> np.ndarray:
    if not path.stat().st_size:
        return np.zeros((0, 3), np.int64)
    return np.memmap(path, np.int64, "r").reshape(-1, 3)


def _tell(path: Path, known: dict[str, Any]) -> None:
    beside = path.with_name(f"{known['index']}.writing")
    try:
        beside.write_text(json.dumps(known), "utf-8")
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)
