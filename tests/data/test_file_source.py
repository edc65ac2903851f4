"""Files of every format, read as a mixture reads them; and what happens to files that are cut, changed or hostile."""

from __future__ import annotations

import io
import json
import os
import pickle
from dataclasses import replace

import pytest
from PIL import Image

from phantrol.data.broken import BrokenRow
from phantrol.data.fixing import BROKEN
from phantrol.data.mixture import Groups, Mixture
from phantrol.data.rows import json_rows, parquet_rows
from phantrol.data.rows.opening import find_files
from phantrol.data.sources.file import FileSource
from phantrol.data.triples.making import failed_path, journal_path
from phantrol.find import find
from phantrol.training.recipe_json import _read, _written


def png(size=(8, 6), color="red") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, color).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def rows(llava):
    """Seven rows, each third without a picture."""
    return [
        llava(
            str(i),
            None if i % 3 == 2 else "red.png",
            f"Wie heißt {i}?" if i % 3 == 2 else f"<image>\nColor {i}?",
            f"é{i}",
        )
        for i in range(7)
    ]


def answers(source) -> list[str]:
    return [source[i][0].messages[-1].text for i in range(len(source))]


@pytest.mark.parametrize("name", ["a.json", "a.jsonl", "a.parquet", "a_folder"])
def test_every_format_gives_the_same(name, rows, write, pictures):
    source = FileSource(write(name, rows), images=pictures)
    assert len(source) == 7 and answers(source) == [f"é{i}" for i in range(7)]
    (first,), (third,) = source[0], source[2]
    assert first.messages[0].parts == (pictures / "red.png", "Color 0?")
    assert third.messages[0].parts == ("Wie heißt 2?",)
    assert len({source[i][0].id for i in range(7)}) == 7 and name.split(".")[0] in first.id
    with pytest.raises(IndexError):
        source[7]


@pytest.mark.parametrize("name", ["a.parquet", "a_folder"])
def test_embedded_pictures(name, write, llava):
    image = [{"bytes": png((8, 6)), "path": "there.png"}, {"bytes": None, "path": "beside.png"}]
    path = write(name, [llava(str(i)) | {"image": each} for i, each in enumerate(image)])
    Image.new("RGB", (3, 9)).save(path.parent / "beside.png")
    source = FileSource(path)
    embedded, beside = (source[i][0].messages[0].pictures[0] for i in range(2))
    assert embedded.size == (8, 6) and embedded.convert("RGB").getpixel((0, 0)) == (255, 0, 0)
    assert beside == path.parent / "beside.png"


def test_a_folder_of_datasets_with_the_image_feature(tmp_path, llava):
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        {"images": [datasets.Image()], "prompt": datasets.Value("string"), "chosen": datasets.Value("string"),
         "rejected": datasets.Value("string")}
    )  # fmt: skip
    row = {"images": [Image.new("RGB", (8, 6), "red")], "prompt": "What?", "chosen": "red", "rejected": "blue"}
    datasets.Dataset.from_list([row, row], features=features).save_to_disk(tmp_path / "d")
    (example,) = FileSource(tmp_path / "d")[1]
    assert example.messages[0].pictures[0].size == (8, 6) and example.rejected[0].text == "blue"
    datasets.DatasetDict(train=datasets.Dataset.from_list([{"a": 1}])).save_to_disk(tmp_path / "splits")
    with pytest.raises(ValueError, match=r"holds the splits train: name one, such as .*train"):
        len(FileSource(tmp_path / "splits"))


def test_an_image_of_the_export_is_found_beside_the_file(tmp_path):
    from phantrol.data.export import export
    from phantrol.data.sources.primer import PrimerSource

    primer = PrimerSource(tasks={"shape": 1.0}, captions=False)
    export(primer, tmp_path / "out", "llava", 2)
    source = FileSource(tmp_path / "out")  # the manifest beside it is no data
    assert len(source) == 2
    (example,) = source[0]
    assert example.messages[0].pictures[0].is_file()
    assert example.messages[-1].text == primer[0][-1].messages[-1].text


def test_several_files_one_after_the_other(write, rows, pictures, tmp_path):
    write("b2.json", rows[:3]), write("b1.jsonl", rows[3:])
    for path in (tmp_path, tmp_path / "b*.json*", str(tmp_path / "b?.json*")):
        assert answers(FileSource(path, images=pictures)) == ["é3", "é4", "é5", "é6", "é0", "é1", "é2"]
    kept = FileSource(tmp_path, images=pictures, start=2, stop=5)
    assert answers(kept) == ["é5", "é6", "é0"]
    assert answers(FileSource(tmp_path, start=5, stop=99)) == ["é1", "é2"]
    with pytest.raises(ValueError, match="start and stop: got 3 and 3"):
        FileSource(tmp_path, start=3, stop=3)


