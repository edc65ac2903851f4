"""Pictures of a row: found in a folder or in the row itself, put where the text has its placeholders.

Nothing is ever downloaded: a picture that is a web address is a broken row.
"""

from __future__ import annotations

import base64
import io
import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from PIL import Image, UnidentifiedImageError

from phantrol.data.broken import BrokenRow
from phantrol.data.layouts import Draft, Turn
from phantrol.data.messages import Message, Picture

# LLaVA, DocOwl, InternLM-XComposer, and the numbered ones of MathVision and MMMU
PLACEHOLDER = re.compile(r"\s*(?:<image>|<\|image\|>|<ImageHere>|<image[ _-]?(\d{1,9})>)\s*")
# a placeholder for what is no picture, or Qwen-VL's for one, where the row has no picture; HTML closes its <video>
UNSHOWN = re.compile(r"<img>[^<>\n]+</img>|(?:\A|^)[ \t]*<(?:video|audio)>[ \t]*$|\A\s*<(?:video|audio)>", re.MULTILINE)
MAX_PIXELS = 64_000_000  # of one picture, as in models.image_processing
warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # MAX_PIXELS decides; as in models.image_processing
_ORIENTATION, _TURNED = 0x0112, (5, 6, 7, 8)  # of EXIF: the picture lies on its side


def place(draft: Draft, folder: Path) -> tuple[Message, ...]:
    """Return the turns of a row as messages, with each picture where the text shows it.

    folder  where paths that are not absolute start

    White space around a placeholder goes with it. Pictures of a row without any placeholder come first in its first
    question. Raises BrokenRow if placeholders and images do not match, or an image is no path and no picture.
    """
    shelf = _Shelf(draft.images, folder)
    spoken = [(turn.role, _parts(turn, shelf)) for turn in draft.turns]
    first = next(index for index, (role, _) in enumerate(spoken) if role == "user")
    has_own = any(not isinstance(part, str) for _, parts in spoken for part in parts)
    if shelf.images and not shelf.wanted and not has_own:
        spoken[first][1][:0] = [shelf.take(None) for _ in shelf.images]
    shelf.close()
    if not shelf.images and not has_own:
        _refuse_unshown(draft)
    return tuple(Message(role, tuple(part for part in parts if part != "")) for role, parts in spoken)


def _refuse_unshown(draft: Draft) -> None:
    """Raise BrokenRow if a row without pictures asks about something that was to be seen or heard."""
    for turn in draft.turns:
        found = UNSHOWN.search(turn.text) if turn.role == "user" else None
        if found is not None and not any(end in turn.text for end in ("</video>", "</audio>")):
            got = f"got {found[0].strip()[:60]} in the text of a row without pictures"
            raise BrokenRow("image-count", f"{got}, expected pictures, shown by <image> and named in the field image")


class _Shelf:
    """The images of a row, taken one after the other, or by number."""

    def __init__(self, images: Sequence[Any], folder: Path):
        self.images, self.folder = images, folder
        self.taken: set[int] = set()
        self.wanted = 0

    def take(self, number: int | None) -> Picture | str:
        """Return the next image, or that of a number; a number that comes again is text."""
        index = len(self.taken) if number is None else number - 1
        if number is not None and index in self.taken:
            return f"<image{number}>"
        self.wanted += 1
        self.taken.add(index)
        return open_reference(self.images[index], self.folder) if 0 <= index < len(self.images) else ""

    def close(self) -> None:
        if self.taken != set(range(len(self.images))):
            got = f"got {self.wanted} <image> in the text for {len(self.images)} images"
            raise BrokenRow("image-count", f"{got}, expected one for each")


def _parts(turn: Turn, shelf: _Shelf) -> list[str | Picture]:
    if isinstance(turn.content, str):
        return _split(turn.content, shelf) if turn.role != "assistant" else [turn.content]
    parts: list[str | Picture] = []
    for part in turn.content:
        kind = part.get("type")
        if kind == "text":
            text = part.get("text")
            if not isinstance(text, str):
                raise BrokenRow("wrong-type", f"got a text part with {text!r}, expected text")
            parts += _split(text, shelf) if turn.role != "assistant" else [text]
        elif kind in ("image", "image_url"):
            given = next((part[name] for name in ("image", "path", "url", "image_url") if part.get(name)), None)
            given = given.get("url") if kind == "image_url" and isinstance(given, Mapping) else given
            parts.append(shelf.take(None) if given is None else open_reference(given, shelf.folder))
        else:
            raise BrokenRow("wrong-type", f"got a part of type {kind!r}, expected 'text' or 'image'")
    return parts


def _split(text: str, shelf: _Shelf) -> list[str | Picture]:
    pieces = PLACEHOLDER.split(text)
    parts: list[str | Picture] = [pieces[0]]
    for number, after in zip(pieces[1::2], pieces[2::2], strict=True):
        parts += [shelf.take(int(number) if number else None), after]
    return parts


