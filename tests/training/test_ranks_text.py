"""Rows without pictures on some ranks, or on all, while parts that only pictures reach are trained."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from rank_processes import needs_deepspeed, needs_fork, on_ranks, same_curve

import phantrol
from phantrol.data.messages import Example, Message
from phantrol.data.mixture import Mixture
from phantrol.losses.dpo import Dpo
from phantrol.losses.sft import Sft
from phantrol.losses.word_alignment import WordAlignment
from phantrol.modifiers.partial_lora import PartialLoraConfig
from phantrol.training.checkpoint import checkpoints
from phantrol.training.new_model import Lora
from phantrol.training.recipe import Recipe
from phantrol.training.run import run
from phantrol.training.sharding_zero import Zero
from phantrol.training.trainable import trained_behind_pictures
from phantrol.training.trainer import StageTrainer

pytestmark = [needs_fork, pytest.mark.usefixtures("deepspeed_imported")]
COLORS = ("red", "green", "blue", "black", "white")
# one word a step: which of its four groups have a picture. Of two ranks the first has groups 0 and 2, in this order
SOME = "ptpt tptp ttpp pptt tttp pppp"  # text on one rank, as the first micro-batch of both, as the last of both
NONE = "tttt ptpt tttt pptt tttt tttp"  # and steps without any picture, the first among them


@dataclass(frozen=True)
class Rows:
    """Questions about a square, which some rows show."""

    shown: tuple[bool, ...]

    def __len__(self) -> int:
        return len(self.shown)

    def __getitem__(self, index: int) -> tuple[Example, ...]:
        color = COLORS[index % 5]
        pictures = (Image.new("RGB", (32, 32), color),) if self.shown[index] else ()
        said = (Message("user", (*pictures, f"What color, {index}?")), Message("assistant", (f"It is {color}.",)))
        return (Example(f"row-{index}", said),)


def rows(pattern: str, seed: int) -> Mixture:
    """Return the data whose group number n has a picture if the n-th letter of `pattern` is a p."""
    letters = pattern.replace(" ", "")
    order = Mixture(((1.0, Rows((False,) * len(letters))),))
    shown = {order.locate(n, seed)[1] for n, letter in enumerate(letters) if letter == "p"}
    return Mixture(((1.0, Rows(tuple(index in shown for index in range(len(letters))))),))


@pytest.fixture(scope="module")
def stage_one(two_stages) -> Callable[..., Recipe]:
    """LLaVA's first stage, the projector alone: with word alignment, then with SFT."""

    def recipe(ranks: int, pattern: str, sharding: str = "none", train: tuple[str, ...] = ("projector.*",)) -> Recipe:
        whole = two_stages(ranks, sharding)
        changes = dict(max_steps=len(pattern.split()), warmup_steps=0, lr=1e-2, optimiser="adamw")
        data = [rows(pattern, whole.stage_seed(number)) for number in range(2)]
        words = replace(whole.stages[0], loss=WordAlignment(max_share=1.0), train=("projector.*",), **changes)
        sft = replace(whole.stages[1], loss=Sft(), train=train, **changes)
        stages = (replace(words, data=data[0]), replace(sft, data=data[1]))
        return replace(whole, stages=stages, save_every_steps=100)

    return recipe


def weights(out: Path) -> dict[str, torch.Tensor]:
    return phantrol.load(out / "final")[0].state_dict()


def off(one: Path, other: Path) -> float:
    """Return by how much two final models differ at most."""
    first, second = weights(one), weights(other)
    assert set(first) == set(second)
    return max(float((first[name] - second[name]).abs().max()) for name in first)


@pytest.fixture(scope="module")
def alone(stage_one, tmp_path_factory) -> Callable[[str], Path]:
    """`alone(pattern)` is the run without ranks."""
    runs: dict[str, Path] = {}

    def out_of(pattern: str) -> Path:
        if pattern not in runs:
            runs[pattern] = tmp_path_factory.mktemp("alone") / "run"
            on_ranks(0, lambda: run(stage_one(1, pattern), runs[pattern]))
        return runs[pattern]

    return out_of


