"""The form of an answer chooses its metric; what is counted over many rows stands beside what is averaged."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from phantrol.data.primer.tasks import TASKS
from phantrol.evals.benchmark import question_text
from phantrol.evals.benchmarks.primer import METRICS, PrimerBenchmark, PrimerRow
from phantrol.evals.runner import evaluate

BENCHMARK = PrimerBenchmark(size_px=224)


def row(task, answer, form):
    return PrimerRow("1", task, [], answer, form, "1")


def task_of(family, form):
    return next(name for name, task in TASKS.items() if task.family == family and task.answer == form)


@pytest.mark.parametrize(
    ("form", "answer", "right", "wrong"),
    [
        ("short", "red circle", "A red circle.", "red or blue circle"),
        ("number", "3", "There are three.", "3 or 4"),
        ("yesno", "no", "No, there is not.", "no or yes"),
        ("letter", "B", "The answer is B.", "A or B"),
        ("free", "There is no star.", "there is no star", "There is a star."),
    ],
)
def test_each_form_has_its_metric(form, answer, right, wrong):
    asked = row("shape", answer, form)
    assert BENCHMARK.scores(asked, right) == {"shape": 1.0}
    assert BENCHMARK.scores(asked, wrong) == {"shape": 0.0}


def test_every_task_has_a_form_with_a_metric():
    assert {task.answer for task in TASKS.values()} <= set(METRICS)


def test_numbers_of_charts_are_counted_relaxed_too():
    task = task_of("charts", "number")
    assert BENCHMARK.scores(row(task, "40", "number"), "41") == {task: 0.0, f"{task}_relaxed": 1.0}
    assert BENCHMARK.scores(row(task, "40", "number"), "43") == {task: 0.0, f"{task}_relaxed": 0.0}
    assert BENCHMARK.scores(row("count", "40", "number"), "41") == {"count": 0.0}  # a count is right or wrong


def test_words_that_are_read_are_counted_by_letters_too():
    task = task_of("ocr", "short")
    assert BENCHMARK.scores(row(task, "hello", "short"), "hellp") == {task: 0.0, f"{task}_anls": pytest.approx(0.8)}
    assert BENCHMARK.tokens_for(task) > BENCHMARK.tokens_for("shape")


def test_rows_know_their_form():
    for name in ("shape", "count", "existence", "multiple_choice", "captions", task_of("charts", "number")):
        (asked,) = PrimerBenchmark(tasks=(name,), size_px=224).rows("val", 1)
        assert asked.form == TASKS[name].answer and asked.question_id == asked.id


@pytest.fixture(scope="module")
def circular():
    return PrimerBenchmark(tasks=("multiple_choice", "existence"), circular=True, scenes=("shapes",))


def test_each_question_is_asked_in_all_orders_of_its_options(circular):
    rows = circular.rows("val", 5)
    choices = [asked for asked in rows if asked.task == "multiple_choice"]
    assert len(choices) == 20 and len(rows) == 25 and len({asked.id for asked in rows}) == 25
    for i in range(0, 20, 4):
        turns = choices[i : i + 4]
        assert len({asked.question_id for asked in turns}) == 1
        assert sorted(asked.answer for asked in turns) == ["A", "B", "C", "D"]
        right = {_options(asked)[asked.answer] for asked in turns}
        assert len(right) == 1  # the same option, in another place each time
        assert len({id(asked.chat[0]["content"][0]["image"]) for asked in turns}) == 1
    plain = PrimerBenchmark(tasks=("multiple_choice",), scenes=("shapes",)).rows("val", 5)
    assert [question_text(asked) for asked in plain] == [question_text(asked) for asked in choices[::4]]


def _options(asked):
    lines = question_text(asked).split("\n")
    return {line[0]: line[3:] for line in lines if line[1:3] == ". "}


class Engine:
    """Says what a function of (row) says."""

    def __init__(self, rows, say):
        self._by_text, self._say = {question_text(asked): asked for asked in rows}, say

    def answer_each(self, chats, max_new_tokens, batch_size):
        for index, chat in enumerate(chats):
            yield index, SimpleNamespace(text=self._say(self._by_text[chat[0]["content"][-1]["text"]]))


def test_who_always_says_the_same_letter_is_found_out(circular):
    rows = circular.rows("val", 8)
    report = evaluate(Engine(rows, lambda asked: "B" if asked.form == "letter" else "yes"), circular, limit=8)
    assert report.scores["multiple_choice"]["model"] == 0.25  # each letter is right once
    assert report.overall["multiple_choice_circular"] == {"model": 0.0, "shuffled": 0.0, "prior": 0.0, "n": 8}
    yes = sum(asked.answer == "yes" for asked in rows if asked.task == "existence")
    assert report.overall["existence_f1"]["model"] == pytest.approx(2 * yes / (yes + 8))
    assert report.overall["existence_f1"]["n"] == 8
    assert list(report.overall) == ["multiple_choice_circular", "existence_f1"]


def test_who_knows_is_right_in_every_order(circular):
    rows = circular.rows("val", 8)
    report = evaluate(Engine(rows, lambda asked: asked.answer), circular, limit=8)
    assert report.overall["multiple_choice_circular"]["model"] == report.overall["existence_f1"]["model"] == 1
    assert report.to_json()["overall"] == report.overall


def test_without_circular_there_is_no_such_score():
    benchmark = PrimerBenchmark(tasks=("multiple_choice",), scenes=("shapes",))
    rows = benchmark.rows("val", 4)
    assert evaluate(Engine(rows, lambda asked: asked.answer), benchmark, limit=4).overall == {}
