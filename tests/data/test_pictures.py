"""Pictures of a row: where in the conversation they stand, and what is seen of a file before it is opened."""

from __future__ import annotations

import pytest
from PIL import Image

from phantrol.data.broken import BrokenRow
from phantrol.data.layouts import read_draft
from phantrol.data.pictures import open_reference, picture_size, place


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
