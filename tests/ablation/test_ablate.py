"""The experiment from its command to its report, stopped and gone on with."""

from __future__ import annotations

import csv
import json
from dataclasses import replace

import pytest
from PIL import Image

from phantrol.ablation import run as module
from phantrol.ablation.asking import benchmark_for, open_as_asked
from phantrol.ablation.costs import digest
from phantrol.ablation.report import accuracy_rows, difference_rows
from phantrol.ablation.results import ALL, Cost, Results
from phantrol.ablation.run import ablate, plan
from phantrol.ablation.statistics import estimate
from phantrol.ablation.variants import VARIANTS, Variant
from phantrol.evals.report import COLUMNS
from phantrol.training import precision
from phantrol.training.faults import RunFault
from phantrol.training.recipe import load_recipe

BY_NAME = {variant.name: variant for variant in VARIANTS}
NAMES = ("trol", "trol_all_none", "phantom_one_bf16")
ALL_NAMES = ("plain", "trol", "trol_all_none", "plain_bf16", "phantom_one_bf16")
SPLITS = ("val", "far")


def start(out, tiny_path, squares, quick, **options):
    given = dict(wanted=NAMES, overrides=quick, seeds=2, limit=3, splits=SPLITS, benchmark=squares) | options
    ablate(tiny_path, out, **given)


@pytest.fixture(scope="module")
def finished(tmp_path_factory, tiny_path, squares, quick):
    """An experiment that was stopped twice, once while it trained and once while it asked, and gone on with."""
    out = tmp_path_factory.mktemp("ablation") / "out"
    trained, asked = [], []
    real_run, real_evaluate = module.run, module.evaluate

    def training(recipe, folder, resume):
        trained.append(folder.relative_to(out).as_posix())
        if len(trained) == 2:
            raise SystemExit(143)
        return real_run(recipe, folder, resume)

    def asking(*args, **options):
        asked.append(args[2])
        if len(asked) == 4:
            raise KeyboardInterrupt
        return real_evaluate(*args, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "run", training)
        patch.setattr(module, "evaluate", asking)
        with pytest.raises(SystemExit):
            start(out, tiny_path, squares, quick)
        first_report = (out / "report.md").read_text()
        with pytest.raises(KeyboardInterrupt):
            start(out, tiny_path, squares, quick)
        start(out, tiny_path, squares, quick)
    return out, trained, asked, first_report


def test_it_goes_on_where_it_stopped(finished):
    out, trained, asked, first_report = finished
    # plain; trol stopped; trol again; after the second stop trol once more, to be asked what is left
    assert trained[:4] == ["runs/plain/seed-3", "runs/trol/seed-3", "runs/trol/seed-3", "runs/trol/seed-3"]
    assert trained.count("runs/plain/seed-3") == 1  # what is finished is not looked at again
    assert sorted(path.relative_to(out).as_posix() for path in out.glob("runs/*/*")) == sorted(
        f"runs/{name}/seed-{seed}" for name in ALL_NAMES if name != "trol_all_none" for seed in (3, 4)
    )
    assert len(asked) == len(ALL_NAMES) * 2 * len(SPLITS) + 1
    assert "**Not finished**" in first_report and "**Not finished**" not in (out / "report.md").read_text()


def test_a_stop_says_how_to_go_on(tmp_path, tiny_path, squares, quick, monkeypatch, capsys):
    def stopped(recipe, folder, resume):
        print("stopped by SIGTERM: go on with --resume")  # which `ablate` does not have
        raise SystemExit(143)

    monkeypatch.setattr(module, "run", stopped)
    with pytest.raises(SystemExit):
        start(tmp_path / "out", tiny_path, squares, quick, wanted=("plain",))
    assert capsys.readouterr().out.endswith(
        "The same command, as it was typed, goes on with the experiment from there.\n"
    )


