"""Pictures of a row: where in the conversation they stand, and what is seen of a file before it is opened."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageFile

from phantrol.data.broken import BrokenRow
from phantrol.data.layouts import read_draft
from phantrol.data.pictures import open_reference, picture_size, place
from phantrol.models.image_processing import load_picture


def test_numbered_pictures_go_where_their_number_is_first(pictures):
    row = {"images": ["red.png", "green.jpg"], "question": "<image2> or <image1>? Not <image2>.", "answer": "red"}
    messages = place(read_draft(row), pictures)
    assert messages[0].parts == (pictures / "green.jpg", "or", pictures / "red.png", "? Not", "<image2>", ".")


def test_a_placeholder_in_an_answer_is_text(pictures):
    row = {"question": "How does HTML show pictures?", "answer": "Not with <image>."}
    assert place(read_draft(row), pictures)[1].parts == ("Not with <image>.",)


def test_a_number_of_thousands_of_digits_is_text(pictures):
    asked = f"<image{'9' * 5000}> or <image1>?"
    row = {"images": ["red.png"], "question": asked, "answer": "red"}
    assert place(read_draft(row), pictures)[0].parts == (asked.partition(" <")[0], pictures / "red.png", "?")


def test_what_is_wrong_with_a_file_shows_in_its_size(pictures):
    (pictures / "empty.png").touch()
    (pictures / "junk.png").write_bytes(b"junk")
    reasons = {}
    for name in ("nowhere.png", "empty.png", "junk.png", "deep", "x" * 5000, "red.png\0"):
        with pytest.raises(BrokenRow) as met:
            picture_size(open_reference(name, pictures))
        reasons[name[:12]] = met.value.reason
    assert reasons == {
        "nowhere.png": "image-missing", "empty.png": "image-unreadable", "junk.png": "image-unreadable",
        "deep": "image-missing", "x" * 12: "image-unreadable", "red.png\0": "image-unreadable",
    }  # fmt: skip
    assert picture_size(pictures / "green.jpg") == (64, 20)


def test_a_picture_that_lies_on_its_side_has_the_size_that_is_shown(pictures):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (60, 20)).save(pictures / "turned.jpg", exif=exif)
    assert picture_size(pictures / "turned.jpg") == (20, 60)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "MPO"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_size_of_a_picture_is_the_one_that_a_model_sees(pictures, kind, orientation, monkeypatch):
    """Of all that `load_picture` turns, the several pictures in one file of a telephone among them."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    several = {"save_all": True, "append_images": [Image.new("RGB", (60, 20), "red")]} if kind == "MPO" else {}
    path = pictures / "turned"
    Image.new("RGB", (60, 20)).save(path, kind, exif=exif, **several)
    with Image.open(path) as opened:
        assert opened.format == kind
    seen = load_picture(path).size
    assert seen == ((20, 60) if orientation >= 5 else (60, 20))
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda picture: pytest.fail("decoded"))
    assert picture_size(path) == seen


@pytest.mark.parametrize(
    ("name", "mode"),
    [("a.tif", "F"), ("a.tif", "I"), ("a.pfm", "F"), ("a.tif", "I;16"), ("a.png", "I;16"), ("a.pgm", "I")],
)
def test_pixels_of_32_bits_are_refused_by_check_and_training(name, mode, pictures):
    """Pillow makes them all white or all black; 16 bits are read."""
    path = pictures / name
    values = np.linspace(0, 60000, 48).reshape(6, 8)
    Image.fromarray(values.astype({"F": np.float32, "I": np.int32, "I;16": np.uint16}[mode])).save(path)
    with Image.open(path) as opened:
        assert opened.mode == mode
    if mode == "I;16" or name == "a.pgm":
        assert picture_size(path) == load_picture(path).size == (8, 6) and len(load_picture(path).getcolors()) > 10
        return
    for picture in (path, open_reference({"bytes": path.read_bytes()}, pictures)):
        with pytest.raises(BrokenRow, match=rf"of 32 bits \(mode {mode}\).*save it with 8 or 16 bits") as met:
            picture_size(picture)
        assert met.value.reason == "image-unreadable"
        with pytest.raises(ValueError, match=rf"of 32 bits \(mode {mode}\).*save it with 8 or 16 bits"):
            load_picture(picture)
