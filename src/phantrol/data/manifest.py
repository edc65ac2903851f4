"""The manifest of an export: what it was drawn from, by which versions, and the digests that a redraw must meet."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import PIL
from PIL import features

from phantrol.data.primer.generator import VERSION, Sample
from phantrol.data.sources.primer import PrimerSource
from phantrol.version import __version__
from phantrol.whole_files import checksum

FILE = "manifest.json"
GENERATOR = "primer"
KEYS = ("generator", "version", "format", "pictures", "source", "file", "specs_sha256", "pixels_sha256")


class Digest:
    """Digests of groups in their order: of what was asked about which scene, and of the pixels."""

    def __init__(self) -> None:
        self._specs, self._pixels = hashlib.sha256(), hashlib.sha256()

    def add(self, name: str, drawn: Sample) -> None:
        scene = drawn.scene
        if getattr(scene, "stamps", ""):  # where the folder lies is no part of what is drawn: it may be moved
            scene = dataclasses.replace(scene, stamps="stamps")
        turns = [(t.task, t.question, t.answer, *((r.kind, r.text) for r in t.rejected)) for t in drawn.turns]
        self._specs.update(repr((name, scene, turns)).encode())
        if drawn.picture is not None:
            self._pixels.update(repr(drawn.picture.size).encode() + drawn.picture.tobytes())

    def as_dict(self) -> dict[str, str]:
        return {"specs_sha256": self._specs.hexdigest(), "pixels_sha256": self._pixels.hexdigest()}


def describe(source: PrimerSource, form: str, count: int, digest: Digest, file: Path) -> dict[str, Any]:
    """Return the manifest of the first `count` groups of a source, whose texts are in `file`."""
    return {
        "generator": GENERATOR,
        "version": VERSION,
        "format": form,
        "pictures": count,
        "source": {**dataclasses.asdict(source), "sprites": _from_anywhere(source.sprites)},
        "file": {"name": file.name, "sha256": checksum(file)},
        **digest.as_dict(),
        "made_by": {"phantrol": __version__, **_drawing_by()},
    }


def read_manifest(path: Path) -> tuple[dict[str, Any], PrimerSource]:
    """Return a manifest, given its file or the folder of the export, and the source that it was drawn from.

    Raises ValueError if there is none, if it is broken, if another generator or version drew it, or if it asks for what
    cannot be drawn.
    """
    path = path / FILE if path.is_dir() else path
    if not path.is_file():
        raise ValueError(f"no manifest at {path}: expected the folder that `phantrol data export` wrote, or its {FILE}")
    try:
        manifest = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is broken ({error}): export again") from error
    missing = [key for key in KEYS if not isinstance(manifest, dict) or key not in manifest]
    if missing or not all(isinstance(manifest[key], dict) for key in ("source", "file")):
        raise ValueError(f"{path} is not the manifest of an export: it lacks {', '.join(missing) or 'a source'}")
    if manifest["generator"] != GENERATOR:
        raise ValueError(
            f"{path} is of the generator {manifest['generator']!r}, expected {GENERATOR!r}: it is no export of phantrol"
        )
    if manifest["version"] != VERSION:
        raise ValueError(
            f"{path} was written by {GENERATOR} {manifest['version']}, here is {GENERATOR} {VERSION}: it "
            "draws other samples, so export again, or install the phantrol that wrote it"
        )
    known = {field.name for field in dataclasses.fields(PrimerSource)}
    unknown = sorted(set(manifest["source"]) - known)
    if unknown:
        raise ValueError(f"{path} asks for {', '.join(unknown)}, which this phantrol does not know: export again")
    try:
        source = PrimerSource(**{key: _tuples(value) for key, value in manifest["source"].items()})
        source.draw(0)
        if not 1 <= manifest["pictures"] <= len(source) or type(manifest["pictures"]) is not int:
            raise ValueError(f"pictures must be a whole number of 1 to {len(source):,}, got {manifest['pictures']!r}")
        file = manifest["file"]
        texts = (manifest["specs_sha256"], manifest["pixels_sha256"], file["name"], file["sha256"])
        if not all(isinstance(text, str) for text in texts) or not isinstance(manifest.get("made_by", {}), dict):
            raise TypeError("a digest, the file or made_by")
    except (TypeError, AttributeError, KeyError, OverflowError) as error:
        raise ValueError(f"{path} has a value of another kind than was written ({error}): export again") from error
    return manifest, source


def draw(source: PrimerSource, count: int, digest: Digest) -> Iterator[tuple[str, Sample]]:
    """Yield the first `count` groups of a source, each once it is added to the digest."""
    for index in range(count):
        name, drawn = source.draw(index)
        digest.add(name, drawn)
        yield name, drawn


def redraw(manifest: dict[str, Any], source: PrimerSource, digest: Digest) -> Iterator[tuple[str, Sample]]:
    """Yield the groups that a manifest stands for, as `draw`.

    Raises ValueError at the end if they are not those that it was written about.
    """
    yield from draw(source, manifest["pictures"], digest)
    now = digest.as_dict()
    if now["specs_sha256"] != manifest["specs_sha256"]:
        raise ValueError(
            f"{GENERATOR} {VERSION} draws other samples here than the manifest tells of (specs "
            f"{now['specs_sha256'][:12]}, expected {manifest['specs_sha256'][:12]}): export again, or use the phantrol "
            f"{manifest.get('made_by', {}).get('phantrol', '')} that wrote it"
        )


def advice(manifest: dict[str, Any], pixels_sha256: str) -> str:
    """Return a remark if pictures come out otherwise here, "" if they are the same. FreeType may draw letters anew."""
    if pixels_sha256 == manifest["pixels_sha256"]:
        return ""
    then = {key: value for key, value in manifest.get("made_by", {}).items() if key != "phantrol"}
    return f"the same scenes, but other pixels: drawn by {then}, here by {_drawing_by()}"


def _from_anywhere(sprites: int | str | None) -> int | str | None:
    """Return the name of a folder of stamps as it holds in any working directory, and what is none as it is."""
    is_folder = isinstance(sprites, str) and sprites != "tuxpaint" and not sprites.isdecimal()
    return str(Path(sprites).absolute()) if is_folder else sprites


def _drawing_by() -> dict[str, str | None]:
    return {"pillow": PIL.__version__, "freetype": features.version("freetype2")}


def _tuples(value: Any) -> Any:
    """Return JSON's lists as tuples, so that a source read again equals the one written."""
    return tuple(_tuples(part) for part in value) if isinstance(value, list) else value