def open_reference(reference: Any, folder: Path) -> Picture:
    """Return an image of a row: a path stays one, bytes become a picture that is not decoded yet.

    Raises BrokenRow for a web address, bytes that are no picture, and anything else.
    """
    if isinstance(reference, Mapping):  # the image feature of `datasets`, or a message of the OpenAI kind
        given = next((reference[name] for name in ("bytes", "path", "url") if reference.get(name) is not None), None)
        return open_reference(given, folder)
    if isinstance(reference, Image.Image):
        return reference
    if isinstance(reference, bytes):
        return _open(reference, "the picture in the row")
    if not isinstance(reference, str) or not reference.strip():
        kind = "an empty name" if isinstance(reference, str) else f"a {type(reference).__name__}"
        raise BrokenRow("wrong-type", f"got {kind} as an image, expected a path or the bytes of a picture")
    try:
        address = urlsplit(reference if ":" in reference[:12] else "")
    except ValueError as error:
        raise BrokenRow("image-unreadable", f"{reference[:200]} is no path and no address: {error}") from None
    scheme = address.scheme.lower()
    if scheme == "data":
        try:
            data = base64.b64decode(reference.partition(",")[2], validate=True)
        except ValueError as error:  # of binascii, or of letters beyond ASCII
            raise BrokenRow("image-unreadable", f"the picture in the row is no base64: {error}") from None
        return _open(data, "the picture in the row")
    if scheme in ("http", "https", "s3", "gs", "hf", "ftp"):
        raise BrokenRow(
            "image-remote",
            f"{reference} is a web address, and training downloads nothing: fetch the pictures and put paths here",
        )
    return folder / (unquote(address.path) if scheme == "file" else reference)


def stored_bytes(picture: Image.Image) -> bytes | None:
    """Return the very bytes of a row that a picture was opened from, or None if it was decoded since."""
    held = getattr(picture, "fp", None)
    return held.getvalue() if isinstance(held, io.BytesIO) else None


def picture_size(picture: Picture) -> tuple[int, int]:
    """Return (width, height) in pixels as it is shown, from the head of the file alone.

    Raises BrokenRow if there is no such file, or it is empty, no picture, too large, or of 32 bits a pixel.
    """
    if isinstance(picture, Path):
        try:
            with picture.open("rb") as file:
                return _shown_size(_identify(file, f"picture {picture}"), f"picture {picture}")
        except BrokenRow:
            raise
        except FileNotFoundError:
            raise BrokenRow("image-missing", f"picture {picture}: no such file") from None
        except IsADirectoryError:
            raise BrokenRow("image-missing", f"picture {picture} is a folder") from None
        except (OSError, ValueError) as error:
            raise BrokenRow("image-unreadable", f"picture {str(picture)[:200]}: {error}") from None
    return _shown_size(picture, "the picture in the row")


def _open(data: bytes, name: str) -> Image.Image:
    return _identify(io.BytesIO(data), name)


def _identify(file: Any, name: str) -> Image.Image:
    try:
        return Image.open(file)
    except Image.DecompressionBombError as error:
        raise BrokenRow("image-unreadable", f"{name} is too large: {error}") from None
    except UnidentifiedImageError:
        file.seek(0)
        what = "is no picture that Pillow reads" if file.read(1) else "is empty: 0 bytes"
        raise BrokenRow("image-unreadable", f"{name} {what}") from None
    except MemoryError:
        raise
    except Exception as error:  # Pillow's readers raise whatever a broken file makes them
        raise BrokenRow("image-unreadable", f"{name} is broken: {error}") from None


def _shown_size(picture: Image.Image, name: str) -> tuple[int, int]:
    width, height = picture.size
    if not 0 < width * height <= MAX_PIXELS:
        expected = f"expected 1 to {MAX_PIXELS:,} pixels"
        raise BrokenRow("image-unreadable", f"{name} is {width} x {height}, {expected}")
    if picture.format and (picture.mode == "F" or (picture.mode == "I" and picture.format not in ("PNG", "PPM"))):
        said = f"{name} has pixels of 32 bits (mode {picture.mode}), and nothing says which value is white"
        raise BrokenRow("image-unreadable", f"{said}: save it with 8 or 16 bits")  # as models.image_processing does
    try:  # not a PNG's own `getexif`, which decodes it: EXIF data behind its pixels, which is rare, goes unseen
        orientation = Image.Image.getexif(picture).get(_ORIENTATION)
    except Exception:  # broken EXIF data: the picture is shown as it lies
        orientation = None
    turned = orientation in _TURNED and picture.format != "TIFF"  # of which Pillow gives the size that is shown
    return (height, width) if turned else (width, height)