def test_a_byte_order_mark_blank_lines_and_windows_line_ends(write, rows):
    lines = [json.dumps(row).encode() for row in rows]
    assert answers(FileSource(write("a.jsonl", b"\xef\xbb\xbf" + b"\r\n\r\n".join(lines)))) == [
        f"é{i}" for i in range(7)
    ]
    array = write("a.json", b"\xef\xbb\xbf" + json.dumps(rows).encode())
    assert answers(FileSource(array)) == [f"é{i}" for i in range(7)]
    assert answers(FileSource(write("lines.json", b"\n".join(lines)))) == [f"é{i}" for i in range(7)]  # misnamed


def test_rows_that_cannot_be_read_name_file_and_row(write, llava):
    good = json.dumps(llava("a", asked="What?")).encode()
    half = good.replace(b"red", b"\\ud83d")
    path = write(
        "a.jsonl", b"\n".join([good, b"{nope}", good.replace(b"red", b"r\xe9d"), b"", half, b"[" * 100_000, good])
    )
    source, met = FileSource(path), {}
    for index in range(len(source)):
        try:
            source[index]
        except BrokenRow as error:
            met[index] = (error.reason, str(error).partition(": ")[0])
    assert met == {
        1: ("bad-json", "a.jsonl, line 2"), 2: ("bad-utf8", "a.jsonl, line 3"),
        3: ("bad-utf8", "a.jsonl, line 5"), 4: ("bad-json", "a.jsonl, line 6"),
    }  # fmt: skip
    array = FileSource(write("a.json", b"[" + good + b",\n{nope},\n" + good + b"]"))
    assert len(array) == 3 and array[2][0].messages[-1].text == "red"
    with pytest.raises(BrokenRow, match=r"^a.json\[1\]: not JSON: Expecting property name"):
        array[1]


@pytest.mark.parametrize(
    ("name", "data", "complaint"),
    [
        ("a.json", b'[{"a": 1}, {"b"', "does not end; the file stops inside line 1; copy it again, or .*--fix"),
        ("a.json", b"", "is empty: 0 bytes"),
        ("a.json", '[{"a": 1}]'.encode("utf-16"), "got UTF-16, expected UTF-8"),
        ("a.parquet", b"PAR1 not really", "is no Parquet file, or was cut off"),
        ("a.csv", b"a,b", "got a name that ends in '.csv', expected .json"),
        ("a.json.gz", b"a", "is packed, and its rows cannot be reached one by one: unpack it first$"),
        ("a.tar", b"a", 'is packed, .*: unpack it and write one JSON line a row, with its "image"$'),
        ("a.tar.gz", b"a", 'is packed, .*: unpack it and write one JSON line a row, with its "image"$'),
    ],
)
def test_files_that_cannot_be_read(name, data, complaint, write):
    source = FileSource(write(name, data))  # making one opens nothing
    with pytest.raises(ValueError, match=complaint):
        len(source)


def test_files_that_are_not_there(tmp_path):
    with pytest.raises(ValueError, match=r"no file .*nowhere.json: expected .json"):
        len(FileSource(tmp_path / "nowhere.json"))
    with pytest.raises(ValueError, match=r"no file .*\*.json"):
        len(FileSource(tmp_path / "*.json"))
    with pytest.raises(ValueError, match="has no data in it"):
        len(FileSource(tmp_path))


def test_a_folder_of_images_that_is_not_there(write, rows, tmp_path):
    for name, fault in (("nope", "no such folder"), ("a.jsonl", "is a file")):
        source = FileSource(write("a.jsonl", rows), images=tmp_path / name)
        for ask in (len, lambda source: source[0], lambda source: len(replace(source, together=2))):
            with pytest.raises(ValueError, match=rf"^images .*{name}: {fault}, expected the folder that paths of"):
                ask(source)


def test_the_index_is_built_once_and_again_when_the_file_has_changed(write, rows, monkeypatch, own_cache):
    path, scans = write("a.jsonl", rows), []
    scan = json_rows.Scan
    monkeypatch.setattr(json_rows, "Scan", lambda file: scans.append(1) or scan(file))
    for _ in range(3):
        assert len(FileSource(path)) == 7
    assert len(scans) == 1
    write("a.jsonl", rows[:4])
    os.utime(path, ns=(1, 1))
    assert answers(FileSource(path)) == ["é0", "é1", "é2", "é3"] and len(scans) == 2
    assert len(list(own_cache.rglob("*.index"))) == 1  # the stale one is gone
    for told in own_cache.rglob("*.json"):
        told.write_text("{broken")
    assert len(FileSource(path)) == 4 and len(scans) == 3


