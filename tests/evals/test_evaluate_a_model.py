"""The whole way, from drawn pictures to a table, with a model that was never trained."""

from __future__ import annotations

import json

import pytest

import phantrol
from phantrol.evals.benchmarks.primer import PrimerBenchmark
from phantrol.evals.runner import Wanted, evaluate, run_benchmarks
from phantrol.inference.engine import Engine
from phantrol.models.tokenizer import train_tokenizer


@pytest.fixture
def engine(tiny_model):
    tokenizer = train_tokenizer(["What color is the circle? red blue green"] * 4, 300)
    return Engine(*tiny_model(tokenizer, [phantrol.TrolConfig(gate_bias=0.2)], image_px=64, noise=0.4))


def test_a_model_on_primer(engine):
    benchmark = PrimerBenchmark(tasks=("colour_several", "multiple_choice", "text_only"), max_new_tokens=5)
    report = evaluate(engine, benchmark, limit=8, batch_size=5)
    assert [scores["n"] for scores in report.scores.values()] == [8, 8, 8]
    # the answers in the report are those that the engine gives to the rows one by one
    rows = benchmark.rows("val", 8)
    assert [sample.texts["model"] for sample in report.samples] == [
        engine.answer(row.chat, max_new_tokens=5).text for row in rows
    ]
    # with another picture the model says something else, mostly; without one it cannot
    changed = [sample.task for sample in report.samples if sample.texts["model"] != sample.texts["shuffled"]]
    assert len(changed) > 4
    assert "text_only" not in changed


def test_a_saved_model_is_evaluated_by_name(engine, tmp_path, capsys):
    engine.model.save_pretrained(tmp_path / "model")
    engine.processor.save_pretrained(tmp_path / "model")
    users_file = tmp_path / "small.py"
    users_file.write_text(
        "from phantrol.evals.benchmarks.primer import PrimerBenchmark\n"
        "class Small(PrimerBenchmark):\n"
        "    def __init__(self):\n"
        "        super().__init__(tasks=('shape',), max_new_tokens=4)\n"
        "BENCHMARK = Small\n"
    )
    path = tmp_path / "scores.json"
    wanted = Wanted(limit=6, seed=2)
    (report,) = run_benchmarks(str(tmp_path / "model"), [str(users_file)], wanted, json_path=path)
    written = json.loads(path.read_text())
    assert written == report.to_json()
    assert written["model"] == str(tmp_path / "model")
    assert (written["split"], written["seed"], written["scores"]["shape"]["n"]) == ("val", 2, 6)
    rows = PrimerBenchmark(tasks=("shape",)).rows("val", 6, seed=2)
    expected = [engine.answer(row.chat, max_new_tokens=4).text for row in rows]
    assert [sample.texts["model"] for sample in report.samples] == expected
    assert "text-only prior" in capsys.readouterr().out
