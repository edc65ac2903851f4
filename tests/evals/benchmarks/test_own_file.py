"""`file`: rows of one's own, asked as training reads them."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image
from published_files import save_rows

from phantrol.evals import tables
from phantrol.evals.benchmark import Benchmark, question_text
from phantrol.evals.benchmarks.file import OwnFile, form_of
from phantrol.evals.card import options_of
from phantrol.evals.evaluation import evaluate_rows
from phantrol.evals.runner import Wanted, evaluate, open_benchmark, run_benchmarks
from phantrol.find import find

LLAVA = [{"from": "human", "value": "<image>\nWhich color?"}, {"from": "gpt", "value": "Red."}]
AGAIN = [{"from": "human", "value": "Is it round?"}, {"from": "gpt", "value": "No"}]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("PHANTROL_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pics").mkdir()
    for color in ("red", "green", "blue"):
        Image.new("RGB", (8, 8), color).save(tmp_path / "pics" / f"{color}.png")
    return tmp_path


def opened(name, rows, **options):
    lines = json.dumps(rows) if name.endswith(".json") else "\n".join(map(json.dumps, rows))
    Path(name).write_text(lines, "utf-8")
    return OwnFile(data=name, **options)


class Saying:
    """An engine that says the same to everything."""

    def __init__(self, text):
        self.text, self.asked = text, []

    def answer_each(self, chats, max_new_tokens, batch_size, **options):
        self.asked += [(max_new_tokens, chat) for chat in chats]
        yield from ((index, SimpleNamespace(text=self.text)) for index in range(len(chats)))


@pytest.mark.parametrize(
    ("answer", "form"),
    [
        ("Yes.", "yesno"), ("no", "yesno"), ("B", "letter"), ("(C)", "letter"), ("B.", "letter"), ("b", "short"),
        ("12", "number"), ("-1,200.5", "number"), ("12 %", "number"), ("$5", "number"), ("seven", "number"),
        ("5 m", "short"), ("1.2 million", "short"), ("4 June", "short"), ("12:30", "short"), ("10-15", "short"),
        ("red", "short"), ("yes or no", "short"), ("", "short"), ("x" * 41, "free"),
    ],
)  # fmt: skip
def test_the_form_of_an_answer(answer, form):
    assert form_of(answer) == form


def test_lines_are_scored_by_the_form_of_their_answers():
    asked = [
        ("One?", "Yes", "yes, it is"),
        ("Two?", "(B)", "B. blue"),
        ("Three?", "3", "three"),
        ("Four?", "red", "Red"),
    ]
    asked += [("Five?", "It is a red circle on a large blue square.", "It is a red circle.")]
    benchmark = opened("test.jsonl", [{"question": question, "answer": answer} for question, answer, _ in asked])
    rows = benchmark.rows("test")
    scores = [benchmark.scores(row, text) for row, (_, _, text) in zip(rows, asked, strict=True)]
    assert scores[:4] == [{"yesno": 1}, {"letter": 1}, {"number": 1}, {"short": 1}]
    assert scores[4]["free"] == 0 and 0.5 < scores[4]["free_rouge_l"] < 1
    assert benchmark.overall(rows, [text for _, _, text in asked]) == {"overall": (0.8, 5)}
    assert [benchmark.tokens_for(row.task) for row in rows] == [64, 64, 64, 64, 256]
    assert [row.id for row in rows[:2]] == ["test.jsonl, line 1", "test.jsonl, line 2"]


def test_several_turns_are_asked_up_to_the_last_answer(folder):
    rows = [
        {"image": "red.png", "system": "Be brief.", "conversations": [*LLAVA, *AGAIN]},
        {"image": "green.png", "conversations": LLAVA},
        {"image": "red.png", "conversations": LLAVA},
        {"image": "blue.png", "conversations": LLAVA},
    ]
    benchmark = opened("train.json", rows, images=folder / "pics")
    first, *others = benchmark.rows("test")
    assert [message["role"] for message in first.chat] == ["system", "user", "assistant", "user"]
    assert (first.answer, first.task) == ("No", "yesno") and question_text(first).endswith("Red.\nIs it round?")
    assert first.chat[1]["content"][0] == {"type": "image", "image": folder / "pics" / "red.png"}
    assert [benchmark.group_of(row) == benchmark.group_of(first) for row in others] == [False, True, False]
    report = evaluate(Saying("red"), benchmark, "test", limit=None)
    assert report.overall["overall"] == {"model": 0.75, "shuffled": 0.75, "prior": 0.75, "n": 4}
    assert [row.task for row in benchmark.rows("test", limit=1)] == ["yesno", "short"]


def test_text_alone_and_pictures_in_the_row():
    texts = opened(
        "a.jsonl", [{"frage": f"{n} + 1?", "antwort": str(n + 1)} for n in range(4)], fields=("question=frage",)
    )
    with pytest.raises(ValueError, match=r"a\.jsonl, line 1: got the fields frage, antwort"):
        texts.rows("test")
    texts = OwnFile(data="a.jsonl", fields=("question=frage", "answer=antwort"))
    report = evaluate(Saying("2"), texts, "test", limit=None)
    assert report.scores["number"]["model"] == report.scores["number"]["shuffled"] == 0.25
    pytest.importorskip("pyarrow")
    stored = [Path(f"pics/{color}.png").read_bytes() for color in ("red", "blue")]
    asked = [{"question": "Which?", "answer": "red", "image": {"bytes": picture, "path": None}} for picture in stored]
    save_rows(Path("b.parquet"), asked)
    packed = OwnFile(data="b.parquet")
    assert [row.chat[0]["content"][0]["image"] for row in packed.rows("test")] == stored
    save_rows(Path("twice.parquet"), [asked[0], {**asked[0], "question": "What color?"}, asked[1]])
    twice = OwnFile(data="twice.parquet")
    groups = [twice.group_of(row) for row in twice.rows("test")]
    assert groups[0] == groups[1] != groups[2]
    assert evaluate(Saying("red"), packed, "test", limit=None).overall["overall"]["model"] == 1


def test_results_of_two_files_are_told_apart(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        opened(f"{name}/test.jsonl", [{"question": f"{name} {n}?", "answer": "yes"} for n in range(3)])
    one, other, both = (OwnFile(data=Path(f"{name}/test.jsonl")) for name in ("a", "b", "*"))
    assert options_of(one)["data"] == "a/test.jsonl" != options_of(other)["data"]
    rows = both.rows("test")
    assert len({row.id for row in rows}) == len({both.group_of(row) for row in rows}) == 6


def test_results_of_two_files_of_one_name_are_told_apart(models, tmp_path):
    """They may lie in folders of one name too: what tells them apart is what they hold."""
    for name in ("x", "y"):
        (tmp_path / name / "a").mkdir(parents=True)
        opened(f"{name}/a/test.jsonl", [{"question": f"{name} {n}?", "answer": "yes"} for n in range(3)])
    one, other = (OwnFile(data=Path(f"{name}/a/test.jsonl")) for name in "xy")
    assert options_of(one)["data"] == options_of(other)["data"] == "a/test.jsonl"
    assert options_of(one)["data_sha256"] == hashlib.sha256(one.data.read_bytes()).hexdigest()
    for name in "xy":
        run_benchmarks(models[0], ["file"], Wanted(), Path(f"{name}/a/test.jsonl"), json_path=f"{name}.json")
    with pytest.raises(ValueError, match=r"file \(split test, seed 0\) with other options \(data_sha256\), which this"):
        run_benchmarks(models[0], ["file"], Wanted(), Path("y/a/test.jsonl"), json_path="x.json")
    columns = tables.collect([Path("x.json")], False).columns
    assert list(columns.values()) == ["file a/test.jsonl"]
    titles = list(tables.collect([Path("x.json"), Path("y.json")], False).columns.values())
    assert titles == [f"file a/test.jsonl {options_of(each)['data_sha256'][:8]}" for each in (one, other)]


def test_results_of_one_file_go_on_wherever_it_lies(models, tmp_path):
    """And so do those of earlier versions, which hold no hash."""
    for name in ("x", "y"):
        (tmp_path / name).mkdir()
        opened(f"{name}/test.jsonl", [{"question": f"{n}?", "answer": "yes"} for n in range(3)])
    old, new = Path("old.json"), Path("new.json")
    run_benchmarks(models[0], ["file"], Wanted(), Path("x/test.jsonl"), json_path=old)
    report = json.loads(old.read_text())
    del report["card"]["options"]["data_sha256"]
    old.write_text(json.dumps(report))
    with pytest.raises(ValueError, match=r"with other options \(data\), which"):
        run_benchmarks(models[0], ["file"], Wanted(), Path("y/test.jsonl"), json_path=old)
    run_benchmarks(models[0], ["file"], Wanted(), Path("x/test.jsonl"), json_path=old)
    run_benchmarks(models[0], ["file"], Wanted(), Path("y/test.jsonl"), json_path=old)
    run_benchmarks(models[1], ["file"], Wanted(), Path("x/test.jsonl"), json_path=new)
    found = tables.collect([old, new], False)
    assert len(found.columns) == 1 and len(found.rows) == 2


def test_the_hash_of_a_saved_folder_is_that_of_its_rows():
    datasets = pytest.importorskip("datasets")
    datasets.Dataset.from_list([{"question": "A?", "answer": "yes"}]).save_to_disk("saved")
    saved = OwnFile(data=Path("saved"))
    before = saved.data_sha256()
    assert before == hashlib.sha256(next(Path("saved").glob("data-*.arrow")).read_bytes()).hexdigest()
    Path("saved/cache-0.arrow").write_text("as `filter` leaves it")
    assert saved.data_sha256() == before
    for state, complaint in (
        ('{"_data_files": [{"filename": "gone.arrow"}]}', "no file .*gone"),
        ("{}", "_data_files"),
    ):
        Path("saved/state.json").write_text(state)
        with pytest.raises(ValueError, match=f"saved is no whole data set that save_to_disk wrote: .*{complaint}"):
            saved.data_sha256()


def test_a_hash_needs_no_field_of_that_name():
    @dataclass(frozen=True)
    class Kept(Benchmark):
        rows_of: str = "x"

        def data_sha256(self):
            return "abc"

    assert options_of(Kept()) == {"rows_of": "x", "data_sha256": "abc"}


def test_what_cannot_be_asked():
    Path("empty.jsonl").touch()
    for options, complaint in (
        ({}, r"name their file with --data test\.jsonl$"),
        ({"data": "empty.jsonl"}, r"empty\.jsonl is empty: 0 bytes$"),
        ({"data": "none.jsonl"}, r"no file none\.jsonl: expected"),
        ({"data": "empty.jsonl", "fields": ("question",)}, "expected NAME=YOURS, such as question=frage$"),
    ):
        with pytest.raises(ValueError, match=complaint):
            OwnFile(**options).rows("test")
    row = {"image": "red.png", "conversations": LLAVA}
    with pytest.raises(ValueError, match="images nope: no such folder"):
        opened("a.json", [row], images="nope").rows("test")
    with pytest.raises(ValueError, match="file has no split 'val': expected test"):
        opened("a.json", [row]).rows("val")
    with pytest.raises(ValueError, match="has no rows in split 'test'"):
        evaluate(Saying(""), opened("a.json", []), "test", limit=None)
    with pytest.raises(ValueError, match=r"a\.json\[0\]: .*answer.*; `phantrol data check` finds all such rows"):
        opened("a.json", [{"question": "What?", "answer": " "}]).rows("test")
    lettered = {"question": "Which?", "options": {"A": "red", "B": "blue"}, "answer": "D"}
    with pytest.raises(ValueError, match=r"a\.json\[1\]: .*got D as answer to 2 options"):
        opened("a.json", [{**lettered, "answer": "B"}, lettered]).rows("test")
    gone = [row, {**row, "image": "gone.png"}, {**row, "image": "blue.png"}]
    benchmark = opened("a.json", gone, images="pics")
    with pytest.raises(ValueError, match=r"^file, row a\.json\[1\]: picture pics/gone.png: No such file.*--keep-going"):
        evaluate(Saying("red"), benchmark, "test", limit=None)
    report = evaluate_rows(Saying("red"), benchmark, "test", None, keep_going=True).report
    assert [row.id for row in report.missing] == ["a.json[1]"] and len(report.samples) == 2


def test_by_its_name_on_the_command_line():
    made = open_benchmark("file", "test.jsonl", None, ["images=pics", "fields=question=frage,answer=antwort"])
    assert str(made.images) == "pics" and made.fields == ("question=frage", "answer=antwort")
    Path("mine.jsonl").touch()
    with pytest.raises(ValueError, match=r"got a file, .*; .*`phantrol eval MODEL file --data mine\.jsonl`$"):
        find("benchmarks", "mine.jsonl")
