"""Runs in which a stage needs more than its own checkpoint: a reference model, adapters, other ranks."""

from __future__ import annotations

import os
import shutil
import socket
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState
from safetensors.torch import load_file

import phantrol
from phantrol.losses.dpo import Dpo
from phantrol.losses.sft import Sft
from phantrol.training.checkpoint import checkpoints
from phantrol.training.new_model import Lora
from phantrol.training.run import run


def weights(run_dir: Path) -> dict[str, torch.Tensor]:
    return load_file(run_dir / "final" / "model.safetensors")


def resumed(whole: Path, out: Path, recipe, stage: int, step: int) -> Path:
    """Stop a run after a checkpoint, and resume it."""
    shutil.copytree(whole, out)
    shutil.rmtree(out / "final")
    for checkpoint in checkpoints(out):
        if (checkpoint.stage, checkpoint.step) > (stage, step):
            shutil.rmtree(checkpoint.path)
    run(recipe, out, resume=True)
    return out


def same_bits(one: Path, other: Path) -> bool:
    a, b = weights(one), weights(other)
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture(scope="module")
def preferring(tiny_recipe, tmp_path_factory):
    """SFT, then DPO against what SFT left."""
    recipe = tiny_recipe("log_every_steps=1")
    align, tune = recipe.stages
    first = replace(align, loss=Sft(), train=("*",))
    recipe = replace(recipe, stages=(first, replace(tune, name="prefer", loss=Dpo(beta=1.0), optimiser="adamw")))
    out = tmp_path_factory.mktemp("preferring")
    run(recipe, out)
    return recipe, out


@pytest.mark.parametrize("step", [1, 3])
def test_the_reference_survives_a_stop(preferring, metrics, tmp_path, step):
    recipe, whole = preferring
    out = resumed(whole, tmp_path / "run", recipe, 1, step)
    assert metrics(out) == metrics(whole) and same_bits(out, whole)


def test_the_reference_needs_the_end_of_the_stage_before(preferring, tmp_path):
    recipe, whole = preferring
    shutil.copytree(whole, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "final")
    shutil.rmtree(tmp_path / "run" / "stages" / "1-prefer" / "checkpoint-4")
    for checkpoint in (tmp_path / "run" / "stages" / "0-align").iterdir():
        shutil.rmtree(checkpoint)
    with pytest.raises(ValueError, match="got no checkpoint of stage 0, expected its last"):
        run(recipe, tmp_path / "run", resume=True)


@pytest.fixture(scope="module")
def in_bfloat16(tiny_recipe, tmp_path_factory):
    recipe = tiny_recipe("log_every_steps=1", "stages.align.precision=bfloat16", "stages.tune.precision=bfloat16")
    out = tmp_path_factory.mktemp("in_bfloat16")
    run(recipe, out)
    return recipe, out


@pytest.mark.parametrize("stage, step", [(0, 2), (0, 4), (1, 2)])
def test_each_stage_computes_in_its_own_precision(in_bfloat16, tiny_recipe, metrics, tmp_path, stage, step):
    """The second stage too: uninterrupted or resumed, and unlike one in float32."""
    recipe, whole = in_bfloat16
    out = resumed(whole, tmp_path / "resumed", recipe, stage, step)
    assert metrics(out) == metrics(whole) and same_bits(out, whole)
    if (stage, step) == (0, 4):
        second = replace(recipe.stages[1], precision="float32")
        other = replace(recipe, stages=(recipe.stages[0], second))
        run(other, tmp_path / "float32")
        assert metrics(tmp_path / "float32")[:4] == metrics(whole)[:4]
        assert metrics(tmp_path / "float32")[4:] != metrics(whole)[4:]


def test_the_end_of_the_stage_before_has_to_be_whole(preferring, tmp_path):
    recipe, whole = preferring
    shutil.copytree(whole, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "final")
    shutil.rmtree(tmp_path / "run" / "stages" / "1-prefer" / "checkpoint-4")
    ends = [each.path for each in checkpoints(tmp_path / "run") if each.stage == 0]
    path = ends[-1] / "model.safetensors"
    spoilt = bytearray(path.read_bytes())
    spoilt[-1] ^= 1  # as long as before
    path.write_bytes(spoilt)
    with pytest.raises(ValueError, match=r"model\.safetensors: got sha256 .*use another checkpoint"):
        run(recipe, tmp_path / "run", resume=True)


