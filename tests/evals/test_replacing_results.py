"""A file of results is written again by the call that asks for the same, and never lost to one that asks for others."""

from __future__ import annotations

import json

import pytest

from phantrol.evals.benchmarks.primer import PrimerBenchmark
from phantrol.evals.card import read_reports
from phantrol.evals.runner import Wanted, ask_benchmarks, run_benchmarks
from phantrol.inference.engine import Engine

OPTIONS = ["tasks=shape,captions,existence"]
WANTED = Wanted(limit=8, batch_size=16)

OTHER = """
from dataclasses import dataclass
from phantrol.evals.benchmarks.primer import PrimerBenchmark

@dataclass(frozen=True)
class Other(PrimerBenchmark):
    pass

BENCHMARK = Other
"""


@pytest.fixture
def path(scored, tmp_path):
    """Results of Primer, with their answers beside them."""
    for end in ("json", "primer.answers.jsonl"):
        (tmp_path / f"a.{end}").write_bytes((scored / f"a.{end}").read_bytes())
    return tmp_path / "a.json"


@pytest.fixture
def other(tmp_path):
    """A benchmark of the user's own."""
    (tmp_path / "other.py").write_text(OTHER)
    return str(tmp_path / "other.py")


def refused(monkeypatch, path, *call, match):
    before = path.read_bytes()
    with monkeypatch.context() as patch, pytest.raises(ValueError, match=match):
        patch.setattr(Engine, "_generate", lambda *args, **options: pytest.fail("the model was asked"))
        run_benchmarks(*call, json_path=path, options=OPTIONS)
    assert path.read_bytes() == before


def test_another_benchmark(models, path, other, monkeypatch):
    refused(monkeypatch, path, models[0], [other], WANTED, match=r"holds results of primer .*name primer too")
    asked = []
    generate = Engine._generate
    monkeypatch.setattr(
        Engine, "_generate", lambda self, prompts, *rest: (asked.extend(prompts), generate(self, prompts, *rest))[1]
    )
    alone = read_reports(path)
    run_benchmarks(models[0], ["primer", other], WANTED, json_path=path, options=OPTIONS)
    both = read_reports(path)
    answers = path.with_name("a.other.answers.jsonl").read_bytes().count(b"\n") - 1
    assert len(both) == 2 and len(asked) == answers > 24  # Primer's own were there
    assert both[0]["scores"] == alone[0]["scores"]
    refused(monkeypatch, path, models[0], ["primer"], WANTED, match="holds results of .*other.py .*name .*other.py too")
    run_benchmarks(models[0], [other, "primer"], WANTED, json_path=path, options=OPTIONS)
    assert {each["benchmark"]: each["rows"] for each in read_reports(path)} == {
        each["benchmark"]: each["rows"] for each in both
    }


def test_two_dotted_names_that_begin_alike(models, tmp_path, monkeypatch):
    (tmp_path / "my_sets").mkdir()
    for name in ("one", "two"):
        (tmp_path / "my_sets" / f"{name}.py").write_text(OTHER)
    monkeypatch.syspath_prepend(tmp_path)
    path = tmp_path / "s.json"
    run_benchmarks(models[0], ["my_sets.one"], WANTED, json_path=path, options=OPTIONS)
    refused(monkeypatch, path, models[0], ["my_sets.two"], WANTED, match=r"holds results of my_sets\.one ")


def test_two_files_of_one_name(models, tmp_path, other, monkeypatch):
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "other.py").write_text(OTHER)
    path = tmp_path / "s.json"
    run_benchmarks(models[0], [other], WANTED, json_path=path, options=OPTIONS)
    run_benchmarks(models[0], [other], WANTED, json_path=path, options=OPTIONS)
    again = str(tmp_path / "more" / "other.py")
    refused(monkeypatch, path, models[0], [again], WANTED, match=rf"holds results of {other} .*name {other} too")


def test_a_benchmark_whose_file_was_moved(models, tmp_path, other):
    path = tmp_path / "s.json"
    run_benchmarks(models[0], [other], WANTED, json_path=path, options=OPTIONS)
    (tmp_path / "more").mkdir()
    moved = str((tmp_path / "other.py").rename(tmp_path / "more" / "other.py"))
    run_benchmarks(models[0], [moved], WANTED, json_path=path, options=OPTIONS)
    assert [each["benchmark"] for each in read_reports(path)] == [moved]


@pytest.mark.parametrize("change", [{"split": "test_comp"}, {"seed": 1}])
def test_another_split_or_seed(models, path, monkeypatch, change):
    wanted = Wanted(limit=8, batch_size=16, **change)
    refused(monkeypatch, path, models[0], ["primer"], wanted, match=r"holds results of primer .*write elsewhere")


def test_other_options(models, path, monkeypatch):
    with pytest.raises(
        ValueError, match=r"primer \(split val, seed 0\) with other options \(tasks\).*remove the file \(the answers"
    ):
        run_benchmarks(models[0], ["primer"], WANTED, json_path=path, options=["tasks=shape"])
    ask_benchmarks(Engine.open(models[0]), [PrimerBenchmark(tasks=("shape",))], WANTED, path, replacing=True)
    assert [set(each["scores"]) for each in read_reports(path)] == [{"shape"}]


def test_more_rows_of_the_same(models, path):
    run_benchmarks(models[0], ["primer"], Wanted(limit=10, batch_size=16), json_path=path, options=OPTIONS)
    assert len(read_reports(path)[0]["rows"]) == 30


@pytest.mark.parametrize("content", ['[{"image": "a.png"}]', '{"rows": 3}', "not JSON", "[1]"])
def test_a_file_that_is_no_result(models, tmp_path, monkeypatch, content):
    path = tmp_path / "mine.json"
    path.write_text(content)
    refused(monkeypatch, path, models[0], ["primer"], WANTED, match="holds no results of `phantrol eval`")


def test_an_empty_file_may_be_written_to(models, tmp_path):
    path = tmp_path / "new.json"
    path.touch()
    run_benchmarks(models[0], ["primer"], Wanted(limit=2), json_path=path, options=["tasks=shape"])
    assert json.loads(path.read_text())["benchmark"] == "primer"
