from __future__ import annotations

import json
from collections import Counter
from types import SimpleNamespace

import pytest
from rich.console import Console

from phantrol.data.primer.generator import sample
from phantrol.data.primer.tasks import TASKS
from phantrol.evals.benchmark import Benchmark, Row, question_text
from phantrol.evals.benchmarks.primer import PrimerBenchmark
from phantrol.evals.metrics import wilson_interval
from phantrol.evals.prior import TextPrior
from phantrol.evals.report import Report, Sample
from phantrol.evals.runner import evaluate
from phantrol.find import find, names

READABLE = ("colour_one", "existence", "count", "text_only")  # what the seeing engine can answer
ROWS = 60


class FakeEngine:
    """Answers with `say(chat)`; remembers how it was asked."""

    name = "fake"

    def __init__(self, say):
        self.say, self.calls = say, []

    def answer_each(self, chats, max_new_tokens, batch_size):
        self.calls.append((len(chats), max_new_tokens, batch_size))
        return ((index, SimpleNamespace(text=self.say(chat))) for index, chat in enumerate(chats))


def picture_and_question(chat):
    content = chat[-1]["content"]
    pictures = [part["image"] for part in content if part["type"] == "image"]
    return (pictures or [None])[0], content[-1]["text"]


@pytest.fixture(scope="module")
def benchmark():
    return PrimerBenchmark(tasks=READABLE, scenes=("shapes", "text"))


@pytest.fixture(scope="module")
def seeing(benchmark):
    """An engine that looks at the picture it is shown and says what is true of it."""
    scenes, texts = {}, {}
    for row in benchmark.rows("val", ROWS):
        split, task, index = row.id.split("/")
        drawn = sample(split, TASKS[task].family, int(index), 64, benchmark._curriculum((task,)))
        if drawn.picture is None:
            texts[question_text(row)] = row.answer
        else:
            scenes[drawn.picture.tobytes()] = drawn.scene

    def say(chat):
        picture, question = picture_and_question(chat)
        if picture is None:
            return texts[question]
        things = scenes[picture.tobytes()].things
        if "color" in question:
            return things[0].colour
        if "objects" in question:
            return str(len(things))
        return "yes" if any(f"{thing.colour} {thing.name}" in question for thing in things) else "no"

    return FakeEngine(say)


def test_who_sees_loses_everything_with_shuffled_images(benchmark, seeing):
    scores = evaluate(seeing, benchmark, "val", limit=ROWS).scores
    assert list(scores) == list(READABLE)
    for task in READABLE:
        assert scores[task]["model"] == 1
        assert scores[task]["n"] == ROWS
    # chance: 1 of 8 colours, of 3 numbers, of 2 answers; four standard deviations of 60 rows
    for task, chance in {"colour_one": 1 / 8, "count": 1 / 3, "existence": 1 / 2}.items():
        spread = 4 * (chance * (1 - chance) / ROWS) ** 0.5
        assert abs(scores[task]["shuffled"] - chance) < spread
        assert abs(scores[task]["prior"] - chance) < spread
    assert scores["text_only"]["shuffled"] == 1  # nothing was shuffled there


def test_who_cheats_from_the_text_gains_nothing_from_pictures(benchmark):
    prior = TextPrior(benchmark.prior_rows(), benchmark.mask)
    by_text = {question_text(row): prior.answer(row) for row in benchmark.rows("val", ROWS)}
    report = evaluate(FakeEngine(lambda chat: by_text[picture_and_question(chat)[1]]), benchmark, "val", limit=ROWS)
    for scores in report.scores.values():
        assert scores["model"] == scores["shuffled"] == scores["prior"]
    assert report.scores["existence"]["model"] < 0.8


def test_tasks_share_batches_and_text_only_is_asked_once(benchmark, seeing):
    seeing.calls.clear()
    told = []
    evaluate(seeing, benchmark, "val", limit=5, batch_size=7, tell=lambda done, total: told.append((done, total)))
    assert seeing.calls == [(35, 8, 7)]
    assert told == [(done, 35) for done in range(1, 36)]


