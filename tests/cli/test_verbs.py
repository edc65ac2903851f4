"""Each verb as its user types it."""

import json
import os
import resource
import subprocess
import sys

import pytest
import torch

from phantrol.version import __version__


def test_demo_leaves_what_it_promises(workplace):
    demo = workplace.folder / "runs" / "demo"
    for name in ("scores.json", "report.html", "picture.png", "final/model.safetensors", "metrics.jsonl"):
        assert (demo / name).stat().st_size > 0, name
    scores = json.loads((demo / "scores.json").read_text())
    assert set(scores) == {"benchmark", "split", "model", "seed", "scores", "overall"}
    assert "existence_f1" in scores["overall"] and "existence_f1" not in scores["scores"]
    assert {"shape", "existence", "count", "colour_one"} <= set(scores["scores"])
    assert all(set(row) == {"model", "shuffled", "prior", "n"} for row in scores["scores"].values())
    for words in ("shuffled images", "text-only prior", "the model says", "phantrol ask"):
        assert words in workplace.out, words
    rows = [json.loads(line) for line in (demo / "metrics.jsonl").read_text().splitlines()]
    assert {row["stage"] for row in rows} == {"align", "tune", "prefer"}
    assert any("reward_accuracy" in row for row in rows)


def test_report_needs_no_network(workplace):
    page = (workplace.folder / "runs" / "demo" / "report.html").read_text()
    for outside in ('src="http', 'href="http', "@import", "url(http", "<link"):
        assert outside not in page


def test_a_demo_without_grafts_reports_too(here, phantrol, quick):
    done = phantrol("demo", "--limit", 2, "--out", "runs/plain", "model.modifiers=", *quick)
    assert done.code == 0, done.error
    page = (here / "runs" / "plain" / "report.html").read_text()
    assert " parameters, trained by the recipe " in page and "TroL" not in page
    assert 'id="traversal"' not in page and "look twice" not in page


def test_a_second_demo_takes_another_folder(here):
    from phantrol.demo import _free_folder

    assert str(_free_folder()) == "runs/demo-2"


def test_eval_writes_scores(here, phantrol):
    done = phantrol(
        "eval", "runs/demo/final", "primer", "tasks=shape,count", "scenes=shapes", "--limit", 3, "--json", "s.json"
    )
    assert done.code == 0, done.error
    scores = json.loads((here / "s.json").read_text())
    assert scores["benchmark"] == "primer" and scores["split"] == "val" and scores["seed"] == 0
    assert list(scores["scores"]) == ["shape", "count"]
    assert scores["scores"]["shape"]["n"] == 3


def test_ask_with_and_without_a_picture(here, phantrol):
    for args in (["runs/demo/picture.png", "What is this?"], ["Two plus two?"]):
        done = phantrol("ask", "runs/demo/final", *args, "--max-new-tokens", 3)
        assert done.code == 0, done.error


def test_ask_with_beams_prints_the_same_kind_of_answer(here, phantrol):
    from phantrol.inference.engine import Engine

    best = Engine.open("runs/demo/final").answer(
        [{"role": "user", "content": "Two plus two?"}], max_new_tokens=6, num_beams=4
    )
    done = phantrol("ask", "runs/demo/final", "Two plus two?", "--beams", 4, "--max-new-tokens", 6)
    assert (done.code, done.out.strip()) == (0, best.text)
    assert phantrol("ask", "runs/demo/final", "Two plus two?", "--beams", 0).code == 2


def test_ask_with_smaller_weights(here, phantrol):
    done = phantrol(
        "ask", "runs/demo/final", "runs/demo/picture.png", "What?", "--weights", "int8", "--max-new-tokens", 3
    )
    assert done.code == 0, done.error
    done = phantrol("ask", "runs/demo/final", "What?", "--weights", "int2")
    assert done.code == 2 and "'int2': expected int8 or int4" in done.error


def test_a_placeholder_typed_by_a_user_is_text(here, phantrol):
    done = phantrol("ask", "runs/demo/final", "runs/demo/picture.png", "Is <image> a picture?", "--max-new-tokens", 2)
    assert done.code == 0, done.error


