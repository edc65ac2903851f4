"""Files as benchmarks publish them: pictures, JSON, tables, Parquet."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow
from PIL import Image
from pyarrow import parquet


def png(number: int, size_px: tuple[int, int] = (24, 16)) -> bytes:
    """Return a picture of one colour, another one for each number."""
    packed = io.BytesIO()
    Image.new("RGB", size_px, (number * 40 % 256, number * 90 % 256, number * 7 % 256)).save(packed, "png")
    return packed.getvalue()


def cell(number: int, **more: Any) -> dict[str, Any]:
    return {"bytes": png(number, **more), "path": f"{number}.png"}


def save(path: Path, content: bytes | str | Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        path.write_text(content if isinstance(content, str) else json.dumps(content, ensure_ascii=False), "utf-8")


def save_rows(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pyarrow.Table.from_pylist(list(rows)), path)


def save_table(path: Path, rows: list[dict[str, Any]]) -> None:
    lines = ["\t".join(rows[0])] + ["\t".join(str(value) for value in row.values()) for row in rows]
    save(path, "\n".join(lines) + "\n")
