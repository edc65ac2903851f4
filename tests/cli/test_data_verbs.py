"""`phantrol data`: a contact sheet, exports, and what a user gets wrong about them."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import pytest
from PIL import Image

from phantrol.data.sources.primer import PrimerSource


@pytest.fixture
def empty(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_preview(empty, phantrol):
    done = phantrol("data", "preview", "--family", "count,objects", "--count", 2, "--size", 64, "--split", "test_style")
    assert done.code == 0 and "preview.png" in done.out, done.error
    with Image.open(empty / "preview.png") as sheet:
        assert sheet.width > 2 * 64


def test_export_and_check(empty, phantrol):
    done = phantrol("data", "export", "out", "--task", "shape", "--count", 3, "--size", 64, "--sprites", 64)
    assert done.code == 0 and "phantrol data check out" in done.out, done.error
    assert len(json.loads((empty / "out" / "llava.json").read_text())) == 3
    done = phantrol("data", "check", "out")
    assert done.code == 0 and "same samples" in done.out, done.error
    done = phantrol("data", "export", "again", "--like", "out", "--format", "triples")
    assert done.code == 0 and (empty / "again" / "data.parquet").is_file(), done.error


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["preview", "--family", "colours"], ["colours", "attributes"]),
        (["preview", "--task", "flying"], ["flying", "shape"]),
        (["preview", "--family", ","], ["families are empty", "for all"]),
        (["export", "out", "--task", " ,"], ["tasks are empty", "for all"]),
        (["preview", "--split", "tomorrow"], ["tomorrow", "val"]),
        (["preview", "--sprites", "nowhere"], ["nowhere", "folder of sprites"]),
        (["preview", "--sprites", "."], [". holds 0 stamps"]),
        (["preview", "--size", 20], ["20", "64"]),
        (["preview", "--family", "charts", "--size", 64], ["charts", "64 px"]),
        (["preview", "--out", "sheet.gif"], ["sheet.gif", ".png"]),
        (["preview", "--count", 0], ["--count"]),
        (["export", "out", "--family", "colours"], ["colours", "attributes"]),
        (["export", "out", "--split", "tomorrow"], ["tomorrow", "val"]),
        (["export", "out", "--format", "csv"], ["csv", "triples"]),
        (["export", "out", "--sprites", "nowhere"], ["nowhere"]),
        (["export", "out", "--like", "nowhere"], ["nowhere", "manifest"]),
        (["export", "out", "--like", "nowhere", "--split", "val", "--count", 5], ["--split, --count", "--like"]),
        (["check", "nowhere"], ["nowhere"]),
        (["export"], ["FOLDER"]),
        (["frobnicate"], ["frobnicate"]),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing(empty, phantrol, args, words):
    done = phantrol("data", *args)
    assert done.code == 2, (done.out, done.error)
    (complaint,) = done.error.strip().splitlines()
    assert complaint.startswith("phantrol: ")
    for word in words:
        assert word in complaint, complaint
    assert list(empty.iterdir()) == []


def test_a_file_where_a_folder_is_expected(empty, phantrol):
    (empty / "file.txt").write_text("mine")
    for args in (
        ["preview", "--out", "file.txt/a.png", "--family", "count"],
        ["export", "file.txt/out", "--task", "count"],
    ):
        done = phantrol("data", *args, "--count", 1, "--size", 64)
        assert done.code == 2 and "a folder is expected: file.txt" in done.error, (done.out, done.error)
        assert len(done.error.splitlines()) == 1
    assert (empty / "file.txt").read_text() == "mine" and len(list(empty.iterdir())) == 1


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="a place where no folder can be made, as on Linux")
@pytest.mark.parametrize("place", ["/proc/new/a.png", "/proc/a.png"])
def test_a_place_that_cannot_be_written(empty, phantrol, place):
    (empty / "mine.json").write_text(json.dumps([{"id": "1", "conversations": []}]))
    for args in (
        ["preview", "--out", place, "--family", "count", "--size", 64],
        ["export", place, "--task", "count", "--size", 64],
        ["check", "mine.json", "--fix", place],
    ):
        done = phantrol("data", *args)
        assert done.code == 2 and done.error.startswith(f"phantrol: {place} cannot be written, no "), done.error
        assert len(done.error.splitlines()) == 1


def test_a_place_without_permission(empty, phantrol, monkeypatch):
    def refuse(*args, **options):
        raise PermissionError(1, "Operation not permitted", "/sys/.a.writing")

    monkeypatch.setattr(tempfile, "mkdtemp", refuse)
    monkeypatch.setattr(PrimerSource, "draw", lambda *args: pytest.fail("it was drawn before"))
    done = phantrol("data", "export", "out", "--task", "count", "--size", 64)
    assert done.code == 2 and done.error == "phantrol: out cannot be written, no permission: choose another place\n"


def test_a_manifest_of_another_version(empty, phantrol):
    assert phantrol("data", "export", "out", "--task", "shape", "--count", 2, "--size", 64).code == 0
    path = empty / "out" / "manifest.json"
    path.write_text(path.read_text().replace('"version": ', '"version": 10'))
    for args in (["check", "out"], ["export", "again", "--like", "out"]):
        done = phantrol("data", *args)
        assert done.code == 2 and "here is primer" in done.error and len(done.error.splitlines()) == 1
    assert [path.name for path in empty.iterdir()] == ["out"]
