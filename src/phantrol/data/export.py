"""Primer written out as files that others read: LLaVA's JSON, Parquet for `datasets`, preference triples.

out/  manifest.json  llava.json  images/...        format "llava"
out/  manifest.json  data.parquet                  format "parquet": images, messages
out/  manifest.json  data.parquet                  format "triples": images, prompt, chosen, rejected, rejected_type
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from PIL import Image

from phantrol.data.manifest import FILE, Digest, advice, describe, draw, read_manifest, redraw
from phantrol.data.primer.generator import Sample
from phantrol.data.rows.parquet_rows import import_pyarrow, write_parquet
from phantrol.data.sources.primer import PrimerSource
from phantrol.folder_beside import find_place, folder_beside
from phantrol.whole_files import checksum

FORMATS = ("llava", "parquet", "triples")
FILES_A_FOLDER = 1000
ROWS_AT_ONCE = 200  # of Parquet: a row group

Group = tuple[str, Sample]


def export(source: PrimerSource, out: Path, form: str = "llava", count: int = 1000) -> Path:
    """Write the first `count` groups of a source into a new folder, whole or not at all. Return the folder.

    Raises ValueError for an unknown format, a count out of range, a folder that is in use or cannot be made, or if
    pyarrow is missing.
    """
    if not 1 <= count <= len(source):
        raise ValueError(f"count must be 1 to {len(source):,}, got {count}")
    digest = Digest()
    _write_whole(out, form, draw(source, count, digest), lambda file: describe(source, form, count, digest, file))
    return out


def export_again(manifest_path: Path, out: Path, form: str | None = None) -> Path:
    """Write what a manifest stands for into a new folder, in its own format or another one.

    Raises ValueError as `read_manifest`, and if the samples are no longer those that it was written about.
    """
    manifest, source = read_manifest(manifest_path)
    form = form or manifest["format"]
    digest = Digest()
    groups = redraw(manifest, source, digest)
    _write_whole(out, form, groups, lambda file: describe(source, form, manifest["pictures"], digest, file))
    return out


def check(folder: Path) -> str:
    """Draw an export again and compare. Return a remark if only the pixels differ, else "".

    Raises ValueError as `export_again`, and if the file of the texts or one of the pictures is missing or was changed.
    """
    manifest, source = read_manifest(folder)
    folder = folder if folder.is_dir() else folder.parent
    file = folder / manifest["file"]["name"]
    if not file.is_file() or checksum(file) != manifest["file"]["sha256"]:
        raise ValueError(f"{file} is missing or was changed after it was written: export again")
    here, stored, others = Digest(), Digest(), []
    for number, (name, drawn) in enumerate(redraw(manifest, source, here)):
        if manifest["format"] == "llava" and drawn.picture is not None:  # elsewhere the pictures are in the file
            path = folder / _picture_name(number)
            picture = _read_picture(path)
            stored.add(name, replace(drawn, picture=picture))
            if (picture.size, picture.tobytes()) != (drawn.picture.size, drawn.picture.tobytes()):
                others.append(path)
    then, now = manifest["pixels_sha256"], here.as_dict()["pixels_sha256"]
    # where FreeType draws letters anew, good pictures differ as well: the digest of then tells whether any is bad
    if others and stored.as_dict()["pixels_sha256"] != then:
        which = others[0] if now == then else f"{others[0]}, or one of the {len(others) - 1} that differ after it,"
        raise ValueError(f"{which} was changed after it was written: export again")
    return advice(manifest, now)


def _picture_name(number: int) -> str:
    return f"images/{number // FILES_A_FOLDER:05}/{number:08}.png"


def _read_picture(path: Path) -> Image.Image:
    try:
        with Image.open(path) as picture:
            picture.load()
            return picture
    except MemoryError:
        raise
    except Exception as error:  # Pillow's readers raise whatever a broken file makes them
        what = "is missing" if isinstance(error, FileNotFoundError) else "is broken"
        raise ValueError(f"{path} {what}: export again") from error


def _write_whole(out: Path, form: str, groups: Iterable[Group], manifest: Callable[[Path], dict[str, Any]]) -> None:
    """Write into a folder beside `out`, which takes its name when all is there."""
    if form not in FORMATS:
        raise ValueError(f"unknown format {form!r}: use one of {', '.join(FORMATS)}")
    place = find_place(out)
    if form != "llava":
        import_pyarrow()
    with folder_beside(place) as beside:
        file = _write_llava(beside, groups) if form == "llava" else _write_parquet(beside, form, groups)
        (beside / FILE).write_text(json.dumps(manifest(file), indent=1) + "\n", "utf-8")
        os.replace(beside, place)


def _write_llava(folder: Path, groups: Iterable[Group]) -> Path:
    """One record a picture: {"id", "image" (from this folder), "conversations": [{"from", "value"}]}."""
    target = folder / "llava.json"
    with target.open("w", encoding="utf-8") as file:
        separator = "[\n"
        for number, (name, drawn) in enumerate(groups):
            record: dict[str, Any] = {"id": name}
            if drawn.picture is not None:
                record["image"] = _picture_name(number)
                path = folder / record["image"]
                path.parent.mkdir(parents=True, exist_ok=True)
                drawn.picture.save(path)
            said = [text for turn in drawn.turns for text in (turn.question, turn.answer)]
            if drawn.picture is not None:
                said[0] = f"<image>\n{said[0]}"
            sides = ("human", "gpt") * len(drawn.turns)
            record["conversations"] = [{"from": s, "value": t} for s, t in zip(sides, said, strict=True)]
            file.write(separator + json.dumps(record, ensure_ascii=False))
            separator = ",\n"
        file.write("\n]\n")
    return target


def parquet_schema(form: str) -> Any:
    """Return the columns of format "parquet" or "triples" for `datasets`: its image feature is struct{bytes, path},
    announced in the schema's metadata."""
    pyarrow, _ = import_pyarrow()
    image = pyarrow.struct({"bytes": pyarrow.binary(), "path": pyarrow.string()})
    messages = pyarrow.list_(pyarrow.struct({"role": pyarrow.string(), "content": pyarrow.string()}))
    text = {"dtype": "string", "_type": "Value"}
    columns = {"id": (pyarrow.string(), text), "images": (pyarrow.list_(image), [{"_type": "Image"}])}
    talks = ("messages",) if form == "parquet" else ("prompt", "chosen", "rejected")
    columns |= {name: (messages, [{"role": text, "content": text}]) for name in talks}
    if form == "triples":
        columns |= {"rejected_type": (pyarrow.string(), text)}
    features = {"info": {"features": {name: feature for name, (_, feature) in columns.items()}}}
    return pyarrow.schema(
        {name: kind for name, (kind, _) in columns.items()}, metadata={"huggingface": json.dumps(features)}
    )


