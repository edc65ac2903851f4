"""`phantrol report`: a run is asked in several splits, stopped in between, and says in its folder what it can."""

import json
import shutil
from types import SimpleNamespace

import pytest
import torch

from phantrol.inference.engine import Engine
from phantrol.reporting import facts_of, training_seconds
from phantrol.training.checkpoint import check_whole
from phantrol.training.recipe import load_recipe
from phantrol.training.recipe_json import recipe_to_json

SPLITS = ("val", "test_comp")
OPTIONS = ("--split", ",".join(SPLITS), "--limit", 2, "--batch-size", 4)


class Stopped(BaseException):
    """As a kill is: nothing catches it."""


@pytest.fixture(scope="module")
def asked(workplace, phantrol, tmp_path_factory):
    """A copy of the demo's run whose report was stopped after some answers of the second split and gone on with.

    Returns the folder, how many questions were answered in each of three calls, and what the last call said.
    """
    folder = tmp_path_factory.mktemp("asked") / "run"
    shutil.copytree(workplace.folder / "runs" / "demo", folder)
    counts, real = [], Engine._generate

    def counting(engine, prompts, *args):
        if len(counts) == 1 and counts[0] > 40:
            raise Stopped
        counts[-1] += len(prompts)
        return real(engine, prompts, *args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Engine, "_generate", counting)
        counts.append(0)
        with pytest.raises(Stopped):
            phantrol("report", folder, *OPTIONS)
        assert not (folder / "scores" / "test_comp.json").exists(), "nothing half-written"
        for _ in range(2):
            counts.append(0)
            done = phantrol("report", folder, *OPTIONS)
            assert done.code == 0, done.error
    return folder, counts, done


def test_a_stopped_report_asks_only_what_is_left(asked):
    _, (first, second, third), _ = asked
    per_split = 8 * 2 * 2  # seven tasks and captions, two questions, with their own picture and another
    assert first > 40 and 0 < second < per_split
    assert first + second <= 2 * per_split
    assert third == 0


def test_scores_by_family_and_split(asked):
    folder, _, done = asked
    means = json.loads((folder / "scores.json").read_text())
    assert tuple(means) == SPLITS
    assert f"The report is {folder}/report.html, the model with its card in {folder}/final.\n" in done.out, "one line"
    for split in SPLITS:
        scores = json.loads((folder / "scores" / f"{split}.json").read_text())
        tasks = [name for name in scores["scores"] if name != "captions_exact"]
        assert means[split]["all"]["n"] == 2 * len(tasks) == 16
        for column in ("model", "shuffled", "prior"):
            by_hand = sum(scores["scores"][task][column] for task in tasks) / len(tasks)
            assert means[split]["all"][column] == pytest.approx(by_hand)
        attributes = [scores["scores"][task]["prior"] for task in ("shape", "colour_one", "colour_several")]
        assert means[split]["attributes"]["prior"] == pytest.approx(sum(attributes) / 3)


def test_the_card_has_the_scores_and_the_folder_is_whole(asked, workplace):
    final = asked[0] / "final"
    card, before = (final / "README.md").read_text(), (workplace.folder / "runs/demo/final/README.md").read_text()
    assert "## Scores" in card and '"test_comp"' in card and "(shuffled " in card and "## Scores" not in before
    assert card.replace(card[card.index("## Scores") : card.index("## Use")], "") == before
    check_whole(final)
    (final / "README.md").write_text(card + "x")
    with pytest.raises(ValueError, match="README"):
        check_whole(final)
    (final / "README.md").write_text(card)


def test_the_page(asked):
    page = (asked[0] / "report.html").read_text()
    for words in ("TroL and Phantom", "Mean of all tasks: val ", "; test_comp ", 'id="gallery"', 'id="traversal"'):
        assert words in page, words


@pytest.mark.parametrize("device", ["mps", "cpu", "cuda:1"])
def test_the_device_in_words(monkeypatch, device):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"the GPU {device}")
    words = {"mps": "mps", "cpu": f"{torch.get_num_threads()} CPU threads", "cuda:1": "the GPU cuda:1"}
    model = SimpleNamespace(
        device=torch.device(device),
        config=SimpleNamespace(modifiers=[]),
        parameters=list,
        get_decoder=lambda: SimpleNamespace(layers=[]),
    )
    facts = facts_of(SimpleNamespace(model=model), [])
    assert facts == {"modifiers": [], "parameters": 0, "device": words[device], "traversals": []}


def test_the_time_that_steps_took():
    lines = [
        {"stage": "align", "step": 10, "step_s": 0.5},
        {"stage": "align", "step": 12, "step_s": 1.0},
        {"stage": "align", "step": 12, "eval_loss": 1.0},
        {"stage": "tune", "step": 3, "step_s": 2.0},
    ]
    assert training_seconds(lines) == 5 + 2 + 6


def test_a_run_on_other_data_is_told_what_else_to_do(tmp_path, phantrol):
    final, recipe = tmp_path / "final", load_recipe("finetune_lora", ["model=m", "data=mine.jsonl"])
    final.mkdir()
    (final / "recipe.json").write_text(recipe_to_json(recipe))
    done = phantrol("report", tmp_path)
    assert done.code == 2 and "does not train on Primer, expected one that does, whose questions" in done.error
    assert done.error.endswith(f"phantrol eval {final} BENCHMARK\n") and "--benchmark" not in done.error


def test_no_finished_run(tmp_path, phantrol):
    done = phantrol("report", tmp_path)
    assert done.code == 2 and "got no final model, expected a run that is finished" in done.error
    assert done.error.count("\n") == 1 and not list(tmp_path.iterdir())