@pytest.mark.parametrize("fault", [RunFault("a loss of nan", "go on with --resume"), ValueError("a loss of nan")])
def test_what_stops_a_run_is_told_of_its_variant_and_seed(fault, tmp_path, tiny_path, squares, quick, monkeypatch):
    def diverged(recipe, folder, resume):
        raise fault

    monkeypatch.setattr(module, "run", diverged)
    with pytest.raises(ValueError, match=r"^variant plain, seed 3: a loss of nan; leave the variant out") as caught:
        start(tmp_path / "out", tiny_path, squares, quick, wanted=("plain",))
    assert "--resume" not in str(caught.value)


def test_a_stop_leaves_no_trace_in_the_results(finished, tmp_path, tiny_path, squares, quick):
    start(tmp_path / "whole", tiny_path, squares, quick, wanted=("trol",), seeds=1)
    for name in ("plain", "trol"):
        for split in SPLITS:
            path = f"answers/{name}/seed-3/{split}.jsonl"
            assert (tmp_path / "whole" / path).read_text() == (finished[0] / path).read_text()
    report = (tmp_path / "whole" / "report.md").read_text()
    assert " Seed 3. " in report and "with one seed, which says nothing" in report
    assert "comparisons" not in report  # there is no interval that could leave out 0


def test_the_report_holds_what_the_scores_say(finished):
    out = finished[0]
    scores = {}
    for name in ("plain", "trol"):
        for seed in (3, 4):
            written = json.loads((out / "answers" / name / f"seed-{seed}" / "far.json").read_text())
            assert (written["seed"], written["split"]) == (seed, "far")
            scores[name, seed] = sum(row["model"] for row in written["scores"].values()) / 2
    apart = estimate([scores["trol", seed] - scores["plain", seed] for seed in (3, 4)])
    with (out / "results.csv").open() as file:
        rows = {(row["variant"], row["split"], row["family"]): row for row in csv.DictReader(file)}
    row = rows["trol", "far", "all tasks"]
    assert float(row["difference"]) == pytest.approx(apart.mean)
    assert float(row["difference_low"]) == pytest.approx(apart.low)
    assert row["verdict"] == apart.verdict
    assert float(row["accuracy"]) == pytest.approx((scores["trol", 3] + scores["trol", 4]) / 2)
    assert (row["seeds"], row["questions_a_seed"], row["against"]) == ("2", "6", "plain")
    assert set(rows) == {(n, s, f) for n in ALL_NAMES for s in SPLITS for f in ("all tasks", "color", "tell")}
    assert rows["phantom_one_bf16", "val", "color"]["against"] == "plain_bf16"
    found = json.loads((out / "results.json").read_text())
    assert len(found["rows"]) == len(rows) and set(found["observed"]) == {"trol"}


def test_the_report_says_it_in_words(finished):
    report = (finished[0] / "report.md").read_text()
    assert "- trol against plain: val " in report and "- phantom_one_bf16 against plain_bf16: " in report
    assert "Trained alike, and therefore trained once: trol_all_none = trol." in report
    assert "These are 8 comparisons" in report
    assert "no difference seen" in report
    for figure in ("accuracy", "differences", "families", "cost"):
        assert f"](figures/{figure}.png)" in report
        picture = Image.open(finished[0] / "figures" / f"{figure}.png").convert("RGB")
        assert min(picture.size) > 200 and len(picture.getcolors(1 << 24)) > 8


def test_pairs_are_asked_the_same_questions(finished):
    def questions(name, seed):
        lines = (finished[0] / "answers" / name / f"seed-{seed}" / "val.jsonl").read_text().splitlines()
        return [json.loads(line)["question"] for line in lines]

    assert questions("trol", 3) == questions("plain", 3) == questions("phantom_one_bf16", 3)
    assert questions("trol", 4) == questions("plain", 4) != questions("plain", 3)


def test_what_was_finished_is_reported_without_training(finished, tiny_path, squares, quick, monkeypatch, capsys):
    monkeypatch.setattr(module, "run", lambda *args, **options: pytest.fail("trained again"))
    start(finished[0], tiny_path, squares, quick)
    assert "trol against plain: val" in capsys.readouterr().out


