"""What is a picture and what is not, each in one line; how one is turned, and made RGB."""

import io
import os
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from phantrol.models.image_processing import PhantrolImageProcessor, load_picture


def png(size=(8, 8)):
    buffer = io.BytesIO()
    Image.effect_noise(size, 50).convert("RGB").save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (None, "no such file"),
        (b"", "is empty: 0 bytes"),
        (b"this is a text", "is not a picture"),
        (png((64, 64))[:900], "is broken"),
        (png()[:20], "is not a picture|is broken"),
    ],
)
def test_broken_pictures_are_named(tmp_path, content, complaint):
    path = tmp_path / "holiday.png"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=f"picture .*holiday.png.*{complaint}|picture .*holiday.png {complaint}"):
        load_picture(path)


def test_a_pipe_is_not_a_missing_file(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(ValueError, match=r"pipe\.png is a pipe or a device: expected a file; save the picture first"):
        load_picture(tmp_path / "pipe.png")


def encoded(kind, exif, **options):
    buffer = io.BytesIO()
    Image.effect_noise((60, 20), 90).convert("RGB").save(buffer, kind, exif=exif, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("orientation", range(10))
def test_a_picture_is_turned_as_pillow_turns_it(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded("PNG", exif)
    found, lying = load_picture(data), Image.open(io.BytesIO(data))
    assert found.tobytes() == ImageOps.exif_transpose(lying).tobytes()
    assert (found.tobytes() == lying.tobytes()) == (orientation in (0, 1, 9))
    assert found.size == ((20, 60) if 5 <= orientation <= 8 else (60, 20))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_picture_that_was_loaded_is_not_turned_again(kind, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(kind, exif)
    once = load_picture(data)
    again = load_picture(once)
    assert (again.size, again.tobytes()) == (once.size, once.tobytes())
    processor = PhantrolImageProcessor(32)
    assert torch.equal(processor([once])["pixel_values"], processor([data])["pixel_values"])


@pytest.mark.parametrize(
    ("kind", "exif", "options"),
    [("PNG", b"II*\0", {}), ("JPEG", b"Exif\0\0II*\0", {"dpi": (72, 72)}), ("WEBP", b"Exif\0\0II*\0", {})],
)
def test_a_picture_with_broken_exif_is_used_as_it_lies(kind, exif, options):
    data = encoded(kind, exif, **options)
    assert load_picture(data).tobytes() == Image.open(io.BytesIO(data)).convert("RGB").tobytes()


def test_a_broken_tag_beside_the_orientation_turns_nothing_back():
    tags = [(0x0112, 3, 1, b"\6\0\0\0"), (0x011A, 2, 4, b"abc\0")]  # turned by 90°; a resolution that is a text
    exif = b"II*\0\x08\0\0\0\2\0" + b"".join(struct.pack("<HHI4s", *tag) for tag in tags) + bytes(4)
    assert load_picture(encoded("PNG", exif)).size == (20, 60)


@pytest.mark.parametrize("side", [20_000, 60_000])
def test_gigapixels_are_refused_before_they_are_decoded(tmp_path, side, monkeypatch):
    path = tmp_path / "bomb.png"
    header = Image.new("1", (1, 1))
    buffer = io.BytesIO()
    header.save(buffer, "PNG")
    data = bytearray(buffer.getvalue())
    data[16:24] = side.to_bytes(4, "big") * 2  # width and height of the header chunk
    import zlib

    data[29:33] = zlib.crc32(bytes(data[12:29])).to_bytes(4, "big")
    path.write_bytes(bytes(data))
    monkeypatch.setattr(Image.Image, "convert", lambda *a, **k: pytest.fail("decoded"))
    with pytest.raises(ValueError, match="too large"):
        load_picture(path)


@pytest.mark.parametrize("size", [(1, 1), (10_000, 1), (1, 10_000)])
@pytest.mark.parametrize("max_tiles", [1, 6])
def test_extreme_sizes_work(size, max_tiles):
    tiles = PhantrolImageProcessor(image_px=32, max_tiles=max_tiles)([Image.new("RGB", size, "blue")])
    assert tiles["pixel_values"].shape[1:] == (3, 32, 32)
    assert tiles["pixel_values"].shape[0] == tiles["num_tiles"][0]
    assert torch.isfinite(tiles["pixel_values"]).all()


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "CMYK", "I;16", "1"])
def test_every_mode_becomes_rgb(mode, tmp_path):
    assert load_picture(Image.new(mode, (5, 4))).mode == "RGB"


@pytest.mark.parametrize("suffix", ["png", "tiff", "pgm"])
def test_sixteen_bits_of_grey_keep_their_shades(suffix: str, tmp_path: Path):
    shades = np.array([[0, 255, 256, 32_768, 65_535]], dtype=np.uint16)
    path = tmp_path / f"grey.{suffix}"
    Image.fromarray(shades).save(path)
    assert np.asarray(load_picture(path))[0].tolist() == [[shade] * 3 for shade in (0, 0, 1, 128, 255)]
    Image.fromarray(shades.astype(np.int32)).save(tmp_path / "whole.tiff")  # whole numbers of no known range
    with pytest.raises(ValueError, match=r"32 bits .*nothing says which value is white: save it with 8 or 16 bits"):
        load_picture(tmp_path / "whole.tiff")


def test_a_file_that_cannot_be_read(tmp_path: Path):
    with pytest.raises(ValueError, match=r"picture a{300} cannot be read: .*too long; choose another file"):
        load_picture("a" * 300)


@pytest.mark.parametrize("source", ["https://a.b/c.png", "data:image/png;base64," + "A" * 5000])
def test_an_address_is_no_file(source):
    with pytest.raises(ValueError, match="is an address: expected a file on this machine; fetch it first") as refused:
        load_picture(source)
    assert len(str(refused.value)) < 400  # not the whole picture
