"""Triples as a file, in the layout of `data export --format triples`: images, prompt, chosen, rejected, rejected_type.

It is written beside its place and then renamed. Pictures in files stay files, named from the folder of the new one;
those that were in the rows are in its rows.
"""

from __future__ import annotations

import base64
import io
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from PIL import Image

from phantrol.data.broken import BrokenRow
from phantrol.data.export import ROWS_AT_ONCE, parquet_schema
from phantrol.data.layouts import read_draft
from phantrol.data.messages import Message, Picture
from phantrol.data.pictures import place, stored_bytes
from phantrol.data.rows.parquet_rows import import_pyarrow, write_parquet
from phantrol.data.triples.reading import Row

SUFFIXES = (".parquet", ".jsonl")
PLACEHOLDER = "<image>"


def check_out(out: Path) -> None:
    """Raise ValueError for a name of no such file, a folder, and Parquet without pyarrow."""
    if out.suffix not in SUFFIXES:
        raise ValueError(f"--out: got {out}, expected a name that ends in {' or '.join(SUFFIXES)}")
    if out.is_dir():
        raise ValueError(f"--out: {out} is a folder, expected a file")
    if out.suffix == ".parquet":
        import_pyarrow()


def check_apart(written: Iterable[Path], read: Iterable[Path]) -> None:
    """Raise ValueError if a file that is to be written is, by whatever name, one of those that are read."""
    read = [path for path in read if path.is_file()]
    for path in written:
        if path.exists() and any(path.samefile(other) for other in read):
            raise ValueError(f"--out: {path} is one of the files to read and would be overwritten: choose another")


def triple(row: Row, rejected: str, kind: str, folder: Path) -> dict[str, Any]:
    """Return one row of the file, which lies in `folder`.

    Raises BrokenRow if it would not be read again as it was meant, as when a text holds `<image>`.
    """
    messages = row.example.messages
    pictures = [picture for message in messages for picture in message.pictures]
    prompt, chosen = messages[:-1], messages[-1].text
    found = {
        "id": f"{row.where}/{kind}",
        "images": [_reference(picture, folder) for picture in pictures],
        "prompt": [{"role": message.role, "content": text} for message, text in _texts(prompt)],
        "chosen": [{"role": "assistant", "content": chosen}],
        "rejected": [{"role": "assistant", "content": rejected}],
        "rejected_type": kind,
    }
    again = place(draft := read_draft(found), folder)
    if [_plain(message) for message in again] != [_plain(m) for m in messages] or draft.rejected != ((rejected, kind),):
        raise BrokenRow("image-count", "the text holds what would be read as a picture: write it otherwise", row.where)
    return found


def write_rows(rows: Iterable[dict[str, Any]], out: Path) -> int:
    """Write triples, or as JSON Lines any rows, whole or not at all; return how many. Without any there is no new file.

    out  ends in .parquet, which holds triples alone, or else in .jsonl
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    beside = out.with_name(f".{out.name}.writing-{os.getpid()}")
    try:
        if out.suffix == ".parquet":
            count = write_parquet(rows, parquet_schema("triples"), beside, ROWS_AT_ONCE)
        else:
            count = _write_lines(rows, beside)
        if count:
            os.replace(beside, out)
    finally:
        beside.unlink(missing_ok=True)
    return count


def _write_lines(rows: Iterable[dict[str, Any]], path: Path) -> int:
    count = 0
    with path.open("w", encoding="utf-8") as file:
        for each in rows:
            images = [_as_text(image) for image in each["images"]] if "images" in each else None
            file.write(json.dumps(each if images is None else {**each, "images": images}, ensure_ascii=False) + "\n")
            count += 1
    return count


def _texts(messages: tuple[Message, ...]) -> list[tuple[Message, str]]:
    """Messages with their texts; a placeholder for each picture, unless all of them open the first question."""
    leading = next((i for i, part in enumerate(messages[0].parts) if isinstance(part, str)), len(messages[0].parts))
    others = sum(len(message.pictures) for message in messages) - leading
    if messages[0].role == "user" and not others:
        return [(message, message.text) for message in messages]
    return [(m, "".join(part if isinstance(part, str) else PLACEHOLDER for part in m.parts)) for m in messages]


def _plain(message: Message) -> tuple[str, list[str]]:
    """Who says what, with a mark for a picture; white space around pictures is nobody's."""
    parts = [part.strip() if isinstance(part, str) else "\0" for part in message.parts]
    return message.role, [part for part in parts if part]


def _reference(picture: Picture, folder: Path) -> dict[str, Any]:
    if isinstance(picture, Path):
        # without links: a ".." leads out of where a link points to, not of where it lies
        real = os.path.join(os.path.realpath(picture.parent), picture.name)
        return {"bytes": None, "path": os.path.relpath(real, os.path.realpath(folder))}
    if stored := stored_bytes(picture):
        return {"bytes": stored, "path": None}
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return {"bytes": buffer.getvalue(), "path": None}


def _as_text(image: dict[str, Any]) -> str:
    if image["bytes"] is None:
        return image["path"]
    with Image.open(io.BytesIO(image["bytes"])) as picture:
        kind = (picture.format or "png").lower()
    return f"data:image/{kind};base64,{base64.b64encode(image['bytes']).decode()}"
