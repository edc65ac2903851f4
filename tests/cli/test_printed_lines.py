"""What is printed is there to be copied: names with square brackets, whole commands, in any encoding and any width."""

from __future__ import annotations

import io
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from rich.console import Console

from phantrol.cli_group import print_in_any_encoding
from phantrol.data import check_report
from phantrol.data.check import FileReport, Report
from phantrol.demo import _ask, _farewell
from phantrol.doctor import Finding, show
from phantrol.tables import first_line
from phantrol.training.recipe import load_recipe


@pytest.fixture(autouse=True)
def narrow(monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")


def test_describe_a_recipe(phantrol):
    done = phantrol("describe", "primer_tiny", "stages.0.batch_size=4", "stages.1.batch_size=4")
    command = "phantrol train primer_tiny stages.0.batch_size=4 stages.1.batch_size=4 --dry-run"
    assert done.code == 0 and f"\nNext: {command}\n" in done.out, done.error


def test_what_to_type_next_where_a_name_has_a_space(here, phantrol, quick, tmp_path):
    run, final = tmp_path / "my runs", tmp_path / "my runs" / "final"
    done = phantrol("train", "primer_tiny", *quick, "--out", run)
    assert done.out.endswith(f"Next: phantrol ask '{final}' IMAGE \"QUESTION\"\n"), done.error
    assert f"Next: phantrol eval '{final}' primer\n" in phantrol("describe", run).out
    assert f"Next: phantrol ask '{final}' IMAGE \"QUESTION\"\n" in phantrol("describe", final).out
    exported = phantrol("data", "export", tmp_path / "my data", "--count", 1, "--size", 64)
    assert f"phantrol data check '{tmp_path / 'my data'}'\n" in exported.out, exported.error
    lines = _farewell(run, final).splitlines()
    assert f"  phantrol ask '{final}' '{run / 'picture.png'}' \"What do you see in the image?\"" in lines
    assert lines[-2].index("# what it is made of") == lines[-1].index("# how it was trained")


def test_describe_and_explain_a_model_whose_name_has_brackets(here, phantrol):
    shutil.copytree("runs/demo/final", "m[v2]/of[/b]:boom:", dirs_exist_ok=True)
    done = phantrol("describe", "m[v2]/of[/b]:boom:")
    assert done.code == 0, done.error
    assert done.out.startswith("m[v2]/of[/b]:boom:\n")
    assert "\nNext: phantrol ask 'm[v2]/of[/b]:boom:' IMAGE \"QUESTION\"\n" in done.out
    done = phantrol("explain", "m[v2]/of[/b]:boom:", "runs/demo/picture.png", "What?", "--out", "w[hy]:boom:.png")
    assert done.code == 0 and "The maps are in w[hy]:boom:.png.\n" in done.out, done.error


def test_doctor(capsys):
    remedy = "a step can take ten times as long: wait, or export OMP_NUM_THREADS=1, or pip install 'phantrol[lora]'"
    assert show([Finding("note", "the machine is busy [/i]", remedy)])
    assert capsys.readouterr().out == f"note  the machine is busy [/i]\n      → {remedy}\nall is well\n"


def test_the_answer_of_the_demo(tmp_path, capsys):
    engine = SimpleNamespace(answer=lambda chat: SimpleNamespace(text="red[/b]"))
    (tmp_path / "d[emo]").mkdir()
    _ask(engine, load_recipe("primer_tiny"), tmp_path / "d[emo]", Console(highlight=False, markup=False, emoji=False))
    printed = capsys.readouterr().out
    assert f"\nA new picture, {tmp_path / 'd[emo]' / 'picture.png'}. " in printed
    assert "the model says: red[/b]" in " ".join(printed.split())


def test_the_report_of_a_check(capsys):
    report = Report([FileReport(Path("rows[/b]:boom:.json"), 3)], np.zeros(0), np.zeros((0, 2)))
    check_report.show(report, Console())
    assert "rows[/b]:boom:.json: 3 rows, 0 of them broken\n" in capsys.readouterr().out


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252"])
def test_an_encoding_without_a_sign(monkeypatch, phantrol, encoding):
    printed = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(printed, encoding, write_through=True))
    print_in_any_encoding()
    Console().print("█ → é")
    assert printed.getvalue() == "? ? é\n".encode(encoding, "replace")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ValueError("\n cut off\nat byte 7"), "cut off"),
        (OSError(2, "No such file"), "[Errno 2] No such file"),
        (OSError(), "OSError"),
        (ValueError(" \n"), "ValueError"),
    ],
)
def test_the_first_line_of_an_error(error, said):
    assert first_line(error) == said
