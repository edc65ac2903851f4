"""Where rows begin and end: held against json itself on random and hostile texts, in chunks that cut them anywhere."""

from __future__ import annotations

import io
import json
from random import Random

import numpy as np
import pytest

from phantrol.data.rows import json_rows, scanning
from phantrol.data.rows.json_rows import JsonRows
from phantrol.data.rows.scanning import Scan

PIECES = ["a", '"', "\\", "{", "}", "[", "]", ",", "\n", " ", "é", "😀", "\t", '\\"', "\\\\", ":"]


def found(data: bytes) -> tuple[Scan, list[list[int]]]:
    scan = Scan(io.BytesIO(data))
    parts = [np.zeros((0, 3), np.int64), *scan]
    return scan, np.concatenate(parts).tolist()


def text(random: Random) -> str:
    return "".join(random.choice(PIECES) for _ in range(random.randrange(12)))


def thing(random: Random, depth: int = 0):
    kind = random.randrange(5 if depth < 3 else 2)
    if kind <= 1:
        return random.choice([text(random), 1, 2.5, None, True])
    if kind == 2:
        return [thing(random, depth + 1) for _ in range(random.randrange(4))]
    return {text(random): thing(random, depth + 1) for _ in range(random.randrange(4))}


@pytest.fixture(params=[1, 2, 3, 7, 64, 1 << 20])
def chunk_bytes(request, monkeypatch):
    monkeypatch.setattr(scanning, "CHUNK_BYTES", request.param)
    return request.param


def test_arrays(chunk_bytes):
    random = Random(chunk_bytes)
    for _ in range(150):
        rows = [thing(random) for _ in range(random.randrange(5))]
        data = json.dumps(rows, indent=random.choice([None, 1]), ensure_ascii=random.random() < 0.5).encode()
        data = random.choice([b"", b"\xef\xbb\xbf", b" \n"]) + data + random.choice([b"", b"\n \n"])
        scan, places = found(data)
        assert scan.is_array and not scan.fault
        assert [json.loads(data[begin:end]) for begin, end, _ in places] == rows
        for begin, _, line in places:
            assert line == data[:begin].count(b"\n") + 1


def test_lines(chunk_bytes):
    random = Random(chunk_bytes)
    for _ in range(150):
        rows, data, lines = [{"x": thing(random)} for _ in range(random.randrange(5))], b"", []
        for row in rows:
            data += random.choice([b"", b"\n", b"  \r\n"])
            lines.append(data.count(b"\n") + 1)
            data += json.dumps(row).encode() + random.choice([b"\n", b"\r\n"])
        data = random.choice([b"", b"\xef\xbb\xbf"]) + (data.rstrip() if random.random() < 0.5 else data)
        scan, places = found(data)
        assert not scan.is_array and not scan.fault
        assert [json.loads(data[begin:end]) for begin, end, _ in places] == rows
        assert [line for _, _, line in places] == lines


def test_an_array_that_is_cut_off_keeps_the_rows_before(chunk_bytes):
    rows = [{"x": thing(Random(seed))} for seed in range(4)]
    data = json.dumps(rows).encode()
    for cut in range(1, len(data)):
        scan, places = found(data[:cut])
        assert "does not end" in scan.fault
        assert [json.loads(data[begin:end]) for begin, end, _ in places] == rows[: len(places)]
    assert not found(data)[0].fault


def test_what_follows_an_array_is_told_of():
    assert "follows after the array" in found(b'[{"a": 1}] [2]')[0].fault
    assert "closing" in found(b'[{"a": "b}]')[0].fault


def test_a_row_that_is_no_json_hurts_no_other():
    data = b'[{"a": 1}, {"a": nope}, {\'b\': 2}, , {"a": 3}]'
    scan, places = found(data)
    assert not scan.fault
    assert [data[begin:end].strip() for begin, end, _ in places] == [
        b'{"a": 1}', b'{"a": nope}', b"{'b': 2}", b"", b'{"a": 3}',
    ]  # fmt: skip


@pytest.mark.parametrize("data", [b"[]", b" [ \n ] ", b"", b"\n\n"])
def test_no_rows(data):
    scan, places = found(data)
    assert places == [] and not scan.fault


def test_utf16_is_refused():
    with pytest.raises(ValueError, match="got UTF-16, expected UTF-8"):
        found('[{"a": 1}]'.encode("utf-16"))


def test_what_cannot_be_indexed_leaves_nothing_behind(write, own_cache, monkeypatch):
    with pytest.raises(ValueError, match="got UTF-16"):
        JsonRows(write("a.json", '[{"a": 1}]'.encode("utf-16")))
    path, index = write("b.json", [{"a": 1}]), own_cache / "rows"

    def no_room(*_):
        raise OSError("no room")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="no room"):
        patch.setattr(json_rows.os, "replace", no_room)
        JsonRows(path)
    assert index.is_dir() and not list(index.iterdir())
    assert len(JsonRows(path)) == 1 and len(list(index.iterdir())) == 2


@pytest.mark.parametrize("head", [b"", b"\xef\xbb\xbf", b"\n \n"])
def test_one_object_over_several_lines_is_one_fault_and_no_rows(chunk_bytes, head):
    """As COCO and VQAv2 write theirs; a row whose end is missing makes no such object of the rows after it."""
    whole = {"info": {"year": 2014}, "annotations": [{"id": 1, "text": 'a "\\ } { b'}]}
    scan, places = found(head + json.dumps(whole, indent=1).encode() + b"\n \n")
    assert places == [] and "one object over several lines, expected an array of rows" in scan.fault
    row = json.dumps(whole).encode()
    for cut in range(1, len(row)):
        scan, places = found(row[:cut] + b"\n" + row + b"\n" + row)
        assert len(places) == 3 and not scan.fault
    assert len(found(row)[1]) == len(found(row + b"\n")[1]) == 1