def test_a_difference_says_how_many_seeds_it_rests_on():
    scores = {"plain": {3: 0.5, 4: 0.6}, "trol": {3: 0.6, 4: 0.6, 5: 0.9}}
    found = {(name, "val", ALL, column): values for name, values in scores.items() for column in COLUMNS}
    costs = dict.fromkeys(scores, Cost(1, 1.0, 1.0))
    results = Results((BY_NAME["plain"], BY_NAME["trol"]), costs, found, {("val", ALL): 8})
    assert [row[:3] for row in accuracy_rows(results, "val")[1:]] == [
        ["plain", "2", "55.0 ± 63.5"],
        ["trol", "3", "70.0 ± 43.0"],
    ]
    assert difference_rows(results, "val")[1:] == [["trol", "plain", "2", "+5.0 ± 63.5"]]
    assert [(row["seeds"], row["difference_seeds"]) for row in results.rows()] == [(2, None), (3, 2)]


def test_a_model_is_asked_as_its_variant_says(finished):
    final = finished[0] / "runs" / "trol" / "seed-3" / "final"
    layers = {}
    for name in ("trol", "trol_all_prompt", "trol_all_none"):
        engine = open_as_asked(final, BY_NAME[name])
        layer = engine.model.get_decoder().layers[0]
        layers[name] = getattr(layer, "traversal_tokens", None)
    assert layers == {"trol": "all", "trol_all_prompt": "prompt", "trol_all_none": None}
    final = finished[0] / "runs" / "phantom_one_bf16" / "seed-3" / "final"
    assert str(open_as_asked(final, BY_NAME["phantom_one_bf16"]).model.dtype) == "torch.bfloat16"
    taken = open_as_asked(final, BY_NAME["phantom_taken_out"]).model
    assert not [name for name, _ in taken.named_parameters() if "phantom" in name]


def test_another_experiment_is_refused(finished, tmp_path, tiny_path, squares, quick):
    before = {path: path.stat().st_mtime_ns for path in finished[0].rglob("*")}
    with pytest.raises(ValueError, match="begun otherwise: got limit: 5, not 3"):
        start(finished[0], tiny_path, squares, quick, limit=5)
    with pytest.raises(ValueError, match=r"begun otherwise: got stages.0.lr: 0.5, not 0.01"):
        start(finished[0], tiny_path, squares, (*quick, "stages.0.lr=0.5"))
    mine = tmp_path / "mine.py"
    mine.write_text(
        "from phantrol.ablation.variants import Variant\nVARIANTS = (Variant('trol', 'y', trol={'passes': 3}),)\n"
    )
    with pytest.raises(ValueError, match="variant trol was another one when this folder was begun"):
        start(finished[0], tiny_path, squares, quick, wanted=(str(mine),))
    mine.write_text(mine.read_text().replace("trol={'passes': 3}", "trol={}, asked_tokens='all'"))
    with pytest.raises(ValueError, match="variant trol was another one when this folder was begun"):
        start(finished[0], tiny_path, squares, quick, wanted=(str(mine),))
    assert {path: path.stat().st_mtime_ns for path in finished[0].rglob("*")} == before
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="got a folder in use"):
        start(tmp_path / "full", tiny_path, squares, quick)
    for options, complaint in (
        ({"wanted": ("nothing",)}, "unknown variant 'nothing'"),
        ({"splits": ("near",)}, "unknown split 'near'"),
        ({"benchmark": None}, "name what to ask, with --benchmark"),
    ):
        with pytest.raises(ValueError, match=complaint):
            start(tmp_path / "new", tiny_path, squares, quick, **options)
    assert not (tmp_path / "new").exists()


