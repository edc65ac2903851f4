"""skipped.jsonl: what is noted in it, by whom, and how often it is read."""

from __future__ import annotations

import json

import pytest

from phantrol.training import skipped
from phantrol.training.progress import rewind
from phantrol.training.skipped import SkippedRows, read_skipped


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_each_row_once_and_read_once(tmp_path, monkeypatch, caplog):
    path = tmp_path / "skipped.jsonl"
    reads = []
    monkeypatch.setattr(skipped, "read_skipped", lambda path: reads.append(path) or read_skipped(path))
    rows = SkippedRows(path, "align")
    rows.add([], 1)
    assert not path.exists() and not reads
    for step in range(1, 50):
        rows.add([f"row {step}: broken", "row 1: broken", f"row {step}: broken"], step)
    assert lines(path) == [{"stage": "align", "step": n, "row": f"row {n}: broken"} for n in range(1, 50)]
    assert len(reads) == 1 and len(caplog.records) == 49


def test_what_was_noted_before_is_not_noted_again(tmp_path):
    """By an earlier stage, or before the run was stopped."""
    path = tmp_path / "skipped.jsonl"
    SkippedRows(path, "align").add(["one", "two"], 3)
    SkippedRows(path, "tune").add(["two", "three"], 1)
    noted = [(line["stage"], line["row"]) for line in lines(path)]
    assert noted == [
        ("align", "one"),
        ("align", "two"),
        ("tune", "three"),
    ]


def test_a_row_that_two_ranks_note_counts_once(tmp_path):
    path = tmp_path / "skipped.jsonl"
    ranks = [SkippedRows(path, "align") for _ in range(2)]
    for rank in ranks:
        rank.add(["first"], 1)
    for rank in ranks:
        rank.add(["both"], 2)
    ranks[1].add(["last"], 2)
    assert len(lines(path)) > 3
    assert read_skipped(path) == ["first", "both", "last"]


def test_what_ends_a_line_elsewhere_is_a_part_of_a_row(tmp_path):
    """U+2028, U+2029 and U+0085 stand in a line of JSON as they are."""
    path, rows = tmp_path / "skipped.jsonl", ["gone\u2028é.png", "a\u2029b", "c\x85d"]
    SkippedRows(path, "tune").add(rows, 1)
    assert read_skipped(path) == rows
    rewind(path, ["tune"], 1)
    assert read_skipped(path) == rows
    SkippedRows(path, "tune").add(rows, 2)
    assert len(path.read_text("utf-8").split("\n")) == 4  # none was taken for new


@pytest.mark.parametrize("cut", [1, 2])
def test_a_line_that_was_cut_off_is_passed_over(tmp_path, cut):
    """Between two letters, or within one."""
    path = tmp_path / "skipped.jsonl"
    SkippedRows(path, "tune").add(["first", "é"], 1)
    path.write_bytes(path.read_bytes()[: -len('"}\n') - cut])
    assert read_skipped(path) == ["first"]
    rewind(path, ["tune"], 1)
    assert [line["row"] for line in lines(path)] == ["first"]