def test_the_patterns_are_what_ranks_see(stage_one):
    recipe = stage_one(2, SOME)
    for number, stage in enumerate(recipe.stages):
        groups = [stage.data.group(n, recipe.stage_seed(number)) for n in range(24)]
        assert ["tp"[bool(group[0].messages[0].pictures)] for group in groups] == list(SOME.replace(" ", ""))


@pytest.mark.parametrize("sharding", ["none", "fsdp", pytest.param("zero2", marks=needs_deepspeed)])
def test_text_on_some_ranks_changes_nothing(stage_one, metrics, alone, tmp_path, sharding):
    on_ranks(2, lambda: run(stage_one(2, SOME, sharding), tmp_path / "two"))
    same_curve(metrics(alone(SOME)), metrics(tmp_path / "two"))
    assert off(alone(SOME), tmp_path / "two") < 1e-4


@pytest.mark.parametrize("ranks", [1, 2])  # torchrun makes a group of one rank too
def test_a_step_without_any_picture_changes_nothing(stage_one, metrics, alone, tmp_path, ranks):
    on_ranks(ranks, lambda: run(stage_one(ranks, NONE), tmp_path / "run"))
    one = metrics(alone(NONE))
    same_curve(one, metrics(tmp_path / "run"))
    assert [line["grad_norm"] == 0 for line in one] == [word == "tttt" for word in NONE.split()] * 2
    assert off(alone(NONE), tmp_path / "run") < 1e-4


def test_a_step_that_counts_without_any_picture_is_noticed(stage_one, alone, tmp_path, monkeypatch):
    """The control: AdamW goes on in the direction of the steps before, where the gradient is 0 and not absent."""
    monkeypatch.setattr(StageTrainer, "has_pictures", property(lambda self: True, lambda self, value: None), False)
    on_ranks(2, lambda: run(stage_one(2, NONE), tmp_path / "run"))
    assert off(alone(NONE), tmp_path / "run") > 1e-3


def test_a_partial_lora_and_what_text_reaches_too(stage_one, metrics, tmp_path):
    """An adapter of image tokens alone, on ranks without one; and everything, with steps without a picture."""

    def recipe(ranks: int) -> Recipe:
        lora = stage_one(ranks, NONE, train=("*lora_*",))
        lora = replace(lora, model=replace(lora.model, modifiers=(PartialLoraConfig(rank=2, alpha=2.0),)))
        last = replace(lora.stages[1], name="all", train=("*",), data=rows(NONE, lora.stage_seed(2)))
        return replace(lora, stages=(lora.stages[0], lora.stages[1], replace(last, lr=1e-3)))

    on_ranks(0, lambda: run(recipe(1), tmp_path / "one"))
    on_ranks(2, lambda: run(recipe(2), tmp_path / "two"))
    same_curve(metrics(tmp_path / "one"), metrics(tmp_path / "two"), rel=1e-5)


@needs_deepspeed
@pytest.mark.parametrize("sharding, train", [("zero2", "*"), ("zero3", "projector.*")])
def test_what_has_had_no_gradient_yet_goes_on_in_shards(stage_one, metrics, tmp_path, sharding, train):
    """AdamW without shards has no state of it: here of tower and projector, or of all that is trained."""

    def recipe(ranks: int, sharding: str = "none") -> Recipe:
        whole = stage_one(ranks, "tttt pppp", sharding)
        stage = replace(whole.stages[0], loss=Sft(), train=(train,))
        return replace(whole, stages=(stage,), save_every_steps=1)

    on_ranks(0, lambda: run(recipe(1), tmp_path / "one"))
    out = shutil.copytree(tmp_path / "one", tmp_path / "two")
    shutil.rmtree(out / "final")
    shutil.rmtree(checkpoints(out)[-1].path)
    on_ranks(2, lambda: run(recipe(2, sharding), out, resume=True))
    same_curve(metrics(tmp_path / "one"), metrics(out))
    before, one, two = phantrol.load(checkpoints(out)[0].path)[0].state_dict(), weights(tmp_path / "one"), weights(out)
    assert float((two["projector.linear_1.weight"] - before["projector.linear_1.weight"]).abs().max()) > 1e-3
    # with all of them ZeRO has counted the step without pictures for what stands behind those
    same = [name for name in one if train != "*" or not name.startswith(("projector", "vision_tower"))]
    assert same and max(float((one[name] - two[name]).abs().max()) for name in same) < 1e-4


