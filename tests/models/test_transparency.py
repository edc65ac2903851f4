"""What is transparent in a picture is white, and nothing else of it changes."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from phantrol.models.image_processing import load_picture

DRAWING = np.zeros((4, 4), dtype=np.uint8)  # black, on a ground that is black where it can be seen through
DRAWN = np.full((4, 4), 255, dtype=np.uint8)
DRAWN[1:3, 1:3] = 0  # what remains of it on white
CLEAR = Image.fromarray(np.dstack([DRAWING] * 3 + [255 - DRAWN]))


def keyed(mode: str, shade: int, key: int | bytes | tuple[int, ...]) -> bytes:
    """A PNG of that drawing whose transparent colour is a shade of its own."""
    ground = Image.fromarray(np.where(DRAWN == 255, shade, 0).astype(np.uint16 if mode == "I;16" else np.uint8))
    buffer = io.BytesIO()
    (ground if mode in ("L", "I;16") else ground.convert(mode)).save(buffer, "PNG", transparency=key)
    return buffer.getvalue()


def keyed_rgb16(key: tuple[int, int, int]) -> bytes:
    """The same with 16 bits of each channel, which Pillow reads and does not write."""
    shade = np.where(DRAWN[:, :, None] == 255, key, 0).astype(">u2")
    lines = b"".join(b"\0" + line.tobytes() for line in shade)
    parts = {
        b"IHDR": struct.pack(">IIBBBBB", 4, 4, 16, 2, 0, 0, 0),
        b"tRNS": struct.pack(">HHH", *key),
        b"IDAT": zlib.compress(lines),
        b"IEND": b"",
    }
    check = {name: struct.pack(">I", zlib.crc32(name + data)) for name, data in parts.items()}
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + check[name] for name, data in parts.items()
    )


def palette_with_alpha() -> Image.Image:
    picture = CLEAR.convert("PA")
    picture.putalpha(CLEAR.getchannel("A"))  # before Pillow 13 it is lost on the way
    return picture


@pytest.mark.parametrize(
    "picture",
    [
        *(CLEAR.convert(mode) for mode in ("RGBA", "RGBa", "LA")),
        palette_with_alpha(),
        CLEAR.convert("LA").convert("La"),
        keyed("L", 7, 7),
        keyed("RGB", 7, (7, 7, 7)),
        keyed("P", 7, 7),
        keyed("P", 7, bytes([255] * 7 + [0])),
        keyed("I;16", 0x0107, 0x0107),
        keyed_rgb16((0x0107, 0x0203, 0xFFFF)),
    ],
    ids=["RGBA", "RGBa", "LA", "PA", "La", "L", "RGB", "P", "P of bytes", "I;16", "RGB;16"],
)
def test_what_is_transparent_lies_on_white(picture: Image.Image | bytes):
    assert np.array_equal(np.asarray(load_picture(picture)), np.dstack([DRAWN] * 3))


def test_the_info_of_a_picture_that_was_handed_in_stays():
    picture = Image.open(io.BytesIO(keyed_rgb16((300, 0, 0))))
    load_picture(picture)
    assert picture.info["transparency"] == (300, 0, 0)


def test_half_transparent_and_turned():
    half, exif = CLEAR.resize((8, 4)), Image.Exif()
    half.putalpha(51)  # a fifth
    exif[0x0112] = 6
    buffer = io.BytesIO()
    half.save(buffer, "PNG", exif=exif)
    assert load_picture(buffer.getvalue()).getcolors() == [(32, (204, 204, 204))]
    assert load_picture(buffer.getvalue()).size == (4, 8)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "P", "PA", "1", "CMYK", "YCbCr", "HSV", "F"])
def test_opaque_pictures_keep_their_bits(mode: str):
    red, green = np.meshgrid(np.arange(256), np.arange(256))
    picture = Image.fromarray(np.dstack([red, green, red ^ green]).astype(np.uint8)).convert(mode)
    assert load_picture(picture).tobytes() == picture.convert("RGB").tobytes()