def test_describe_model_and_recipe(here, phantrol):
    model = phantrol("describe", "runs/demo/final")
    assert "language_model" in model.out and "grafted: trol" in model.out
    recipe = phantrol("describe", "primer_tiny", "stages.tune.max_steps=77")
    assert "77" in recipe.out and "PhantomOptimization" in recipe.out


def test_list(phantrol):
    everything = phantrol("list").out
    for name in ("trol", "phantom", "phantom_optimization", "primer", "primer_tiny"):
        assert name in everything
    assert phantrol("list", "modifiers").out.split() == ["partial_lora", "phantom", "trol"]


def test_dry_run_writes_nothing(here, phantrol, quick):
    before = sorted(here.rglob("*"))
    done = phantrol("train", "primer_tiny", *quick, "--dry-run")
    assert done.code == 0, done.error
    assert "traversal_gate" in done.out
    assert sorted(here.rglob("*")) == before


def test_version(phantrol):
    assert phantrol("--version").out == f"phantrol {__version__}\n"


def test_doctor(phantrol):
    done = phantrol("doctor")
    assert "torch" in done.out and "transformers" in done.out
    assert f"phantrol {__version__} in " in done.out
    assert done.code == 0, done.out


@pytest.mark.parametrize(
    "has, line", [(True, "ok    bfloat16: this cpu has"), (False, "note  no bfloat16: this cpu has no")]
)
def test_doctor_says_whether_bfloat16_is_multiplied(phantrol, monkeypatch, has, line):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": has}, raising=False)
    done = phantrol("doctor")
    assert line in done.out and ("--weights float32" in done.out) is not has


def test_a_cuda_build_without_a_gpu_is_a_cpu(phantrol, monkeypatch):
    found = torch.device("cuda")
    monkeypatch.setattr(
        torch.accelerator, "current_accelerator", lambda check_available=False: None if check_available else found
    )
    assert "bfloat16: this cpu has" in phantrol("doctor").out


@pytest.mark.parametrize(("cuda", "says"), [(None, "bad   torchvision 0.1"), ("13.0", "note  torchvision 0.1")])
def test_doctor_names_a_trap(phantrol, monkeypatch, cuda, says):
    import importlib.metadata

    monkeypatch.setattr(torch.version, "cuda", cuda)
    monkeypatch.setattr(torch.version, "hip", None)
    real = importlib.metadata.version
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "0.1" if name == "torchvision" else real(name))
    done = phantrol("doctor")
    assert done.code == (cuda is None)
    assert f"{says} installed" in done.out and ("pip uninstall" in done.out) == (cuda is None)


def cpu_s(*words):
    """CPU seconds of Python in a process of its own, the least of three: a clock would measure who else is at work."""
    taken = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, *words], capture_output=True, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        taken.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return min(taken)


def test_help_imports_nothing_heavy():
    """Measured: 0.17 s, and 0.21 s for its libraries alone; torch takes 1.6 s."""
    assert cpu_s("-m", "phantrol.cli", "--help") < 3 * cpu_s("-c", "import rich.table, typer.rich_utils")
    code = "import sys, phantrol.cli; print(sorted({'torch', 'transformers', 'PIL', 'numpy'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"


@pytest.mark.parametrize("verb", ["list", "--help", "doctor"])  # with typer's echo, click's own, and rich
def test_a_reader_who_has_left_ends_it_without_a_word(verb):
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb") as nobody:
        done = subprocess.run([sys.executable, "-m", "phantrol.cli", verb], stdout=nobody, stderr=subprocess.PIPE)
    assert (done.returncode, done.stderr) == (141, b"")  # 128 + SIGPIPE: what it does may have ended too early


@pytest.mark.parametrize("what", ["train", "demo"])
def test_a_folder_in_use_is_refused(here, phantrol, quick, what):
    args = ["train", "primer_tiny"] if what == "train" else ["demo"]
    done = phantrol(*args, *quick, "--out", "runs/demo")
    assert done.code == 2
    assert "runs/demo" in done.error and "in use" in done.error
