"""Reads what benchmarks publish: Parquet, TSV with pictures as base64, JSON beside a folder of pictures.

A picture stays what it was in the file: bytes, or the path of a file. It is decoded when it is asked about, and there a
broken one is found.
"""

from __future__ import annotations

import base64
import binascii
import csv
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from phantrol.data.rows.parquet_rows import open_parquet
from phantrol.data.rows.text_lines import split_lines
from phantrol.tables import first_line

ROWS_AT_ONCE = 64  # of a Parquet file
REFERENCE_LETTERS = 64  # at most, of a cell that is no picture but the index of a row that has the same one
csv.field_size_limit(1 << 30)  # a picture is one cell


class Record(dict[str, Any]):
    """One row of a file. What it lacks is a ValueError with the file's name and what the row has."""

    def __init__(self, values: dict[str, Any], where: str):
        super().__init__(values)
        self.where = where

    def __missing__(self, name: str) -> Any:
        raise ValueError(f"{self.where}: got a row without {name!r}, expected it beside {', '.join(map(str, self))}")


def read_parquet(paths: Iterable[Path]) -> Iterator[Record]:
    """Yield the rows of Parquet files. Raises ValueError for a file that is no Parquet, cut off or corrupt."""
    for path in paths:
        file, count = open_parquet(path), 0
        try:
            for batch in file.iter_batches(ROWS_AT_ONCE):
                for values in batch.to_pylist():
                    yield Record(values, f"{path.name}[{count}]")
                    count += 1
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"{path} is corrupt after row {count}: {first_line(error)}") from None


def read_tsv(path: Path) -> list[Record]:
    """Return the rows of a table whose first line has the names; cells are texts.

    A picture that is only the index of another row is that row's. Raises ValueError for a table without rows.
    """
    with _text(path) as file:
        try:
            table = csv.DictReader(file, delimiter="\t")
            rows = [Record(values, f"{path.name} row {index + 1}") for index, values in enumerate(table)]
        except (csv.Error, UnicodeDecodeError) as error:
            raise ValueError(f"{path} is no table of tab-separated values: {error}") from None
    if not rows:
        raise ValueError(f"{path} has no rows")
    for row in rows:
        if None in row or None in row.values():
            raise ValueError(f"{row.where}: got more or fewer cells than there are names; was the file cut off?")
    if "image" in rows[0] and "index" in rows[0]:
        pictures = {row["index"]: row["image"] for row in rows}
        for row in rows:
            if len(row["image"]) < REFERENCE_LETTERS:
                row["image"] = pictures.get(row["image"], row["image"])
    return rows


def read_json(path: Path) -> Any:
    """Return what a JSON file holds; objects line by line come as a list. Objects of a list are Records.

    Raises ValueError for a file that is neither.
    """
    with _text(path) as file:
        try:
            text = file.read()
        except UnicodeDecodeError as error:
            raise ValueError(f"{path} is no JSON: {error}") from None
    try:
        found = json.loads(text)
    except ValueError as whole:  # no JSON, or a number of thousands of digits
        try:
            found = [json.loads(line) for line in split_lines(text) if line.strip()]
        except ValueError:
            raise ValueError(f"{path} is no JSON: {whole}") from None
    if path.suffix == ".jsonl" and isinstance(found, dict):  # one line alone is JSON too
        found = [found]
    return as_records(found, path.name) if isinstance(found, list) else found


def as_records(values: Iterable[Any], name: str) -> list[Record]:
    """Return objects as Records that know where they were read. Raises ValueError for what is no object."""
    values = list(values)
    for index, value in enumerate(values):
        if not isinstance(value, dict):
            raise ValueError(f"{name}[{index}]: got a {type(value).__name__}, expected an object with names")
    return [Record(value, f"{name}[{index}]") for index, value in enumerate(values)]


def read_lines(path: Path) -> list[str]:
    """Return the lines of a text. Raises ValueError for a file that is none."""
    with _text(path) as file:
        try:
            return split_lines(file.read())
        except UnicodeDecodeError as error:
            raise ValueError(f"{path} is no text in UTF-8: {error}") from None


def picture_of(cell: Any) -> bytes:
    """Return the bytes of the picture that a cell holds.

    cell  bytes, {"bytes", "path"} as `datasets` writes it, or base64
    """
    if isinstance(cell, dict):
        cell = cell.get("bytes") or cell.get("path")
    if isinstance(cell, bytes):
        return cell
    try:
        return base64.b64decode(str(cell or ""), validate=True)
    except binascii.Error:
        return str(cell).encode()  # no picture: it is refused, by the name of its row, when it is asked about


def _text(path: Path) -> Any:
    try:
        return path.open(encoding="utf-8-sig", newline="")
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from None