def test_every_answer_is_kept(benchmark, seeing, tmp_path):
    report = evaluate(seeing, benchmark, "val", limit=3)
    rows = benchmark.rows("val", 3)
    assert [(s.id, s.task, s.answer, s.question) for s in report.samples] == [
        (r.id, r.task, r.answer, question_text(r)) for r in rows
    ]
    assert all(s.texts["model"] == s.answer for s in report.samples)
    report.write_samples(tmp_path / "samples.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "samples.jsonl").read_text().splitlines()]
    assert len(lines) == 12
    assert set(lines[0]["texts"]) == set(lines[0]["scores"]) == {"model", "shuffled", "prior"}


def test_primer_rows():
    benchmark = PrimerBenchmark()
    rows = benchmark.rows("val", 30)
    counts = Counter(row.task for row in rows)
    assert set(counts) == {name for name, task in TASKS.items() if {"shapes", "sprites", "text"} & {*task.kinds}}
    assert set(counts.values()) == {30}
    assert len({row.id for row in rows}) == len(rows)
    for row in rows:
        picture, question = picture_and_question(row.chat)
        assert (picture is None) == (row.task == "text_only")
        assert row.chat[-1]["role"] == "user" and question
        assert set(benchmark.scores(row, row.answer).values()) == {1.0}
        assert set(benchmark.scores(row, "maybe not").values()) == {0.0}
    again = [(row.id, row.answer) for row in benchmark.rows("val", 30)]
    assert again == [(row.id, row.answer) for row in rows]
    assert not {name for name, _ in again} & {row.id for row in benchmark.rows("val", 30, seed=1)}
    assert {row.answer for row in rows if row.task == "existence"} == {"yes", "no"}


def test_primer_captions_count_twice():
    benchmark = PrimerBenchmark(tasks=("captions",), scenes=("shapes",))
    row = Row("1", "captions", [], "The image shows a large red circle.")
    assert benchmark.scores(row, "a large red circle") == {"captions": 1.0, "captions_exact": 0.0}
    assert benchmark.scores(row, "The image shows a large red star.")["captions"] == 0
    assert benchmark.scores(row, "the image shows large blue circle.")["captions"] == pytest.approx(2 / 3)
    assert benchmark.tokens_for("captions") > benchmark.tokens_for("shape")


def test_primer_without_sprites():
    benchmark = PrimerBenchmark(scenes=("shapes", "text"))
    assert not {"objects", "object_existence", "kinds"} & set(benchmark.tasks_of("val"))
    said = " ".join(row.answer + question_text(row) for row in benchmark.rows("val", 20) if row.task != "text_only")
    assert " dog" not in said and "tree" not in said and "guitar" not in said


def test_the_prior_learns_from_training_texts_and_the_mask_hides_what_varies():
    benchmark = PrimerBenchmark()
    assert all(row.id.startswith("train/") for row in benchmark.prior_rows())
    assert {row.task for row in benchmark.prior_rows()} == set(benchmark.tasks_of("val"))
    assert benchmark.mask("Is there a pair of scissors?") == benchmark.mask("Is there a dog?")
    masked = benchmark.mask("Is there an orange cross left of the blue hearts?")
    assert masked == benchmark.mask("Is there a red circle left of the black stars?")
    assert benchmark.mask("What is 3 plus 14?") == benchmark.mask("What is 12 plus 4?")


@pytest.mark.parametrize(
    ("options", "split", "limit", "complaint"),
    [
        ({}, "val", None, "expected a limit"),
        ({}, "valid", 3, "unknown Primer split"),
        ({"tasks": ("shape", "taste")}, "val", 3, "asks no taste"),
        ({"tasks": ("objects",), "scenes": ("shapes",)}, "val", 3, "asks no objects"),
        ({"tasks": ("text_only",)}, "test_comp", 3, "asks no text_only"),
        ({"tasks": ()}, "val", 3, "no rows"),
    ],
)
def test_what_primer_refuses(options, split, limit, complaint):
    with pytest.raises(ValueError, match=complaint):
        evaluate(FakeEngine(lambda chat: ""), PrimerBenchmark(**options), split, limit=limit)


USERS_FILE = """
from dataclasses import dataclass
from PIL import Image
from phantrol.evals.benchmark import Benchmark, Row

@dataclass(frozen=True)
class Paint(Benchmark):
    max_new_tokens: int = 3
    def rows(self, split, limit=None, seed=0):
        rows = []
        for i, colour in enumerate(["red", "green", "blue"] * 8):
            picture = Image.new("RGB", (8, 8), colour)
            ask = [{"type": "image", "image": picture}, {"type": "text", "text": "Which color?"}]
            rows.append(Row(str(i), "paint", [{"role": "user", "content": ask}], colour))
        return rows[:limit]

BENCHMARK = Paint
"""


def test_a_users_benchmark_is_one_file(tmp_path):
    path = tmp_path / "paint.py"
    path.write_text(USERS_FILE)
    paint = find("benchmarks", str(path))()
    names_of_colours = {(255, 0, 0): "red", (0, 128, 0): "green", (0, 0, 255): "blue"}
    engine = FakeEngine(lambda chat: names_of_colours[picture_and_question(chat)[0].getpixel((0, 0))])
    report = evaluate(engine, paint)
    assert report.benchmark == str(path)
    assert report.scores["paint"]["model"] == 1
    assert report.scores["paint"]["shuffled"] == 0  # never its own colour: equal pictures are not swapped
    assert report.scores["paint"]["prior"] < 0.6
    assert engine.calls[0][1] == 3


def test_primer_is_found_by_its_name():
    assert "primer" in names("benchmarks")
    assert find("benchmarks", "primer") is PrimerBenchmark
    assert issubclass(PrimerBenchmark, Benchmark)


def hand_made_report():
    def sample_of(task, model, shuffled=0.0, prior=0.0):
        scores = {"model": {task: model}, "shuffled": {task: shuffled}, "prior": {task: prior}}
        return Sample("id", task, "q", "a", dict.fromkeys(scores, "text"), scores)

    samples = (
        sample_of("one", 1.0, 1.0),
        sample_of("one", 0.0),
        sample_of("one", 1.0, 0.0, 1.0),
        sample_of("two", 0.25),
    )
    overall = {"two_f1": {"model": 0.125, "shuffled": 0.0, "prior": 0.0, "n": 1}}
    return Report("primer", "val", "runs/demo", 3, samples, overall)


def test_the_json_of_a_report(tmp_path):
    path = tmp_path / "deep" / "report.json"
    hand_made_report().write(path)
    assert json.loads(path.read_text()) == {
        "benchmark": "primer",
        "split": "val",
        "model": "runs/demo",
        "seed": 3,
        "scores": {
            "one": {
                "model": pytest.approx(2 / 3),
                "shuffled": pytest.approx(1 / 3),
                "prior": pytest.approx(1 / 3),
                "n": 3,
            },
            "two": {"model": 0.25, "shuffled": 0.0, "prior": 0.0, "n": 1},
        },
        "overall": {"two_f1": {"model": 0.125, "shuffled": 0.0, "prior": 0.0, "n": 1}},
    }
    assert [file.name for file in path.parent.iterdir()] == ["report.json"]


def test_a_report_that_cannot_be_written_leaves_the_old_one(tmp_path, monkeypatch):
    path = tmp_path / "report.json"
    path.write_text("old")
    monkeypatch.setattr("os.replace", lambda *paths: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        hand_made_report().write(path)
    assert path.read_text() == "old"


def test_the_table_of_a_report():
    console = Console(width=100, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(hand_made_report().table())
    text = console.export_text()
    low, high = wilson_interval(2 / 3, 3)
    assert f"66.7 │ {100 * low:.0f}-{100 * high:.0f} │" in text.replace("  ", " ").replace("  ", " ")
    assert "primer · val · runs/demo" in text
    assert "two_f1" in text and "12.5" in text
    assert "45.8" in text  # the mean of the tasks: (66.7 + 25) / 2
