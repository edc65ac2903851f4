"""A Parquet file with large row groups is written again once, by one process, or else read as it is."""

from __future__ import annotations

import os
import threading
import time

import pytest

from phantrol.data.check import check
from phantrol.data.rows import parquet_rows
from phantrol.data.rows.parquet_rows import ParquetRows

pytest.importorskip("pyarrow")


@pytest.fixture
def large(write, llava, monkeypatch):
    """300 rows in one row group, three times as many as one may have."""
    monkeypatch.setattr(parquet_rows, "GROUP_ROWS", 100)
    return write("a.parquet", [llava(str(i), asked="What?", answer=f"a{i}") for i in range(300)])


def answers(rows):
    return [rows[i]["conversations"][-1]["value"] for i in (0, 150, 299)]


def test_one_process_writes_it_and_another_waits_for_that(large, monkeypatch, own_cache):
    write, written, opened = parquet_rows._write_again, [], []
    other = threading.Thread(target=lambda: opened.append(ParquetRows(large)))  # a lock is its file's, not a process's

    def write_slowly(*args):
        written.append(args)
        if len(written) == 1:
            other.start()
            time.sleep(0.3)  # enough for the other to come here too if nothing keeps it out
        write(*args)

    monkeypatch.setattr(parquet_rows, "_write_again", write_slowly)
    opened.append(ParquetRows(large))
    other.join()
    assert len(written) == 1 and [answers(rows) for rows in opened] == [["a0", "a150", "a299"]] * 2
    (again,) = own_cache.rglob("*.parquet")
    assert {rows._read_from for rows in opened} == {again}


def test_what_is_stale_is_removed_and_what_is_another_file_s_is_not(large, write, llava):
    first = ParquetRows(large)._read_from
    name = first.name.partition("-")[0]
    others = [first.with_name(other) for other in ("abc-1-2.parquet", "tmp.writing", f"{name}.json")]
    for path in (*others, first.with_name(f"{name}-cut_off.writing")):  # the last as a kill leaves it
        path.touch()
    write("a.parquet", [llava(str(i), asked="What?", answer=f"b{i}") for i in range(300)])
    os.utime(large, ns=(1, 1))
    rows = ParquetRows(large)
    assert answers(rows) == ["b0", "b150", "b299"]
    assert {*first.parent.iterdir()} == {*others, rows._read_from, first.with_name(f".{name}.lock")}


def test_a_cache_that_cannot_be_written_is_told_of_once(large, monkeypatch, tmp_path, caplog):
    (tmp_path / "a file").touch()
    monkeypatch.setenv("PHANTROL_CACHE", str(tmp_path / "a file"))
    for _ in range(2):
        rows = ParquetRows(large)
        assert rows._read_from == large and answers(rows) == ["a0", "a150", "a299"]
    (told,) = [record.getMessage() for record in caplog.records]
    assert told.startswith(f"{large} is not written again in small row groups")


def test_a_full_disk_leaves_nothing_behind_and_is_no_end(large, monkeypatch, own_cache, caplog):
    def no_room(*_):
        raise OSError("no room")

    with monkeypatch.context() as patch:
        patch.setattr(parquet_rows.os, "replace", no_room)
        assert ParquetRows(large)._read_from == large
    assert "no room" in caplog.text and [path.name[0] for path in (own_cache / "rows").iterdir()] == ["."]  # the lock
    assert ParquetRows(large)._read_from != large


def test_of_a_file_with_a_broken_row_group_only_the_rows_in_it_are_broken(large, tmp_path):
    from pyarrow import parquet

    path, table = tmp_path / "b.parquet", parquet.read_table(large)
    parquet.write_table(table, path, row_group_size=150, compression="none")
    column, data = parquet.ParquetFile(path).metadata.row_group(1).column(0), bytearray(path.read_bytes())
    begin = column.dictionary_page_offset or column.data_page_offset
    data[begin : begin + 16] = b"\xff" * 16  # the head of its first page
    path.write_bytes(data)
    report = check([path])
    assert report.files[0].broken.tolist() == list(range(150, 300))
    assert {fault.reason for fault in report.files[0].faults} == {"wrong-type"}
