"""The good rows of files that were checked, written out in the format that they came in, and a list of the rest.

out/  train.json  more.parquet  photos/...   each file under its own name, with its good rows, byte for byte
out/  broken.jsonl                           {"file", "row", "line", "reason", "detail"}
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from phantrol.data.check import FileReport, Report
from phantrol.data.rows.arrow_rows import ArrowRows
from phantrol.data.rows.json_rows import JsonRows
from phantrol.data.rows.opening import find_files, open_rows
from phantrol.data.rows.parquet_rows import open_parquet
from phantrol.folder_beside import find_place, folder_beside

BROKEN = "broken.jsonl"
ROWS_AT_ONCE = 64  # of Parquet


def write_fixed(report: Report, out: Path) -> Path:
    """Write the good rows of all files into a new folder, whole or not at all. Return the folder.

    Raises ValueError if the folder is in use or cannot be made, or two of the files have the same name.
    """
    check_room(out, [file.path for file in report.files])
    place = find_place(out)
    with folder_beside(place) as beside:
        for file in report.files:
            _write(file, beside / file.path.name)
        with (beside / BROKEN).open("w", encoding="utf-8") as listed:
            listed.writelines(json.dumps(line, ensure_ascii=False) + "\n" for line in broken_lines(report))
        os.replace(beside, place)
    return out


def check_room(out: Path, paths: Sequence[str | Path]) -> None:
    """Raise ValueError if something is where the folder is to be, it cannot be made, or two files would have the same
    name there.

    paths  files, folders and patterns, as for `check`
    """
    place = find_place(out)
    names = [file.name for file in dict.fromkeys(file for path in paths for file in find_files(path))]
    twice = next((name for name in names if names.count(name) > 1 or name == BROKEN), None)
    if twice is not None:
        raise ValueError(f"several files are called {twice}, and all go into {out}: fix them one after the other")
    with folder_beside(place):
        pass  # it can be written: that is better known before the files are read


def broken_lines(report: Report) -> Iterator[dict[str, Any]]:
    """Yield what is to be said of each broken row, and of each file that ends early, goes on too long or is empty."""
    for file in report.files:
        for fault in file.faults:
            place = {"file": str(file.path), "row": fault.index, "line": fault.line}
            yield place | {"reason": fault.reason, "detail": fault.detail}
        if file.fault:
            place = {"file": str(file.path), "row": None, "line": None}
            yield place | {"reason": file.reason, "detail": file.fault}


def _write(file: FileReport, path: Path) -> None:
    rows = open_rows(file.path)
    if isinstance(rows, JsonRows):
        _write_json(rows, file, path)
    elif isinstance(rows, ArrowRows):
        rows.dataset.select(_good(file)).save_to_disk(str(path))
    else:
        _write_parquet(file, path)


def _write_json(rows: JsonRows, file: FileReport, path: Path) -> None:
    before, between, after = (b"[\n", b",\n", b"\n]\n") if rows.is_array else (b"", b"\n", b"\n")
    good = _good(file)
    with path.open("wb") as out:
        out.write(before)
        for number, index in enumerate(good.tolist()):
            out.write(between if number else b"")
            out.write(rows.raw(index))
        out.write(after if rows.is_array or len(good) else b"")


def _write_parquet(file: FileReport, path: Path) -> None:
    from pyarrow import array, parquet

    source, done = open_parquet(file.path), 0
    is_good = np.ones(file.num_rows, bool)
    is_good[file.broken] = False
    with parquet.ParquetWriter(path, source.schema_arrow, compression="zstd") as writer:
        for batch in source.iter_batches(ROWS_AT_ONCE):
            kept = batch.filter(array(is_good[done : done + len(batch)]))
            done += len(batch)
            if len(kept):
                writer.write_batch(kept)


def _good(file: FileReport) -> np.ndarray:
    return np.setdiff1d(np.arange(file.num_rows), file.broken)
