"""The card of a final model: written with it, and true."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

from phantrol.data.mixture import Mixture
from phantrol.training.card import model_card
from phantrol.training.checkpoint import check_whole
from phantrol.training.run import run


@dataclass(frozen=True)
class Rows:
    """A source of which nothing is read."""

    path: str
    images: Path | None = None
    limit: int = 3

    def __len__(self) -> int:
        return self.limit

    def __getitem__(self, index: int):
        raise AssertionError(index)


def test_it_is_written_with_the_model_and_says_how_it_was_trained(tiny_recipe, tmp_path):
    (tmp_path / "run").mkdir()
    recipe = tiny_recipe("stages.align.max_steps=1", "stages.tune.max_steps=1")
    final = run(recipe, tmp_path / "run")
    text = (final / "README.md").read_text()
    check_whole(final)  # it is in the manifest, too
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    for words in (
        "library_name: phantrol", "license: other", "Seed 3;", "arXiv:2406.12246", "arXiv:2409.14713", "2 layers of",
        "| align | PhantomOptimization | `projector.*`, `*traversal_gate*`, `*.phantom.*` | 1 | 4 | adamw, 0.01 |",
        f"{lines[-1]['loss']:.4g}", "- align: 67% `Colors()`", "- align: 33% `Colors(length=7, name='shade')`",
        "could not be read: 0", 'phantrol.Engine.open("FOLDER")', "does not know under which licence",
    ):  # fmt: skip
        assert words in text, words
    assert "## Scores" not in text


def test_paths_are_named_by_their_last_part_and_scores_are_shown(tiny_recipe):
    recipe = tiny_recipe()
    data = Mixture(((1.0, Rows("/home/somebody/train.json", Path("/data/pics"))),))
    recipe = replace(recipe, stages=(replace(recipe.stages[0], data=data),))
    model, _ = recipe.model.build()
    text = model_card(model, recipe, [], skipped=2, scores={"shape": 0.75})
    assert "`Rows(path='train.json', images='pics')`" in text and "/home" not in text and "/data" not in text
    assert "could not be read: 2" in text and "| – | – |" in text
    assert '"shape": 0.75' in text.partition("## Scores")[2]
