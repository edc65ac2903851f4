"""Pictures of a request: from a data URI or an allowed host, to pixels, without trusting a byte of them."""

from __future__ import annotations

import base64
import io
import re
import warnings

from PIL import Image

from phantrol.models.image_processing import load_picture
from phantrol.serving.errors import Refusal
from phantrol.serving.fetching import Fetcher
from phantrol.serving.limits import Limits

FORMATS = ("PNG", "JPEG", "WEBP", "GIF")  # of Pillow's many: some of the others call other programs
DATA_URI = re.compile(
    r"data:image/[a-z0-9.+-]{1,40}(?:;[a-z0-9.+-]{1,40}=[^;,]{1,100}){0,4};base64,", re.IGNORECASE
)  # a type may have parameters, as charset=utf-8: they change no picture
SCAN = re.compile(rb"\xff\xda\x00[\x06-\x0e]")  # the head of a JPEG's scan: its marker, and its length
MAX_SCANS = 64  # a progressive file has about 10; each goes over all pixels anew, for as little as a dozen bytes
SPACE = b" \t\r\n\f\v"  # base64 is often broken into lines, as base64.encodebytes and the program base64 do
# of broken EXIF data, say: the log is no place for what clients send. Once for the process: `catch_warnings` is not for
# threads, of which several open pictures
warnings.filterwarnings("ignore", module=r"PIL\.")


async def picture_bytes(url: str, fetcher: Fetcher) -> bytes:
    """Return the file behind an image_url. Raises Refusal."""
    data = url.lstrip()
    if data[:5].lower() != "data:":
        return await fetcher.fetch(url)
    start = DATA_URI.match(data)
    if start is None:
        raise _refuse("a data URI of a picture: expected data:image/png;base64,...")
    try:
        return base64.b64decode(data[start.end() :].encode("ascii").translate(None, SPACE), validate=True)
    except ValueError:  # of binascii, or of letters beyond ASCII
        raise _refuse("the picture in a data URI is not base64") from None


def decode_picture(data: bytes, limits: Limits) -> Image.Image:
    """Return the pixels of a file. Raises Refusal; its size is looked at before anything is decoded."""
    try:
        picture = Image.open(io.BytesIO(data), formats=FORMATS)
    except Image.DecompressionBombError:
        raise _refuse(f"a picture is too large: expected at most {limits.image_pixels:,} pixels") from None
    except Exception:  # Pillow's readers raise whatever a broken file makes them
        raise _refuse(f"a picture cannot be read: expected {', '.join(FORMATS)}") from None
    width, height = picture.size
    if width * height > limits.image_pixels:
        raise _refuse(
            f"a picture is too large: {width} x {height} pixels, expected at most {limits.image_pixels:,}; "
            "make it smaller"
        )
    if picture.format in ("JPEG", "MPO") and sum(1 for _ in SCAN.finditer(data)) > MAX_SCANS:
        raise _refuse(f"a JPEG of too many scans: expected at most {MAX_SCANS}; save it anew")
    try:
        return load_picture(picture, limits.image_pixels)
    except Exception:
        raise _refuse("a picture is broken: it cannot be decoded") from None


def _refuse(message: str) -> Refusal:
    return Refusal(400, message, param="messages", code="invalid_image")