def test_without_a_place_for_the_index_it_is_held_in_memory(write, rows, monkeypatch, tmp_path, caplog):
    (tmp_path / "a file").touch()
    monkeypatch.setenv("PHANTROL_CACHE", str(tmp_path / "a file"))
    assert answers(FileSource(write("a.jsonl", rows))) == [f"é{i}" for i in range(7)]
    assert "cannot be written" in caplog.text


def test_large_row_groups_are_written_again_as_small_ones(write, llava, monkeypatch, own_cache):
    path = write("a.parquet", [llava(str(i), asked="What?", answer=f"a{i}") for i in range(500)])
    assert parquet_rows.ParquetRows(path)._read_from == path
    monkeypatch.setattr(parquet_rows, "GROUP_ROWS", 100)
    source = FileSource(path)
    assert [source[i][0].messages[-1].text for i in (499, 0, 63, 64, 250)] == ["a499", "a0", "a63", "a64", "a250"]
    (again,) = own_cache.rglob("*.parquet")
    groups = parquet_rows.open_parquet(again).metadata
    assert groups.num_rows == 500 and groups.row_group(0).num_rows == parquet_rows.ROWS_AT_ONCE
    assert source[7][0].id == "a.parquet[7]"  # named by the file that the user knows


def test_a_source_goes_through_pickle_and_recipes(write, rows, pictures):
    assert find("sources", "file") is FileSource
    for name in ("a.jsonl", "a.parquet"):
        source = FileSource(str(write(name, rows)), images=str(pictures), fields={"answer": "antwort"})
        assert answers(pickle.loads(pickle.dumps(source))) == answers(source)
        assert _read(_written(source, "source")) == source


def test_a_mixture_shuffles_each_epoch_and_begins_anywhere(write, rows, pictures):
    def mixture():
        lines = FileSource(write("a.jsonl", rows), images=pictures)
        return Mixture(((2.0, lines), (1.0, FileSource(write("b.parquet", rows[:3]), images=pictures))))

    def ids(groups, start, stop):
        return [groups[i][0].id for i in range(start, stop)]

    whole = ids(Groups(mixture(), 5, 63), 0, 63)
    assert ids(Groups(mixture(), 5, 63), 40, 63) == whole[40:]
    lines = [name for name in whole if name.startswith("a.jsonl")]
    epochs = [lines[i : i + 7] for i in range(0, 42, 7)]
    assert all(len(set(epoch)) == 7 for epoch in epochs) and len({tuple(epoch) for epoch in epochs}) > 1
    assert ids(Groups(mixture(), 6, 63), 0, 63) != whole


def test_what_only_tells_of_data_is_left_out_of_folders_and_patterns(write, rows, tmp_path):
    out = write("out.jsonl", rows)
    write("mine.failed.jsonl", rows), write("train.json", rows)
    of_parquet = out.with_suffix(".parquet")
    tell = [tmp_path / name for name in ("manifest.json", BROKEN)]
    tell += [path(each) for path in (journal_path, failed_path) for each in (out, of_parquet)]
    for path in tell:
        path.write_text('{"reason": "not JSON"}\n')
    for path in (tmp_path, tmp_path / "*", tmp_path / "*.json*"):
        assert [file.name for file in find_files(path)] == ["mine.failed.jsonl", "out.jsonl", "train.json"]
    for path in tell:
        assert find_files(path) == [path]  # by its own name it is data like any other
    with pytest.raises(ValueError, match=r"no file .*broken\*: expected"):
        find_files(tmp_path / "broken*")


def test_a_packed_file_is_not_left_out_of_a_folder_silently(write, rows, tmp_path):
    whole = write("a.jsonl", rows)
    for name in ("a.jsonl.gz", "photos.zip", "manifest.json.gz", "notes.txt.gz"):  # what is in them is here, or no data
        write(name, b"packed")
    assert find_files(tmp_path) == [whole]
    write("b.jsonl.gz", b"packed")
    with pytest.raises(ValueError, match=r"b\.jsonl\.gz is packed, and its rows cannot .*: unpack it first"):
        find_files(tmp_path)


def test_a_text_of_arrow_that_is_no_utf8_is_one_broken_row(tmp_path):
    datasets, pyarrow = pytest.importorskip("datasets"), pytest.importorskip("pyarrow")
    said = pyarrow.array([b"red", b"r\xe9d", b"blue"], pyarrow.binary()).view(pyarrow.string())
    table = pyarrow.table({"question": ["What?"] * 3, "answer": said})
    datasets.Dataset(datasets.table.InMemoryTable(table)).save_to_disk(tmp_path / "d")
    source = FileSource(tmp_path / "d")
    assert [source[i][0].messages[-1].text for i in (0, 2)] == ["red", "blue"]
    with pytest.raises(BrokenRow, match=r"^d\[1\]: it cannot be read: .*0xe9") as met:
        source[1]
    assert met.value.reason == "bad-utf8"