@pytest.fixture(scope="module")
def adapted(tiny_recipe, tmp_path_factory):
    """The stages of TroL: projector and gates, then these and LoRA on the decoder."""
    pytest.importorskip("peft")
    recipe = tiny_recipe("log_every_steps=1")
    align, tune = recipe.stages
    stages = (
        replace(align, loss=Sft(), train=("projector.*", "*traversal_gate*")),
        replace(tune, train=("*traversal_gate*", "*lora_*"), optimiser="adamw", lr=1e-2),
    )
    recipe = replace(recipe, model=replace(recipe.model, lora=Lora(rank=2, alpha=8, dropout=0.1)), stages=stages)
    out = tmp_path_factory.mktemp("adapted")
    run(recipe, out)
    return recipe, out


@pytest.mark.parametrize("stage, step", [(0, 2), (0, 4), (1, 2)])
def test_adapters_survive_a_stop(adapted, metrics, tmp_path, stage, step):
    recipe, whole = adapted
    out = resumed(whole, tmp_path / "run", recipe, stage, step)
    assert metrics(out) == metrics(whole) and same_bits(out, whole)


def test_adapters_are_merged_into_the_final_model(adapted, tiny_recipe):
    _, whole = adapted
    model, _ = phantrol.load(whole / "final")
    assert not any("lora" in name for name in weights(whole))
    torch.manual_seed(0)
    assert {name for name in model.state_dict()} >= set(weights(whole))
    saved = load_file(checkpoints(whole)[-1].path / "trained.safetensors")
    lora_a, lora_b = (
        next(t for n, t in sorted(saved.items()) if f"layers.0.self_attn.q_proj.{k}" in n) for k in ("lora_A", "lora_B")
    )
    assert lora_b.any()
    # what stage 0 trained and stage 1 froze is in the last checkpoint still
    assert torch.equal(
        next(t for n, t in saved.items() if "projector.linear_1.weight" in n),
        weights(whole)["projector.linear_1.weight"],
    )
    assert lora_a.shape[0] == 2


def as_rank(rank: int, port: int, recipe, out: Path) -> None:
    os.environ |= dict(
        RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", MASTER_ADDR="localhost", MASTER_PORT=str(port)
    )
    AcceleratorState._reset_state(reset_partial_state=True)  # this process was alone so far
    run(recipe, out)


def test_two_ranks_are_as_good_as_one(tiny_recipe, metrics, tmp_path, forked):
    """The same losses to rounding, though a rank may see no picture or no pair in a step."""
    text = {**tiny_recipe().model.text, "attention_dropout": 0.0}
    changes = ["log_every_steps=1", f"model.text={text}", "stages.tune.optimiser=adamw"]
    run(tiny_recipe(*changes), tmp_path / "one")
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    recipe = tiny_recipe(*changes, "stages.align.accumulation=1")
    ranks = [partial(as_rank, rank, port, recipe, tmp_path / "two") for rank in range(2)]
    assert forked(*ranks) == [0, 0]
    one, two = metrics(tmp_path / "one"), metrics(tmp_path / "two")
    assert [line["step"] for line in two] == [line["step"] for line in one] == [1, 2, 3, 4] * 2
    for a, b in zip(one, two, strict=True):
        assert set(a) == set(b)
        for name in ("loss", "grad_norm", "reward_accuracy"):
            if name in a:
                assert b[name] == pytest.approx(a[name], rel=1e-3), (name, a, b)
    groups = [tiny_recipe().stages[1].data.group(i, tiny_recipe().stage_seed(1)) for i in range(16)]
    seen = [any(message.pictures for example in group for message in example.messages) for group in groups]
    assert any(not any(seen[i : i + 2]) for i in range(0, 16, 2))  # some rank had no picture in some step


def test_a_micro_batch_of_text_alone_where_only_the_projector_is_trained(tiny_recipe, tmp_path):
    """Nothing that is trained takes part in it, and it counts for nothing. Each third group is text only."""
    recipe = tiny_recipe("log_every_steps=1", "stages.0.batch_size=4", "stages.0.accumulation=4")
    align = replace(recipe.stages[0], loss=Sft(), train=("projector.*",), max_steps=3)
    text = {**recipe.model.text, "attention_dropout": 0.0}
    plain = replace(recipe, model=replace(recipe.model, text=text, modifiers=()), stages=(align,))
    run(plain, tmp_path / "cut")
    run(replace(plain, stages=(replace(align, accumulation=1),)), tmp_path / "whole")
    cut, whole = weights(tmp_path / "cut"), weights(tmp_path / "whole")
    trained = [name for name in whole if name.startswith("projector")]
    assert all(torch.allclose(cut[name], whole[name], atol=1e-5) for name in trained)
