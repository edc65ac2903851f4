"""Two results, compared and put into tables, by the command line."""

import json
import os
import shutil

import pytest


@pytest.fixture(scope="module")
def results(workplace, phantrol):
    before = os.getcwd()
    os.chdir(workplace.folder)
    try:
        for name, size in (("a", 8), ("b", 1)):
            asked = ("primer", "tasks=shape,count", "scenes=shapes", "--limit", 4)
            done = phantrol("eval", "runs/demo/final", *asked, "--batch-size", size, "--json", f"{name}.json")
            assert done.code == 0, done.error
    finally:
        os.chdir(before)
    return workplace.folder


def test_compare(results, here, phantrol):
    done = phantrol("eval", "compare", "a.json", "b.json", "--json", "difference.json")
    assert done.code == 0, done.error
    assert "B - A" in done.out and "both have the same weights" in done.out
    differences = json.loads((here / "difference.json").read_text())["differences"]
    assert [each["name"] for each in differences] == ["shape", "count", "mean of tasks"]
    assert all(each["a"] == each["b"] for each in differences)


def test_table(results, here, phantrol):
    read = phantrol("eval", "table", "a.json")
    assert read.code == 0 and "| model | protocol | primer |" in read.out, read.error
    done = phantrol("eval", "table", "a.json", "--out", "t.md", "--out", "t.tex", "--out", "t.png")
    assert done.code == 0, done.error
    assert {file.name for file in here.glob("t.*")} == {"t.md", "t.tex", "t.png"}
    assert (here / "t.md").read_text() + "\n" == read.out


@pytest.mark.parametrize("names", [["x.pdf"], ["y.md", "z.pdf"]])
def test_no_table_is_written_if_a_name_is_wrong(results, here, phantrol, names):
    done = phantrol(
        "eval", "table", "a.json", *(word for name in names for word in ("--out", f"tables-never-written/{name}"))
    )
    assert done.code == 2 and ".md, .tex or .png" in done.error
    assert not (here / "tables-never-written").exists()


@pytest.mark.parametrize(
    "verb", [("eval", "table"), ("eval", "compare"), ("eval", "lmms"), ("data", "check"), ("data", "triples")]
)
def test_the_dots_of_several_are_not_doubled(phantrol, verb):
    usage = phantrol(*verb, "--help").out.splitlines()[0]
    assert usage.startswith("Usage: ") and usage.count("...") <= 1 and "{a}" not in usage, usage


def test_a_model_called_compare(results, here, phantrol):
    shutil.copytree(here / "runs" / "demo" / "final", here / "compare")
    done = phantrol("eval", "./compare", "primer", "tasks=shape", "--limit", 2)
    assert done.code == 0, done.error
    done = phantrol("eval", "compare", "primer", "tasks=shape")
    assert done.code == 2 and "no file primer" in done.error


def test_check_batch_and_several_benchmarks(here, phantrol, tmp_path):
    (tmp_path / "again.py").write_text(
        "from phantrol.evals.benchmarks.primer import PrimerBenchmark\n"
        "class Again(PrimerBenchmark):\n"
        "    pass\n"
        "BENCHMARK = Again\n"
    )
    both = f"primer,{tmp_path / 'again.py'}"
    asked = ("tasks=shape", "--limit", 4, "--check-batch", 3, "--json", tmp_path / "s.json")
    done = phantrol("eval", "runs/demo/final", both, *asked)
    assert done.code == 0, done.error
    assert done.out.count("3 questions asked again with batch size 1: 0 answers differ") == 2
    written = json.loads((tmp_path / "s.json").read_text())["benchmarks"]
    assert [each["benchmark"] for each in written] == ["primer", str(tmp_path / "again.py")]
    assert {file.name for file in tmp_path.glob("*.jsonl")} == {"s.primer.answers.jsonl", "s.again.answers.jsonl"}


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["compare", "a.json", "nowhere.json"], ["nowhere.json"]),
        (["compare", "a.json", "runs/demo/scores.json"], ["scores.json", "card"]),
        (["compare", "a.json", "runs/demo/final/model.safetensors"], ["no JSON"]),
        (["compare", "a.json"], ["Missing argument"]),
        (["table", "a.json", "b.json"], ["two results on primer"]),
        (["table", "a.json", "--out", "t.pdf"], [".md, .tex or .png"]),
        (["runs/demo/final", "primer", "--judge", "http://x/v1"], ["--judge-model"]),
        (["runs/demo/final", "mm_vet", "--data", "nowhere"], ["nowhere"]),
        (["runs/demo/final", "pope"], ["--data"]),
        (["runs/demo/final", "primer", "--protocol", "paper"], ["one protocol"]),
        (["runs/demo/final", "pope", "--protocol", "own"], ["protocol", "standard"]),
    ],
)
def test_mistakes_are_one_line(results, here, phantrol, args, words):
    done = phantrol("eval", *args)
    assert done.code == 2
    assert done.error.startswith("phantrol: ") and done.error.count("\n") == 1, done.error
    assert all(word in done.error for word in words), done.error
