"""The whole way through lmms-eval, offline: a task in its own format, a model by its entry point, its cache."""

from __future__ import annotations

import runpy
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import phantrol
from phantrol.evals.benchmarks.primer import PrimerBenchmark
from phantrol.evals.lmms import fingerprints, manifest, model_args, run_lmms
from phantrol.inference.engine import Engine
from phantrol.models.tokenizer import train_tokenizer

TASK = """\
dataset_path: parquet
dataset_kwargs:
  data_files:
    test: {folder}/test.parquet
task: shapes
test_split: test
output_type: generate_until
doc_to_visual: !function utils.visuals
doc_to_text: "{{{{question}}}}"
doc_to_target: "{{{{answer}}}}"
generation_kwargs:
  max_new_tokens: 5
process_results: !function utils.results
metric_list:
  - metric: exact
    aggregation: mean
    higher_is_better: true
metadata:
  version: 0
"""
UTILS = """\
def visuals(doc):
    return [doc["image"].convert("RGB")]


def results(doc, said):
    return {"exact": float(said[0] == doc["said"])}
"""
ROWS = 6


@pytest.fixture
def lmms_eval(tmp_path, monkeypatch):
    """lmms-eval, with its caches in a folder of the test's own."""
    monkeypatch.setenv("LMMS_EVAL_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    return pytest.importorskip("lmms_eval")


@pytest.fixture
def saved(tiny_model, tmp_path):
    """A function that saves a model with other weights for another seed, always in the same folder."""

    def save(seed):
        tokenizer = train_tokenizer(["What color is the circle? red blue green How many"] * 4, 300)
        made, processor = tiny_model(tokenizer, [phantrol.TrolConfig(gate_bias=0.2)], image_px=64, noise=0.4, seed=seed)
        made.save_pretrained(tmp_path / "model")
        processor.save_pretrained(tmp_path / "model")
        return str(tmp_path / "model")

    return save


def write_task(folder, engine):
    """Write a task whose right answers are what the engine says to each question alone."""
    import datasets

    rows = PrimerBenchmark(tasks=("shape", "count"), scenes=("shapes",)).rows("val", ROWS)
    said = [engine.answer(row.chat, max_new_tokens=5).text for row in rows]
    table = [
        {"image": row.chat[0]["content"][0]["image"], "question": row.chat[0]["content"][1]["text"], "said": text}
        for row, text in zip(rows, said, strict=True)
    ]
    folder.mkdir()
    data = datasets.Dataset.from_list([{**row, "answer": row["said"]} for row in table])
    data.cast_column("image", datasets.Image()).to_parquet(str(folder / "test.parquet"))
    (folder / "shapes.yaml").write_text(TASK.format(folder=folder))
    (folder / "utils.py").write_text(UTILS)
    return said


def run(folder, arguments, cache=None):
    from lmms_eval.evaluator import simple_evaluate
    from lmms_eval.models import MODEL_REGISTRY_V2
    from lmms_eval.tasks import TaskManager

    MODEL_REGISTRY_V2.register_manifest(manifest(), overwrite=True)
    return simple_evaluate(
        model="phantrol",
        model_args=arguments,
        tasks=["shapes"],
        batch_size=4,
        task_manager=TaskManager(include_path=str(folder), include_defaults=False),
        use_cache=None if cache is None else str(cache),
        bootstrap_iters=0,
    )


def test_a_task_of_lmms_eval_and_its_cache(lmms_eval, saved, tmp_path):
    model = saved(0)
    said = write_task(tmp_path / "task", Engine.open(model))
    assert len(set(said)) > 2
    first = run(tmp_path / "task", model_args(model), tmp_path / "cache")
    assert first["results"]["shapes"]["exact,none"] == 1
    assert [sample["filtered_resps"][0] for sample in first["samples"]["shapes"]] == said
    # other weights in the same folder: the answers of before must not be theirs
    before = model_args(model)
    assert saved(1) == model
    with pytest.raises(ValueError, match="not those of"):
        run(tmp_path / "task", before, tmp_path / "cache")
    second = run(tmp_path / "task", model_args(model), tmp_path / "cache")
    assert second["results"]["shapes"]["exact,none"] < 1
    engine = Engine.open(model)
    rows = PrimerBenchmark(tasks=("shape", "count"), scenes=("shapes",)).rows("val", ROWS)
    now = [engine.answer(row.chat, max_new_tokens=5).text for row in rows]
    assert [sample["filtered_resps"][0] for sample in second["samples"]["shapes"]] == now != said


def test_the_entry_point_gives_the_manifest(lmms_eval):
    points = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]["entry-points"]
    module, _, name = points["lmms_eval.models"]["phantrol"].partition(":")
    given = getattr(sys.modules[module], name)()
    assert given.model_id == "phantrol"
    assert given.chat_class_path == "phantrol.evals.lmms_model.Phantrol"


