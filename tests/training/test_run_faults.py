"""Numbers and data that a run cannot go on with: it stops, and says by which examples."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import torch
from safetensors.torch import load_file

from phantrol.losses.sft import Sft
from phantrol.training.checkpoint import checkpoints
from phantrol.training.run import run


@dataclass(frozen=True)
class Poisoned(Sft):
    """Goes wrong where one example is in the batch: in the loss, or only in its gradient."""

    where: str = "loss"

    def __call__(self, model, batch, totals):
        output = super().__call__(model, batch, totals)
        if not any(name.startswith("shade") for name in batch["example_ids"]):
            return output
        if self.where == "loss":
            return replace(output, loss=output.loss * float("nan"))
        return replace(output, loss=output.loss + 0 * torch.sqrt(output.loss - output.loss.detach()))


@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_what_is_not_finite_stops_and_names_the_examples(tiny_recipe, tmp_path, where):
    recipe = tiny_recipe("log_every_steps=1", "save_every_steps=1")
    stage = replace(recipe.stages[0], loss=Poisoned(where), batch_size=2, accumulation=1)
    with pytest.raises(
        ValueError, match=r"got a .* of nan, expected a finite number; examples of the batch: "
    ) as caught:
        run(replace(recipe, stages=(stage,)), tmp_path)
    groups = [stage.data.group(index, recipe.stage_seed(0)) for index in range(8)]
    step = next(i for i in range(4) if any("shade" in e.id for group in groups[2 * i : 2 * i + 2] for e in group))
    assert f"stage 'align', step {step + 1}: " in str(caught.value)
    assert ", ".join(example.id for group in groups[2 * step : 2 * step + 2] for example in group) in str(caught.value)
    if step:
        last = tmp_path / f"stages/0-align/checkpoint-{step}"
        assert f"the last checkpoint is {last}, so a resumed run goes on with step {step + 1}" in str(caught.value)
    else:
        assert "there is no checkpoint yet" in str(caught.value)
    weights = [load_file(found.path / "model.safetensors") for found in checkpoints(tmp_path)]
    assert all(torch.isfinite(tensor).all() for tensors in weights for tensor in tensors.values())


def test_a_source_without_pairs_is_found_before_anything_is_built(tiny_recipe, tmp_path, monkeypatch):
    from phantrol.training.new_model import NewModel

    monkeypatch.setattr(NewModel, "build", lambda self: pytest.fail("built"))
    recipe = tiny_recipe()
    kind = type(recipe.stages[0].data.parts[0][1])
    monkeypatch.setattr(kind, "__getitem__", lambda self, i, get=kind.__getitem__: get(self, i)[1:])
    with pytest.raises(ValueError, match=r"stage 'align': got no rejected answer in the first 4 groups"):
        run(recipe, tmp_path)