def test_zero_counts_the_most_steps_that_a_parameter_has_counted(monkeypatch):
    """It has one count for all, and that of the first may be the least."""
    zero, given = Zero(2), []
    zero.parameters = [torch.zeros(1) for _ in range(3)]
    monkeypatch.setattr(zero, "_set_state", lambda parameter, name, value: given.append((name, float(value))))
    base = SimpleNamespace(state={"flat": {"step": torch.zeros(())}}, param_groups=[{"lr": 0.0}])
    moments = {name: torch.ones(1) for name in ("exp_avg", "exp_avg_sq")}
    counted = {index: {"step": torch.tensor(float(index)), **moments} for index in (1, 2)}
    for state, steps in ((counted, 2.0), ({}, 0.0)):
        saved = {"state": state, "param_groups": [{"lr": 0.5, "params": [0, 1, 2]}]}
        zero.load_optimiser(SimpleNamespace(optimizer=SimpleNamespace(optimizer=base)), saved)
        assert float(base.state["flat"]["step"]) == steps and base.param_groups == [{"lr": 0.5}]
    assert given == [("exp_avg", 1.0), ("exp_avg_sq", 1.0)] * 2


def test_which_parameters_only_pictures_reach(tiny_recipe):
    """Those that have no gradient from text alone, and have one with a picture; with PEFT's adapters on both sides."""
    pytest.importorskip("peft")
    made = tiny_recipe().model
    for change in (
        dict(modifiers=(PartialLoraConfig(rank=2),), options={**made.options, "feature_positions": True}),
        dict(lora=Lora(rank=2, targets=("q_proj",), vision=True)),
    ):
        model, processor = replace(made, **change).build()
        model.requires_grad_(True)
        behind = {id(parameter) for parameter in trained_behind_pictures(model)}
        for shown in (False, True):
            parts = [{"type": "image", "image": Image.new("RGB", (32, 32), "red")}] if shown else []
            chat = [
                {"role": "user", "content": [*parts, {"type": "text", "text": "What color?"}]},
                {"role": "assistant", "content": "red"},
            ]
            inputs = processor.encode(chat)
            ids = torch.tensor([inputs.input_ids])
            pixels = {"pixel_values": inputs.pixel_values} if shown else {}
            model.zero_grad()
            model(input_ids=ids, labels=ids, **pixels).token_logprobs.sum().backward()
            found = {id(parameter) for parameter in model.parameters() if parameter.grad is not None}
            assert found & behind == (behind if shown else set())
        assert behind


@pytest.mark.parametrize("sharding", ["none", "fsdp"])
def test_dpo_with_adapters_alone(two_stages, metrics, tmp_path, sharding):
    """The reference is the model with its adapters switched off, behind whatever wrapper."""
    pytest.importorskip("peft")

    def recipe(ranks: int, sharding: str = "none") -> Recipe:
        whole = two_stages(ranks, sharding)
        stage = replace(whole.stages[0], loss=Dpo(beta=1.0), train=("*lora_*",), max_steps=3, warmup_steps=0)
        return replace(whole, model=replace(whole.model, lora=Lora(rank=2, alpha=8)), stages=(stage,))

    on_ranks(0, lambda: run(recipe(1), tmp_path / "one"))
    on_ranks(2, lambda: run(recipe(2, sharding), tmp_path / "two"))
    one = metrics(tmp_path / "one")
    same_curve(one, metrics(tmp_path / "two"))
    assert one[0]["loss"] == pytest.approx(0.6931, abs=1e-3) and one[-1]["loss"] < one[0]["loss"]
    assert off(tmp_path / "one", tmp_path / "two") < 1e-4