def test_a_variant_that_is_asked_otherwise_is_another_one(tiny_recipe):
    recipe = tiny_recipe()
    asked = Variant("mine", "", trol={}, asked_tokens="none")
    (arm,) = plan(recipe, (asked,))
    begun = {"what": "", "trained_as": "mine", "recipe_digest": digest(arm.recipe)}
    assert plan(recipe, (asked,), begun={"mine": begun}) == (arm,)  # of a folder that an older version began
    begun |= {"asked_tokens": "none", "asked_without_phantom": False}
    assert plan(recipe, (asked,), begun={"mine": begun}) == (arm,)
    for change in ({"asked_tokens": None}, {"asked_tokens": "prompt"}, {"asked_without_phantom": True}):
        with pytest.raises(ValueError, match="variant mine was another one when this folder was begun"):
            plan(recipe, (replace(asked, **change),), begun={"mine": begun})


def test_a_folder_that_cannot_be_made_is_found_before_anything_is_counted(
    tmp_path, tiny_path, squares, quick, monkeypatch
):
    (tmp_path / "file").write_text("mine")
    monkeypatch.setattr(module, "_costs", lambda *args: pytest.fail("costs were counted"))
    with pytest.raises(ValueError, match="out is no folder"):
        start(tmp_path / "file" / "out", tiny_path, squares, quick)


def test_a_dry_run_writes_nothing(tmp_path, tiny_path, squares, quick, capsys):
    start(tmp_path / "new", tiny_path, squares, quick, wanted=("trol",), dry_run=True)
    assert not (tmp_path / "new").exists()
    assert "training FLOPs" in capsys.readouterr().out


def test_what_computes_alike_on_this_machine_trains_once(tmp_path, tiny_path, squares, quick, monkeypatch, capsys):
    monkeypatch.setattr(precision, "multiplies_bfloat16", lambda device: False)
    auto = (*quick, "stages.align.precision=auto", "stages.tune.precision=auto")
    start(tmp_path / "new", tiny_path, squares, auto, wanted=("plain_fp32", "plain_bf16"), dry_run=True)
    said = capsys.readouterr().out
    assert "plain_fp32 trains as plain does" in said and "plain_bf16 trains as" not in said


def test_models_are_dropped_once_they_were_asked(tmp_path, tiny_path, squares, quick, monkeypatch):
    out = tmp_path / "out"
    options = dict(wanted=("plain",), seeds=1, drop_models=True, splits=("val",))
    start(out, tiny_path, squares, quick, **options)
    assert not list(out.rglob("*.safetensors")) and (out / "runs" / "plain" / "seed-3" / "metrics.jsonl").is_file()
    start(out, tiny_path, squares, quick, **options)  # all is there, nothing to train
    monkeypatch.setattr(module, "run", lambda *args, **options: pytest.fail("trained before the refusal"))
    before = (out / "ablation.json").read_text()
    with pytest.raises(ValueError, match="was dropped when its questions had been asked"):
        start(out, tiny_path, squares, quick, **(options | {"wanted": ("trol", "plain"), "splits": ("val", "far")}))
    assert (out / "ablation.json").read_text() == before


def test_a_kill_before_the_index_is_there_leaves_a_folder_that_goes_on(
    tmp_path, tiny_path, squares, quick, monkeypatch
):
    monkeypatch.setattr(module, "plan", lambda *args: (_ for _ in ()).throw(InterruptedError))
    for name in (".costs.json.writing", "costs.json", ".ablation.json.writing"):
        (tmp_path / name).write_text("{}")
        with pytest.raises(InterruptedError):  # it was let in
            start(tmp_path, tiny_path, squares, quick, wanted=("plain",))


def test_what_a_recipe_taught_is_asked():
    recipe = load_recipe("primer_tiny")
    tasks = benchmark_for(recipe, "val").tasks
    assert {"shape", "left_right", "captions"} < set(tasks) and "count_by_colour" not in tasks
    assert "colour_one" not in benchmark_for(recipe, "test_hard").tasks
    assert benchmark_for(recipe, "val").scenes == ("shapes",)
