"""The contact sheet: every family, its pictures, and all that is said about them."""

from __future__ import annotations

import pytest
from PIL import Image, ImageDraw

from phantrol.data import preview
from phantrol.data.choosing import choose_source
from phantrol.data.preview import _broken, draw_preview, write_preview
from phantrol.data.primer.fonts import load_font
from phantrol.data.primer.generator import sample
from phantrol.data.primer.tasks import FAMILIES


@pytest.fixture
def written(monkeypatch):
    """All texts that are drawn."""
    texts = []
    real = ImageDraw.ImageDraw.text

    def text(self, at, said, *args, **kwargs):
        texts.append(said)
        return real(self, at, said, *args, **kwargs)

    monkeypatch.setattr(ImageDraw.ImageDraw, "text", text)
    return texts


def test_every_family_is_there_with_question_and_answers(written):
    draw_preview(choose_source(size_px=224), 1)
    assert [text.strip() for text in written if text.strip() in FAMILIES and text.endswith("   ")] == list(FAMILIES)
    assert sum(text.startswith("+ ") for text in written) == len(FAMILIES)
    assert sum(text.startswith("~ ") for text in written) == len(FAMILIES)


def test_pictures_stand_above_what_is_asked_about_them(written):
    source = choose_source(["attributes"], split="val", size_px=128)
    sheet = draw_preview(source, 5)
    cell = preview._cell_width(128)
    assert sheet.width == preview.COLUMNS * cell + preview.GAP_PX
    for i, left in ((0, preview.GAP_PX), (1, preview.GAP_PX + cell)):
        picture = sample("val", "attributes", i, 128).picture
        shown = sheet.crop((left + 1, preview.TITLE_PX + 1, left + 127, preview.TITLE_PX + 127))
        assert shown.tobytes() == picture.crop((1, 1, 127, 127)).tobytes()
    said = " ".join(written)
    for i in range(5):
        turn = sample("val", "attributes", i, 128).turns[0]
        assert turn.question in said.replace("  ", " ") and f"+ {turn.answer}" in written
        assert f"- {turn.rejected[0].text}" in written


def test_lines_fit_and_nothing_is_lost():
    text = "Which of these is it?\nA. a very long option that does not fit on one line\nB. no"
    lines = list(_broken(text, 120))
    font = load_font("aileron", preview.TEXT_PX)
    assert len(lines) > 4 and all(font.getlength(line) <= 120 for line in lines)
    assert " ".join(lines).split() == text.split()
    assert list(_broken("incomprehensibilities", 20)) == ["incomprehensibilities"]  # a word is never cut


def test_it_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    source = choose_source(["count"], size_px=64)
    out = write_preview(source, tmp_path / "new" / "sheet.png", 2)
    with Image.open(out) as sheet:
        assert sheet.format == "PNG" and sheet.width > 2 * 64
    before = out.read_bytes()

    def fail(self, path, *args):
        path.write_bytes(b"half")
        raise OSError("no room")

    monkeypatch.setattr(Image.Image, "save", fail)
    with pytest.raises(OSError, match="no room"):
        write_preview(source, out, 1)
    assert out.read_bytes() == before and [path.name for path in out.parent.iterdir()] == ["sheet.png"]


def test_bad_arguments(tmp_path):
    source = choose_source(["count"], size_px=64)
    for out in (tmp_path / "sheet.jpg", tmp_path):
        with pytest.raises(ValueError, match=r"expected the name of a \.png"):
            write_preview(source, out)
    with pytest.raises(ValueError, match="at least 1, got 0"):
        write_preview(source, tmp_path / "sheet.png", 0)
    assert list(tmp_path.iterdir()) == []