def _write_parquet(folder: Path, form: str, groups: Iterable[Group]) -> Path:
    rows_of = _conversation if form == "parquet" else _triples
    target = folder / "data.parquet"
    write_parquet((row for group in groups for row in rows_of(*group)), parquet_schema(form), target, ROWS_AT_ONCE)
    return target


def _conversation(name: str, drawn: Sample) -> list[dict[str, Any]]:
    talk = [line for turn in drawn.turns for line in (_say("user", turn.question), _say("assistant", turn.answer))]
    return [{"id": name, "images": _images(drawn.picture), "messages": talk}]


def _triples(name: str, drawn: Sample) -> list[dict[str, Any]]:
    """One row for each wrong answer to each question; the column names are those of TRL's DPO trainer."""
    images = _images(drawn.picture)
    return [
        {
            "id": f"{name}/{i}/{rejected.kind}",
            "images": images,
            "prompt": [_say("user", turn.question)],
            "chosen": [_say("assistant", turn.answer)],
            "rejected": [_say("assistant", rejected.text)],
            "rejected_type": rejected.kind,
        }
        for i, turn in enumerate(drawn.turns)
        for rejected in turn.rejected
    ]


def _say(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def _images(picture: Image.Image | None) -> list[dict[str, Any]]:
    if picture is None:
        return []
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return [{"bytes": buffer.getvalue(), "path": None}]