def test_what_a_task_wants_of_an_answer(lmms_eval):
    from phantrol.evals.lmms_model import _generation, _part, _until

    assert _generation({"temperature": 0.2, "do_sample": False}) == (256, {"num_beams": 1})
    assert _generation({"max_new_tokens": 8, "num_beams": 3}) == (8, {"num_beams": 3})
    sampled = _generation({"temperature": 0.5, "do_sample": True, "top_p": 0.9})[1]
    assert sampled == {"num_beams": 1, "do_sample": True, "temperature": 0.5, "top_p": 0.9}
    assert _until("yes\n\nQ: no", ["\n\n", "Q:"]) == "yes"
    assert _until("yes", None) == "yes"
    with pytest.raises(ValueError, match="shows video"):
        _part({"type": "video", "url": "a.mp4"}, "films")


def test_hashes_tell_weights_and_settings_apart(saved):
    model = saved(0)
    before = fingerprints(model)
    assert fingerprints(model) == before
    saved(1)
    after = fingerprints(model)
    assert after["weights_sha256"] != before["weights_sha256"]
    assert after["settings_sha256"] == before["settings_sha256"]
    (Path(model) / "chat_template.jinja").write_text("{{ messages }}")
    assert fingerprints(model)["settings_sha256"] != after["settings_sha256"]


def test_what_is_refused(saved, phantrol_without_lmms):
    with pytest.raises(ValueError, match="no such folder"):
        fingerprints("no/such")
    with pytest.raises(ValueError, match="comma"):
        model_args("runs/a,b")
    with pytest.raises(ValueError, match="lmms-eval is not installed"):
        phantrol_without_lmms(saved(0))


def fails(args):
    raise ValueError("task films shows video")


@pytest.mark.parametrize(
    ("evaluation", "expected"),
    [
        (lambda args: ({"results": {}}, None), 0),
        (lambda args: (None, None), 1),
        (fails, 1),
    ],
)
def test_the_exit_code_of_an_evaluation_that_failed(lmms_eval, saved, monkeypatch, evaluation, expected):
    """lmms-eval itself logs what was raised, and exits with 0."""
    import lmms_eval.__main__ as command

    def run_here(words):
        monkeypatch.setattr(sys, "argv", words[2:])
        try:
            runpy.run_module(words[2], run_name="__main__")
        except SystemExit as end:
            return subprocess.CompletedProcess(words, end.code or 0)

    monkeypatch.setattr(command, "cli_evaluate_single", evaluation)
    for prints in ("make_table", "get_eval_banner"):
        monkeypatch.setattr(command, prints, lambda *of, **others: "a table")
    monkeypatch.setattr(subprocess, "run", run_here)
    assert run_lmms(saved(0), "shapes", 4) == expected
    command.eval_logger.remove()  # it writes to this test's standard output


def test_a_folder_that_is_no_model_is_refused_at_once(tmp_path, phantrol_without_lmms):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match=r"processor_config\.json is missing"):
        phantrol_without_lmms(tmp_path)


@pytest.fixture
def phantrol_without_lmms(monkeypatch):
    from phantrol.evals import lmms

    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    return lambda model: lmms.run_lmms(model, "shapes", 4)
