"""From what a user types to rows: a file, a folder, or a pattern such as data/*.parquet."""

from __future__ import annotations

import glob
import re
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

from phantrol.data.rows.arrow_rows import SEVERAL, SINGLE, ArrowRows
from phantrol.data.rows.json_rows import JsonRows
from phantrol.data.rows.parquet_rows import ParquetRows

READERS = {".json": JsonRows, ".jsonl": JsonRows, ".ndjson": JsonRows, ".parquet": ParquetRows, ".pq": ParquetRows}
# what lies beside data and tells of it: manifests, and what `data check --fix` and `data triples` write beside theirs
NOT_ROWS = re.compile(r"manifest\.json|dataset_infos?\.json|broken\.jsonl|.+\.(parquet|jsonl)\.(journal|failed)\.jsonl")
_PACKED = (".gz", ".zst", ".xz", ".bz2", ".zip", ".tar", ".tgz")
_SHARDS = re.compile(r".+\.(tar(\.\w+)?|tgz)", re.IGNORECASE)  # as of WebDataset: each row a file beside its picture


class RowsInTurn:
    """The rows of several files, one file after the other, by one number."""

    def __init__(self, files: Sequence[Any]):
        self.files = list(files)
        self._ends = list(accumulate(len(rows) for rows in self.files))

    def __len__(self) -> int:
        return self._ends[-1]

    def locate(self, index: int) -> tuple[Any, int]:
        """Return (the rows of a file, number within it). Raises IndexError out of range."""
        if not 0 <= index < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        number = bisect_right(self._ends, index)
        return self.files[number], index - (self._ends[number - 1] if number else 0)


def find_files(path: str | Path) -> list[Path]:
    """Return the files, and folders of `datasets`, that a path stands for: itself, what a pattern matches in order of
    names, or all data files of a folder. Folders and patterns leave out what only tells of data (NOT_ROWS).

    Raises ValueError if there is none, for an empty name, and for packed files; those of a folder whose rows lie
    beside are left out.
    """
    if not str(path):  # as a path it would be the current folder
        raise ValueError("got an empty name, expected that of a file, a folder or a pattern of your data")
    path = Path(path).expanduser()
    if path.is_dir():
        return _inside(path)
    if path.is_file():
        _reader(path)
        return [path]
    names = sorted(glob.glob(str(path), recursive=True)) if glob.has_magic(str(path)) else []
    matches = [match for match in map(Path, names) if match.is_dir() or not NOT_ROWS.fullmatch(match.name)]
    if not matches:
        raise ValueError(f"no file {path}: expected {', '.join(READERS)}, a folder of such, or one of save_to_disk")
    return [file for match in matches for file in (_inside(match) if match.is_dir() else find_files(match))]


def open_rows(path: Path) -> Any:
    """Return the rows of one file, or folder of `datasets`. Raises ValueError if it cannot be read at all."""
    if path.is_dir():
        return ArrowRows(path)
    if not path.stat().st_size:
        raise ValueError(f"{path} is empty: 0 bytes")
    return _reader(path)(path)


def _reader(path: Path) -> Any:
    if path.suffix.lower() in _PACKED:
        remedy = 'unpack it and write one JSON line a row, with its "image"'
        remedy = remedy if _SHARDS.fullmatch(path.name) else "unpack it first"
        raise ValueError(f"{path} is packed, and its rows cannot be reached one by one: {remedy}")
    if path.suffix.lower() not in READERS:
        raise ValueError(f"{path}: got a name that ends in {path.suffix!r}, expected {', '.join(READERS)}")
    return READERS[path.suffix.lower()]


def _inside(folder: Path) -> list[Path]:
    if (folder / SINGLE).is_file():
        return [folder]
    if (folder / SEVERAL).is_file():
        splits = sorted(file.parent.name for file in folder.glob(f"*/{SINGLE}"))
        raise ValueError(f"{folder} holds the splits {', '.join(splits)}: name one, such as {folder / splits[0]}")
    files = sorted(file for file in folder.iterdir() if _is_data(file))
    if not files:
        raise ValueError(f"{folder} has no data in it: expected {', '.join(READERS)}, or what save_to_disk wrote")
    return files


def _is_data(file: Path) -> bool:
    is_packed = file.suffix.lower() in _PACKED
    unpacked = file.with_suffix("") if is_packed else file
    if unpacked.suffix.lower() not in READERS or NOT_ROWS.fullmatch(unpacked.name) or not file.is_file():
        return False
    if is_packed and not unpacked.exists():
        _reader(file)  # says so: it would be left out silently
    return not is_packed
