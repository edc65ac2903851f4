"""Frozen weights in bfloat16 while a stage computes in it: half the memory, and the same bits."""

from __future__ import annotations

import contextlib
from dataclasses import replace

import pytest
import torch
from torch import nn

from phantrol.training import trainer as trainer_module
from phantrol.training.frozen_weights import held_in
from phantrol.training.new_model import Lora
from phantrol.training.trainable import is_added
from phantrol.training.trainer import StageTrainer

TRAINED = ("projector.*", "*lora_*", "*traversal_gate*")


def decoder_maps(model: nn.Module) -> dict[str, nn.Linear]:
    found = {name: module for name, module in model.named_modules() if type(module) is nn.Linear}
    own = {name: module for name, module in found.items() if ".layers." in name and "language_model" in name}
    return {name: module for name, module in own.items() if not is_added(name + ".weight")}


@pytest.fixture
def train(tiny_recipe, tmp_path):
    """`train(exact)` trains adapters in bfloat16 on weights that bfloat16 holds, or not, and returns the trainer."""

    def trained(exact: bool, folder: str, seen: list | None = None, **change) -> StageTrainer:
        made = tiny_recipe()
        stage = replace(made.stages[1], train=TRAINED, precision="bfloat16", lr=1e-2, optimiser="adamw", **change)
        recipe = replace(made, model=replace(made.model, lora=Lora(rank=2, alpha=8)), stages=(stage,))
        torch.manual_seed(0)
        model, processor = recipe.model.build()
        one = StageTrainer(model, processor, recipe, 0, tmp_path / folder)
        if exact:
            for module in decoder_maps(model).values():
                module.weight.data = module.weight.data.bfloat16().float()
        if seen is not None:
            step = one.training_step

            def look(*args, **kwargs):
                seen.append({name: module.weight.dtype for name, module in decoder_maps(model).items()})
                return step(*args, **kwargs)

            one.training_step = look
        assert one.train()
        return one

    return trained


def same(one: StageTrainer, other: StageTrainer) -> bool:
    pairs = zip(one.model.state_dict().items(), other.model.state_dict().items(), strict=True)
    return all(a == b and torch.equal(x, y) for (a, x), (b, y) in pairs)


def test_the_same_bits_in_half_the_memory(train, monkeypatch):
    seen: list[dict[str, torch.dtype]] = []
    held = train(True, "held", seen)
    assert len(seen) >= 4
    assert all(len(dtypes) == 2 * 7 and set(dtypes.values()) == {torch.bfloat16} for dtypes in seen)
    assert {tensor.dtype for tensor in held.model.parameters()} == {torch.float32}
    monkeypatch.setattr(trainer_module, "held_in", lambda model, dtype: contextlib.nullcontext())
    assert same(held, train(True, "wide"))
    assert not same(held, train(True, "other", max_steps=3))  # control: one step less is seen


def test_weights_that_would_be_rounded_stay_as_they_are(train, monkeypatch):
    seen: list[dict[str, torch.dtype]] = []
    held = train(False, "held", seen)
    assert {dtype for dtypes in seen for dtype in dtypes.values()} == {torch.float32}
    monkeypatch.setattr(trainer_module, "held_in", lambda model, dtype: contextlib.nullcontext())
    assert same(held, train(False, "wide"))


def test_what_is_left_alone():
    class Special(nn.Linear):
        pass

    model = nn.ModuleDict(
        dict(
            frozen=nn.Linear(3, 4),
            trained=nn.Linear(3, 4),
            embedding=nn.Embedding(4, 3),
            head=nn.Linear(3, 4),
            special=Special(3, 4),
            wide=nn.Linear(3, 4).double(),
            small=nn.Linear(3, 4).bfloat16(),
            traversal_gate=nn.Linear(3, 1),
        )
    ).requires_grad_(False)
    for parameter in model.parameters():
        parameter.data.fill_(0.5)
    model["trained"].requires_grad_(True)
    model["head"].weight = model["embedding"].weight
    before = {name: parameter.dtype for name, parameter in model.named_parameters()}
    with held_in(model, torch.bfloat16) as numbers:
        changed = {name for name, parameter in model.named_parameters() if parameter.dtype != before[name]}
    assert changed == {"frozen.weight"} and numbers == 12
    assert {name: parameter.dtype for name, parameter in model.named_parameters()} == before


def test_an_error_gives_them_back():
    model = nn.Sequential(nn.Linear(2, 2)).requires_grad_(False)
    model[0].weight.data.fill_(0.25)
    with pytest.raises(RuntimeError), held_in(model, torch.bfloat16):
        raise RuntimeError
    assert model[0].weight.dtype == torch.float32
