"""What is written out can be read by others, stands for what it says, and is there whole or not at all."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from io import BytesIO

import pytest
from PIL import Image

from phantrol.data import export as export_module
from phantrol.data import manifest as manifest_module
from phantrol.data.choosing import choose_source
from phantrol.data.export import check, export, export_again
from phantrol.data.manifest import Digest, read_manifest
from phantrol.data.primer import generator
from phantrol.data.primer.tasks import FAMILIES, TASKS

COUNT = 12
pyarrow = pytest.importorskip("pyarrow")


@pytest.fixture(scope="module")
def source():
    return choose_source(tasks=["shape", "text_only"], size_px=64, questions_per_picture=2)


@pytest.fixture(scope="module")
def llava(source, tmp_path_factory):
    return export(source, tmp_path_factory.mktemp("exports") / "llava", "llava", COUNT)


def test_llava(source, llava):
    records = json.loads((llava / "llava.json").read_text("utf-8"))
    assert len(records) == COUNT
    pictured = 0
    for i, record in enumerate(records):
        name, drawn = source.draw(i)
        assert record["id"] == name
        said = [(part["from"], part["value"]) for part in record["conversations"]]
        assert [side for side, _ in said] == ["human", "gpt"] * len(drawn.turns)
        assert [text for _, text in said[1::2]] == [turn.answer for turn in drawn.turns]
        tags = [text.count("<image>") for _, text in said]
        assert sum(tags) == tags[0] == ("image" in record) == (drawn.picture is not None)
        assert said[0][1].removeprefix("<image>\n") == drawn.turns[0].question
        if "image" in record:
            pictured += 1
            with Image.open(llava / record["image"]) as picture:
                assert picture.tobytes() == drawn.picture.tobytes()
    assert 0 < pictured < COUNT
    assert {path.name for path in llava.iterdir()} == {"llava.json", "manifest.json", "images"}


def test_parquet_is_read_by_datasets(source, tmp_path):
    datasets = pytest.importorskip("datasets")
    out = export(source, tmp_path / "out", "parquet", COUNT)
    rows = datasets.load_dataset(
        "parquet", data_files=str(out / "data.parquet"), split="train", cache_dir=str(tmp_path / "cache")
    )
    assert rows.column_names == ["id", "images", "messages"] and len(rows) == COUNT
    for i, row in enumerate(rows):
        name, drawn = source.draw(i)
        assert row["id"] == name
        assert [message["content"] for message in row["messages"][1::2]] == [turn.answer for turn in drawn.turns]
        assert {message["role"] for message in row["messages"][::2]} == {"user"}
        assert [p.tobytes() for p in row["images"]] == [p.tobytes() for p in (drawn.picture,) if p is not None]


def test_triples(source, tmp_path):
    out = export(source, tmp_path / "out", "triples", COUNT)
    table = pyarrow.parquet.read_table(out / "data.parquet")
    assert table.column_names == ["id", "images", "prompt", "chosen", "rejected", "rejected_type"]
    image = table.schema.field("images").type.value_type
    assert [(field.name, str(field.type)) for field in image] == [("bytes", "binary"), ("path", "string")]
    rows = table.to_pylist()
    expected = [
        (turn.question, turn.answer, wrong.text, wrong.kind)
        for i in range(COUNT)
        for turn in source.draw(i)[1].turns
        for wrong in turn.rejected
    ]
    found = [
        (*(row[column][0]["content"] for column in ("prompt", "chosen", "rejected")), row["rejected_type"])
        for row in rows
    ]
    assert found == expected
    assert {row["rejected_type"] for row in rows} == {"incorrect", "ambiguous"}
    assert {row[c][0]["role"] for row in rows for c in ("chosen", "rejected")} == {"assistant"}
    first = next(row for row in rows if row["images"])
    with Image.open(BytesIO(first["images"][0]["bytes"])) as picture:
        assert picture.size == (64, 64)


# -- the manifest


def test_the_manifest_leads_back_to_the_source(source, llava):
    manifest, found = read_manifest(llava)
    assert found == source and manifest["pictures"] == COUNT and manifest["format"] == "llava"
    assert set(manifest["made_by"]) == {"phantrol", "pillow", "freetype"}
    assert check(llava) == ""


def test_another_process_draws_the_same(llava):
    code = f"from pathlib import Path; from phantrol.data.export import check; print(repr(check(Path({str(llava)!r}))))"
    env = os.environ | {"PYTHONHASHSEED": "7"}
    ran = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "''"


def test_what_a_manifest_tells_of_can_be_drawn_again(llava, tmp_path):
    again = export_again(llava / "manifest.json", tmp_path / "again")
    assert (again / "llava.json").read_bytes() == (llava / "llava.json").read_bytes()
    assert (again / "manifest.json").read_bytes() == (llava / "manifest.json").read_bytes()
    other = export_again(llava, tmp_path / "other", "parquet")
    assert read_manifest(other)[0]["specs_sha256"] == read_manifest(llava)[0]["specs_sha256"]


def _spoil(llava, tmp_path, **changes):
    manifest = json.loads((llava / "manifest.json").read_text("utf-8")) | changes
    spoilt = tmp_path / "spoilt"
    spoilt.mkdir()
    (spoilt / "manifest.json").write_text(json.dumps(manifest), "utf-8")
    (spoilt / "llava.json").write_bytes((llava / "llava.json").read_bytes())
    shutil.copytree(llava / "images", spoilt / "images")
    return spoilt


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"version": 1}, r"written by primer 1, here is primer \d+.*export again"),
        ({"generator": 3}, "is of the generator 3, expected 'primer': it is no export of phantrol"),
        ({"specs_sha256": "0" * 64}, r"draws other samples.*expected 000000000000"),
        ({"source": {"wings": 2}}, "asks for wings"),
        ({"source": 3}, "lacks a source"),
        ({"source": {"size_px": "large"}}, "another kind than was written"),
        ({"source": {"tasks": 5}}, "another kind than was written"),
        ({"source": {"sprites": [1]}}, "another kind than was written"),
        ({"pictures": "many"}, "another kind than was written"),
        ({"source": {"pictures": 10**30}}, "another kind than was written"),
        ({"specs_sha256": 3}, "another kind than was written"),
        ({"pixels_sha256": None}, "another kind than was written"),
        ({"made_by": ["phantrol"], "specs_sha256": "0" * 64}, "another kind than was written"),
        ({"file": {"name": 5, "sha256": "0" * 64}}, "another kind than was written"),
        ({"pictures": 2.5}, r"pictures must be a whole number.*got 2\.5"),
        ({"pictures": 10**18}, "pictures must be a whole number of 1 to 1,000,000,000"),
        ({"file": {"name": "llava.json", "sha256": "0" * 64}}, r"llava\.json is missing or was changed"),
        ({"file": {"name": "gone.json", "sha256": "0" * 64}}, r"gone\.json is missing"),
    ],
)
def test_a_manifest_that_does_not_match_is_a_hard_error(llava, tmp_path, changes, words):
    spoilt = _spoil(llava, tmp_path, **changes)
    with pytest.raises(ValueError, match=words):
        check(spoilt)
    if "file" not in changes:
        with pytest.raises(ValueError, match=words):
            export_again(spoilt, tmp_path / "out")
        assert {path.name for path in tmp_path.iterdir()} == {"spoilt"}


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda first, second: second.unlink(), "is missing"),
        (lambda first, second: os.truncate(second, 90), "is broken"),
        (lambda first, second: shutil.copy(first, second), "was changed"),
        (lambda first, second: Image.open(second).convert("L").save(second), "was changed"),
    ],
)
def test_a_picture_that_is_no_longer_what_was_written_is_named(llava, tmp_path, spoil, words):
    spoilt = _spoil(llava, tmp_path)
    first, second = sorted((spoilt / "images").rglob("*.png"))[:2]
    spoil(first, second)
    for named in (spoilt, spoilt / "manifest.json"):
        with pytest.raises(ValueError, match=f"{second} {words}.*: export again"):
            check(named)


def test_a_changed_picture_shows_where_letters_are_drawn_otherwise_too(llava, tmp_path, monkeypatch):
    """Each picture that was written differs then from one that is drawn, yet all of them are what was written."""
    spoilt, draw = _spoil(llava, tmp_path), generator.draw
    monkeypatch.setattr(generator, "draw", lambda scene, size_px: draw(scene, size_px).rotate(90))
    assert "other pixels" in check(spoilt)
    first, second = sorted((spoilt / "images").rglob("*.png"))[:2]
    shutil.copy(first, second)
    with pytest.raises(ValueError, match=rf"{first}, or one of the \d+ that differ after it, was changed"):
        check(spoilt)


def test_other_pixels_are_only_a_remark(llava, tmp_path):
    spoilt = _spoil(llava, tmp_path, pixels_sha256="0" * 64, made_by={"pillow": "1.0", "freetype": "2.0"})
    assert "other pixels" in check(spoilt) and "1.0" in check(spoilt)


@pytest.mark.parametrize(("text", "words"), [(None, "no manifest"), ("{", "broken"), ("[]", "lacks"), ("{}", "lacks")])
def test_what_is_no_manifest_is_named(tmp_path, text, words):
    if text is not None:
        (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(ValueError, match=words):
        check(tmp_path)


def test_the_specs_hold_what_is_drawn_as_well_as_what_is_said(source):
    def digest(drawn):
        digest = Digest()
        digest.add("name", drawn)
        return digest.as_dict()

    _, drawn = source.draw(0)
    moved = replace(drawn, scene=replace(drawn.scene, paint_seed=1))
    reworded = replace(drawn, turns=(replace(drawn.turns[0], answer="else"), *drawn.turns[1:]))
    painted = replace(drawn, picture=Image.new("RGB", drawn.picture.size))
    assert digest(drawn) == digest(drawn)
    for other in (moved, reworded):
        assert digest(other)["specs_sha256"] != digest(drawn)["specs_sha256"]
        assert digest(other)["pixels_sha256"] == digest(drawn)["pixels_sha256"]
    assert digest(painted)["specs_sha256"] == digest(drawn)["specs_sha256"]
    assert digest(painted)["pixels_sha256"] != digest(drawn)["pixels_sha256"]


@pytest.mark.parametrize("family", FAMILIES)
def test_the_specs_of_every_family_are_plain_values(family):
    """A set or an object without a text of its own would give another digest in every process."""
    source = choose_source([family], size_px=224, questions_per_picture=1)
    for i in range(4):
        text = repr(source.draw(i)[1].scene)
        assert " at 0x" not in text and "{'" not in text


# -- whole or not at all


def test_a_write_that_fails_leaves_nothing(source, tmp_path, monkeypatch):
    def fail(self, index):
        if index == 5:
            raise OSError("no room")
        return draw(self, index)

    draw = type(source).draw
    monkeypatch.setattr(type(source), "draw", fail)
    for form in export_module.FORMATS:
        with pytest.raises(OSError, match="no room"):
            export(source, tmp_path / "out", form, COUNT)
        assert list(tmp_path.iterdir()) == []


def test_an_empty_folder_is_taken_and_a_full_one_refused(source, tmp_path):
    (tmp_path / "out").mkdir()
    export(source, tmp_path / "out", "llava", 1)
    with pytest.raises(ValueError, match="in use"):
        export(source, tmp_path / "out", "llava", 1)
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="in use"):
        export(source, tmp_path / "file", "llava", 1)
    assert {path.name for path in tmp_path.iterdir()} == {"out", "file"}


def test_bad_arguments_and_a_missing_package(source, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"'csv'.*llava, parquet, triples"):
        export(source, tmp_path / "out", "csv", 1)
    with pytest.raises(ValueError, match=r"1 to .* got 0"):
        export(source, tmp_path / "out", "llava", 0)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ValueError, match=r"pip install 'phantrol\[data\]'"):
        export(source, tmp_path / "out", "triples", 1)
    assert list(tmp_path.iterdir()) == []


# -- what a user chooses


def test_choosing():
    assert choose_source().tasks is None
    source = choose_source(["attributes,count"], size_px=64)
    assert {TASKS[name].family for name, _ in source.tasks} == {"attributes", "count"} and not source.captions
    assert dict(choose_source(tasks=["shape, count"]).tasks).keys() == {"shape", "count"}
    assert choose_source(["captions"]).captions
    for options, words in (
        (dict(families=["colours"]), "unknown Primer family colours: use some of attributes"),
        (dict(tasks=["colours_"]), "unknown Primer tasks: colours_"),
        (dict(families=["count"], tasks=["shape"]), "name one of them"),
        (dict(families=["charts"], size_px=64), "64 px asks no charts: it has attributes"),
        (dict(families=["text_only"], split="test_comp"), "test_comp .*asks no text_only"),
        (dict(split="exam"), "exam"),
    ):
        with pytest.raises(ValueError, match=words):
            choose_source(**options)


def test_versions_are_those_of_this_place():
    assert manifest_module._drawing_by()["pillow"] == Image.__version__
