"""The whole way: a model asked made-up sets, from files to a table."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest
from published_files import cell, save_rows

import phantrol
from phantrol.evals.benchmark import question_text
from phantrol.evals.evaluation import evaluate_rows
from phantrol.evals.published import ChoiceBenchmark
from phantrol.evals.runner import Wanted, evaluate, run_benchmarks
from phantrol.evals.score_intervals import find_intervals
from phantrol.find import find, names
from phantrol.inference.ranking import Ranking
from phantrol.models.tokenizer import train_tokenizer

PUBLISHED = [
    name for name in names("benchmarks") if name not in ("primer", "file") and not find("benchmarks", name).judged
]
ASKED = ("pope", "chartqa", "mmbench", "hallusionbench")


class Knowing:
    """An engine that knows every right answer, if it is shown the right picture."""

    def __init__(self, rows):
        self.answers = {(question_text(row), str(self._pictures(row.chat))): row.answer for row in rows}
        self.options = []

    def _pictures(self, chat):
        return [part["image"] for part in chat[0]["content"] if part["type"] == "image"]

    def answer_each(self, chats, max_new_tokens, batch_size, **options):
        self.options.append((max_new_tokens, options))
        for index, chat in enumerate(chats):
            asked = question_text(SimpleNamespace(chat=chat)), str(self._pictures(chat))
            yield index, SimpleNamespace(text=self.answers.get(asked, "dunno"))

    def rank_each(self, chats, choices, batch_size):
        self.options.append((0, {"num_beams": 1}))
        for index, chat in enumerate(chats):
            asked = question_text(SimpleNamespace(chat=chat)), str(self._pictures(chat))
            right = self.answers.get(asked, "A")
            yield index, Ranking(tuple(-float(letter != right) for letter in "ABCD"[: len(choices[index])]))


@pytest.mark.parametrize("protocol", ["standard", "paper"])
@pytest.mark.parametrize("name", PUBLISHED)
def test_every_benchmark_runs(name, protocol, opened):
    benchmark = opened(name, protocol=protocol)
    engine = Knowing(benchmark.rows(benchmark.default_split))
    report = evaluate(engine, benchmark, limit=None)
    assert report.overall[benchmark.headline]["model"] == 1
    assert not report.missing
    assert {options["num_beams"] for _, options in engine.options} == {1 if protocol == "standard" else 3}


def test_all_right_is_not_certain(opened):
    benchmark = opened("pope")
    found = evaluate_rows(Knowing(benchmark.rows("test")), benchmark, "test", limit=None)
    ends = find_intervals(found.benchmark, found.rows, found.report)
    for name in ("random", "random_f1", "overall"):  # means, and what is none
        assert ends[name][0] < 0.9 and ends[name][1] == 1, name


@pytest.fixture
def model(tiny_model, tmp_path):
    tokenizer = train_tokenizer(["Is there a dog in the image? yes no A. red B. blue Answer"] * 4, 300)
    made, processor = tiny_model(tokenizer, [phantrol.TrolConfig(gate_bias=0.2)], image_px=32, noise=0.4)
    made.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    return str(tmp_path / "model")


@pytest.mark.parametrize("protocol", ["standard", "paper"])
def test_a_model_by_name(protocol, model, sets, tmp_path):
    path = tmp_path / "scores.json"
    reports = run_benchmarks(model, ASKED, Wanted(batch_size=8), sets, protocol, json_path=path)
    assert [report.benchmark for report in reports] == list(ASKED)
    assert path.is_file() and json.loads(path.read_text())
    rows = {"standard": [18, 6, 7, 6], "paper": [18, 4, 3, 6]}[protocol]
    assert [len(report.samples) for report in reports] == rows
    for report in reports:
        assert all(0 <= score["model"] <= 1 for score in (*report.scores.values(), *report.overall.values()))
    again = run_benchmarks(model, ASKED, Wanted(batch_size=3), sets, protocol)
    assert [report.scores for report in again] == [report.scores for report in reports]


def test_ranked_options(model, sets, tmp_path):
    """SEED-Bench's own definition: nothing is written, and the letter of the most likely option is kept."""
    path = tmp_path / "scores.json"
    (report,) = run_benchmarks(model, ["seed_img"], Wanted(batch_size=8, check_batch=3), sets, json_path=path)
    card = json.loads(path.read_text())["card"]
    assert card["options"]["ranked"] is True and card["batch_check"] == {"batch_size": 1, "rows": 3, "different": 0}
    lines = [json.loads(line) for line in (tmp_path / "scores.seed_img.answers.jsonl").read_text().splitlines()[1:]]
    for line in lines:
        assert line["text"] == "ABCD"[line["logprobs"].index(max(line["logprobs"]))]
    assert {line["text"] for line in lines if line["column"] == "model"} == {s.texts["model"] for s in report.samples}
    (again,) = run_benchmarks(model, ["seed_img"], Wanted(batch_size=1), sets, json_path=path)
    assert again.scores == report.scores and len((tmp_path / "scores.seed_img.answers.jsonl").open().readlines()) == 7
    (written,) = run_benchmarks(model, ["seed_img"], Wanted(), sets, options=["ranked=false"])
    assert all("A. One" in sample.question for sample in written.samples)
    assert not any("A. One" in sample.question for sample in report.samples)


