"""One recipe on several ranks: whole on each (DDP), in shards of torch's FSDP2, and of DeepSpeed's ZeRO."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rank_processes import ENGINES, count_for_themselves, needs_deepspeed, needs_fork, on_ranks, same_curve

import phantrol
from phantrol.losses.sft import Sft
from phantrol.losses.word_alignment import WordAlignment
from phantrol.modifiers.partial_lora import PartialLoraConfig
from phantrol.modifiers.trol import TraversalGate, TrolConfig
from phantrol.training.checkpoint import checkpoints
from phantrol.training.ranks import check_ranks, sharding_of
from phantrol.training.recipe import HeldOut, Recipe
from phantrol.training.run import run
from phantrol.training.sharding import borrowed, units, with_idle_picture

pytestmark = [needs_fork, pytest.mark.usefixtures("deepspeed_imported")]


@pytest.fixture(scope="module")
def alone(two_stages, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("alone") / "run"
    on_ranks(0, lambda: run(two_stages(1), out))
    return out


@pytest.fixture(scope="module")
def shared(two_stages, tmp_path_factory) -> Callable[[str], Path]:
    """`shared(sharding)` is the run of two ranks."""
    runs: dict[str, Path] = {}

    def out_of(sharding: str) -> Path:
        if sharding not in runs:
            runs[sharding] = tmp_path_factory.mktemp(sharding) / "run"
            on_ranks(2, lambda: run(two_stages(2, sharding), runs[sharding]))
        return runs[sharding]

    return out_of


@pytest.mark.parametrize("sharding", ENGINES)
def test_two_ranks_are_one_with_twice_the_accumulation(alone, shared, metrics, two_stages, sharding):
    one = metrics(alone)
    same_curve(one, metrics(shared(sharding)))
    assert abs(one[1]["loss"] - one[0]["loss"]) > 1e-3 * one[0]["loss"]  # steps differ by far more than ranks
    final, of_ranks = (phantrol.load(out / "final")[0].state_dict() for out in (alone, shared(sharding)))
    assert set(final) == set(of_ranks)
    assert max(float((final[name] - of_ranks[name]).abs().max()) for name in final) < 1e-4
    recipe = two_stages(2)
    groups = [recipe.stages[1].data.group(i, recipe.stage_seed(1)) for i in range(8)]
    seen = [any(message.pictures for example in group for message in example.messages) for group in groups]
    assert any(seen[i] != seen[i + 1] for i in range(0, 8, 2))  # one rank had a picture and the other had none


def test_a_rank_that_counts_for_itself_is_noticed(alone, metrics, two_stages, tmp_path, monkeypatch):
    """The comparison above fails as soon as ranks divide by their own number of tokens."""
    count_for_themselves(monkeypatch)
    on_ranks(2, lambda: run(two_stages(2), tmp_path / "run"))
    with pytest.raises(AssertionError):
        same_curve(metrics(alone), metrics(tmp_path / "run"), rel=1e-3)


@pytest.mark.parametrize("ranks", [1, 4])
@pytest.mark.parametrize("sharding", ENGINES)
def test_a_checkpoint_of_two_ranks_goes_on_with_one_and_with_four(
    shared, metrics, two_stages, tmp_path, sharding, ranks
):
    out = shutil.copytree(shared(sharding), tmp_path / "run")
    shutil.rmtree(out / "final")
    shutil.rmtree(checkpoints(out)[-1].path)
    on_ranks(ranks, lambda: run(two_stages(ranks, sharding), out, resume=True))
    same_curve(metrics(shared(sharding)), metrics(out), rel=1e-5)
    final, unbroken = (phantrol.load(folder / "final")[0].state_dict() for folder in (out, shared(sharding)))
    before = phantrol.load(checkpoints(out)[-2].path)[0].state_dict()
    assert max(float((final[name] - unbroken[name]).abs().max()) for name in final) < 1e-4
    assert max(float((final[name] - before[name]).abs().max()) for name in final) > 1e-3  # a step was taken


@pytest.mark.parametrize("sharding", ["fsdp", pytest.param("zero3", marks=needs_deepspeed)])
def test_parts_that_some_rank_does_not_need(two_stages, metrics, tmp_path, sharding):
    """A gate that all layers share, a LoRA for image tokens, and a loss of pictures, with text alone on a rank."""

    def recipe(ranks: int, sharding: str = "none") -> Recipe:
        whole = two_stages(ranks, sharding)
        modifiers = (TrolConfig(share_gate=True), PartialLoraConfig(rank=2, alpha=2.0))
        changes = dict(batch_size=4, max_steps=2, accumulation=2 // ranks)  # the first two groups are text
        words = replace(whole.stages[0], loss=WordAlignment(max_share=1.0), train=("projector.*",), **changes)
        lora = replace(whole.stages[1], loss=Sft(), train=("*lora_*", "*traversal_gate*"), **changes)
        return replace(whole, model=replace(whole.model, modifiers=modifiers), stages=(words, lora))

    on_ranks(0, lambda: run(recipe(1), tmp_path / "one"))
    on_ranks(2, lambda: run(recipe(2, sharding), tmp_path / "two"))
    same_curve(metrics(tmp_path / "one"), metrics(tmp_path / "two"))


def test_a_layer_borrows_the_gate_alone(two_stages):
    """And not the layer that owns it, all of which would be gathered with it."""
    whole = two_stages(1)
    model, _ = replace(whole.model, modifiers=(TrolConfig(share_gate=True),)).build()
    lent = [list(borrowed(unit)) for unit in units(model)]
    owners = [unit for unit, found in zip(units(model), lent, strict=True) if not found]
    gates = [gate for found in lent for gate in found]
    assert len(gates) > 0 and {type(gate) for gate in gates} == {TraversalGate}
    assert {id(gate) for gate in gates} == {
        id(unit.traversal_gate) for unit in owners if hasattr(unit, "traversal_gate")
    }


@pytest.mark.parametrize("sharding", ["none", "fsdp"])
def test_held_out_groups_that_ranks_cannot_share_evenly(two_stages, metrics, tmp_path, sharding):
    """Three for two ranks: in the last round one has none left, and goes through the model all the same."""

    def recipe(ranks: int, sharding: str = "none") -> Recipe:
        whole = two_stages(ranks, sharding)
        stage = replace(whole.stages[0], held_out=HeldOut(whole.stages[0].data, groups=3), max_steps=1)
        return replace(whole, stages=(stage,))

    on_ranks(0, lambda: run(recipe(1), tmp_path / "one"))
    on_ranks(2, lambda: run(recipe(2, sharding), tmp_path / "two"))
    one, two = ([line["eval_loss"] for line in metrics(tmp_path / n) if "eval_loss" in line] for n in ("one", "two"))
    assert len(one) == 1 and two == pytest.approx(one, rel=1e-6)


def test_a_picture_that_no_token_shows_changes_nothing(tiny_recipe):
    """It is what keeps a rank with text alone in step; without it the tower and the projector have no gradient."""
    model, processor = tiny_recipe().model.build()
    inputs = processor.encode([{"role": "user", "content": "What color?"}, {"role": "assistant", "content": "red"}])
    ids = torch.tensor([inputs.input_ids])
    batch = {"input_ids": ids, "labels": ids}
    model.eval()
    plain = model(**batch).token_logprobs
    plain.sum().backward()
    wanted = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert not any(name.startswith("projector") for name in wanted)
    model.zero_grad()
    idle = model(**with_idle_picture(batch, model)).token_logprobs
    idle.sum().backward()
    found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert torch.equal(plain, idle)
    assert all(torch.equal(wanted[name], found[name]) for name in wanted)
    without = [name for name in found if name not in wanted]
    assert "projector.linear_1.weight" in without and any(name.startswith("vision_tower") for name in without)
    assert not any(found[name].any() for name in without)


@pytest.mark.parametrize("switch", ["ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED"])
def test_accelerates_own_sharding_is_refused(two_stages, tmp_path, monkeypatch, switch):
    monkeypatch.setenv(switch, "true")
    with pytest.raises(ValueError, match=f"got {switch}=true .* expected the recipe to choose: .* add sharding="):
        run(two_stages(1), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "change, ranks, said",
    [
        (dict(optimiser="muon"), 2, "got optimiser='muon' with sharding, expected adamw"),
        (dict(feature_cache="here"), 2, "got feature_cache and sharding, expected one of them"),
        (dict(batch_size=2), 2, "got batch_size=2, expected a multiple of accumulation × ranks = 2 × 2"),
        (dict(loss=WordAlignment(), accumulation=2), 2, "got 1 of batch_size=4 in a micro-batch, expected at least 2"),
    ],
)
def test_a_stage_that_ranks_cannot_share_is_refused_before_the_first_begins(two_stages, change, ranks, said):
    recipe = two_stages(2, "fsdp")
    check_ranks(recipe, 2)
    last = replace(recipe.stages[1], train=("projector.*",), **change)
    with pytest.raises(ValueError, match=f"stage 'tune': {said}"):
        check_ranks(replace(recipe, stages=(recipe.stages[0], last)), ranks)
    check_ranks(replace(recipe, stages=(recipe.stages[0], last)), 1)


def test_what_shards_cannot_do_is_refused(two_stages, monkeypatch):
    recipe = two_stages(2, "fsdp")
    model, _ = recipe.model.build()
    sharding = sharding_of("fsdp", ranks=2)
    sharding.check(model, recipe.stages[1])
    model.vision_tower.norm = torch.nn.BatchNorm2d(3)
    with pytest.raises(ValueError, match=r"vision_tower\.norm is a batch norm that is trained"):
        sharding.check(model, recipe.stages[1])
    model.vision_tower.requires_grad_(False)
    sharding.check(model, recipe.stages[1])
    monkeypatch.setattr("phantrol.training.ranks.find_spec", lambda name: None)
    with pytest.raises(ValueError, match="got no package deepspeed"):
        sharding_of("zero2", ranks=2)
    assert sharding_of("zero2", ranks=1) is None  # one rank has the whole model anyhow
    with pytest.raises(ValueError, match="got sharding='zero1', expected one of none, fsdp, zero2, zero3"):
        replace(recipe, sharding="zero1")
