"""Numbers and data that a run cannot go on with: it stops, and says by which examples."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from phantrol.data.messages import Example, Message
from phantrol.data.mixture import Mixture
from phantrol.losses.sft import Sft
from phantrol.training.checkpoint import checkpoints
from phantrol.training.run import run
from phantrol.training.skipped import read_skipped


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
        told = f"the last checkpoint is {last}, so a resumed run goes on after step {step} of stage align"
        assert told in str(caught.value)
    else:
        assert "there is no checkpoint yet" in str(caught.value)
    assert "--resume" in str(caught.value) and "--resume" not in caught.value.reason
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


@dataclass(frozen=True)
class Lengths:
    """Three rows, each longer than the one before."""

    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> tuple[Example, ...]:
        said = (Message("user", ("Which? " * 10 * (index + 1),)), Message("assistant", ("red",)))
        return (Example(f"row-{index}", said),)


@dataclass(frozen=True)
class Listed(Sft):
    """Writes down which examples it is asked about."""

    path: str = ""

    def __call__(self, model, batch, totals):
        with Path(self.path).open("a") as file:
            file.writelines(f"{name}\n" for name in batch["example_ids"])
        return super().__call__(model, batch, totals)


@pytest.mark.parametrize("longest", [1, 2])
def test_a_row_that_is_longer_than_the_decoder_can_read_is_left_out(tiny_recipe, tmp_path, longest):
    """And one that is just as long is trained."""
    recipe = tiny_recipe()
    processor = recipe.model.build()[1]
    chats = [[message.as_chat() for message in Lengths()[index][0].messages] for index in range(3)]
    tokens = [len(processor.encode(chat).input_ids) for chat in chats]
    text = {**recipe.model.text, "max_position_embeddings": tokens[longest]}
    data, seen = Mixture(((1.0, Lengths()),)), tmp_path / "seen"
    stage = replace(recipe.stages[0], data=data, loss=Listed(str(seen)), train=("language_model.*",), max_steps=3)
    recipe = replace(recipe, model=replace(recipe.model, text=text), stages=(stage,), save_every_steps=100)
    run(recipe, tmp_path / "run")
    assert set(seen.read_text().split()) == {f"row-{index}" for index in range(longest + 1)}
    told = read_skipped(tmp_path / "run" / "skipped.jsonl")
    begins = [f"example row-{n}: got {tokens[n]} tokens, expected at most {tokens[longest]}, " for n in range(3)]
    assert len(told) == 2 - longest and all(row.startswith(begins[2]) for row in told)