def test_a_broken_picture(model, sets, tmp_path):
    root = shutil.copytree(sets, tmp_path / "sets")
    (root / "coco2014/val2014/COCO_val2014_0.jpg").write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"COCO_val2014_0\.jpg"):
        run_benchmarks(model, ["pope"], Wanted(), root, "standard")
    (report,) = run_benchmarks(model, ["pope"], Wanted(keep_going=True), root, "standard")
    assert (len(report.samples), len(report.missing)) == (12, 6)
    assert {row.id for row in report.missing} == {
        f"{way}/{n}" for way in ("random", "popular", "adversarial") for n in (1, 2)
    }
    assert report.overall["random_f1"]["n"] == 4


def test_a_benchmark_of_ones_own(model, tmp_path):
    """The file that docs/benchmarks.md shows."""
    page = (Path(__file__).parents[3] / "docs" / "benchmarks.md").read_text("utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    (tmp_path / "signs.py").write_text(code, "utf-8")
    facts = {"question": "What does it say?", "choices": ["Stop", "Go"], "answer": "A"}
    rows = [{"id": number, "image": cell(number), **facts} for number in range(3)]
    save_rows(tmp_path / "data" / "test-0.parquet", rows)
    for protocol in ("standard", "paper"):
        (report,) = run_benchmarks(model, [str(tmp_path / "signs.py")], Wanted(), tmp_path / "data", protocol)
        assert len(report.samples) == 3


@pytest.mark.parametrize(
    ("answer", "choices", "complaint"),
    [
        ("Go", ["Stop", "Go"], "got the answer 'Go', expected a letter from A to B of its 2 options"),
        (1, ["Stop", "Go"], "got the answer 1, expected a letter from A to B of its 2 options"),
        ("", ["Stop", "Go"], "got the answer '', expected a letter from A to B"),
        ("AB", ["Stop", "Go"], "got the answer 'AB', expected a letter from A to B"),
        ("A", [], "got the answer 'A', expected its options, as in row(..., choices=choices)"),
    ],
)
def test_an_answer_that_is_no_letter_is_refused_before_anything_is_asked(answer, choices, complaint):
    @dataclass(frozen=True)
    class Signs(ChoiceBenchmark):
        def questions(self, split):
            yield self.row(3, "signs", [], "What?", answer, choices=tuple(choices))

    with pytest.raises(ValueError, match=rf"row 3: {re.escape(complaint)}"):
        Signs().rows("test")


def test_a_protocol_goes_to_the_benchmarks_that_have_several(model, sets, tmp_path, capsys):
    code = "from dataclasses import dataclass\nfrom phantrol.evals.benchmarks.primer import PrimerBenchmark\n"
    code += "@dataclass(frozen=True)\nclass Mine(PrimerBenchmark):\n    tasks: tuple[str, ...] = ('shape',)\n"
    (tmp_path / "mine.py").write_text(f"{code}BENCHMARK = Mine\n")
    names = [str(tmp_path / "mine.py"), "chartqa"]
    mine, charts = run_benchmarks(model, names, Wanted(limit=4), sets, "paper", tmp_path / "scores.json")
    assert (mine.card.protocol, charts.card.protocol) == (None, "paper")
    assert f"asked without --protocol paper: {names[0]}." in capsys.readouterr().out


def test_an_unknown_benchmark(model):
    with pytest.raises(ValueError, match=r"'papa'.*pope"):
        run_benchmarks(model, ["papa"], Wanted())
