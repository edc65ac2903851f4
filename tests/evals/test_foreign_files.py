"""Files that `phantrol eval --json` did not write are refused in one line; names may have square brackets."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from rich.console import Console

from phantrol.evals.card import check_replaceable, read_reports
from phantrol.evals.compare import compare_files
from phantrol.evals.report import Report
from phantrol.evals.runner import Wanted, run_benchmarks
from phantrol.evals.tables import collect


def changed(report, *keys, to):
    inner = report
    for key in keys[:-1]:
        inner = inner[key]
    inner[keys[-1]] = to
    return report


@pytest.mark.parametrize("text", ['{"benchmarks": 3}', '{"benchmarks": [3]}', "[3]", "3", '{"benchmarks": {}}'])
def test_json_of_another_shape(tmp_path, text):
    (tmp_path / "other.json").write_text(text)
    for read in (lambda path: compare_files(path, path), lambda path: collect([path])):
        with pytest.raises(ValueError, match=r"other\.json holds no results with a card"):
            read(tmp_path / "other.json")


@pytest.mark.parametrize(
    "change",
    [
        (("rows",), 3),
        (("rows",), [{"id": "a"}]),
        (("overall",), None),
        (("card",), 3),
        (("card", "speaker"), {}),
        (("card", "headline"), {"value": 1}),
        (("card", "judge"), {}),
    ],
)
def test_a_result_that_was_changed(bare_report, tmp_path, change):
    (tmp_path / "other.json").write_text(json.dumps(bare_report))
    assert read_reports(tmp_path / "other.json") == [bare_report]
    (tmp_path / "other.json").write_text(json.dumps(changed(bare_report, *change[0], to=change[1])))
    with pytest.raises(ValueError, match=r"other\.json holds no results with a card"):
        read_reports(tmp_path / "other.json")


def test_what_is_no_regular_file_is_not_read(tmp_path):
    os.mkfifo(tmp_path / "fifo")  # who opens it waits for a writer
    with pytest.raises(ValueError, match="is no regular file"):
        check_replaceable(tmp_path / "fifo", [])


def test_square_brackets_in_names(models, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for folder in ("q[", "my["):
        (tmp_path / folder).mkdir()
    (tmp_path / "q[/b]").symlink_to(models[0])
    (tmp_path / "my[/i].py").write_text(
        "from phantrol.evals.benchmarks.primer import PrimerBenchmark\n"
        "class Mine(PrimerBenchmark):\n    pass\nBENCHMARK = Mine\n"
    )
    asked = Wanted(limit=2, batch_size=16)
    (report,) = run_benchmarks(
        "q[/b]", ["my[/i].py"], asked, json_path="r[bold].json", options=["tasks=shape", "scenes=shapes"]
    )
    printed = capsys.readouterr().out
    assert "The scores are in r[bold].json." in printed
    printed = "".join(printed.split())  # titles are broken into lines
    assert "q[/b]" in printed and "my[/i].py" in printed
    read_reports(tmp_path / "r[bold].json")
    console = Console(file=(tmp_path / "out").open("w+"))  # anybody's, with markup
    console.print(report.table(), compare_files(Path("r[bold].json"), Path("r[bold].json")).table())
    console.file.seek(0)
    told = "".join(console.file.read().split())
    assert "q[/b]" in told and "A:r[bold].json" in told


def test_results_are_written_before_they_are_printed(models, tmp_path, monkeypatch):
    def fails(self):
        raise OSError("the terminal is gone")

    monkeypatch.setattr(Report, "table", fails)
    with pytest.raises(OSError, match="terminal"):
        run_benchmarks(
            models[0],
            ["primer"],
            Wanted(limit=2, batch_size=16),
            json_path=tmp_path / "r.json",
            options=["tasks=shape"],
        )
    read_reports(tmp_path / "r.json")
