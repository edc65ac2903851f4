"""Adapters on quantised weights on two ranks: the very numbers that one rank quantises to, on each of them."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest
from rank_processes import needs_deepspeed, needs_fork, on_ranks, same_curve

from phantrol.training.new_model import Lora
from phantrol.training.ranks import check_ranks
from phantrol.training.recipe import Recipe
from phantrol.training.run import run

pytest.importorskip("peft")
pytest.importorskip("torchao")
REL = 1e-5  # of a loss; quantised once more, nf4 gives losses that are off by 1e-3 and more


@pytest.fixture(scope="module")
def on_quantised(two_stages):
    def recipe(ranks: int, weights: str, sharding: str = "none") -> Recipe:
        whole = two_stages(ranks, sharding)
        text = {**whole.model.text, "hidden_size": 128, "intermediate_size": 128, "num_key_value_heads": 4}
        model = replace(whole.model, text=text, lora=Lora(rank=2, targets=("q_proj", "down_proj")), weights=weights)
        tune = replace(whole.stages[1], train=("projector.*", "*lora_*", "*traversal_gate*"))
        return replace(whole, model=model, stages=(tune,))

    return recipe


@needs_fork
@pytest.mark.parametrize("weights", ["int8", "nf4"])
def test_two_ranks_are_one_with_twice_the_accumulation(on_quantised, weights, metrics, tmp_path):
    on_ranks(0, lambda: run(on_quantised(1, weights), tmp_path / "one"))
    one = metrics(tmp_path / "one")
    assert abs(one[1]["loss"] - one[0]["loss"]) > 10 * REL * one[0]["loss"]  # steps differ by far more than ranks
    for sharding in ("none", "fsdp"):
        recipe, out = on_quantised(2, weights, sharding), tmp_path / sharding
        on_ranks(2, partial(run, recipe, out))
        same_curve(one, metrics(tmp_path / sharding), REL)


@needs_deepspeed
@pytest.mark.parametrize("sharding", ["zero2", "zero3"])
def test_what_deepspeed_cannot_hold_is_refused(on_quantised, sharding):
    recipe = on_quantised(2, "int8", sharding)
    check_ranks(recipe, 1)
    with pytest.raises(ValueError, match=f"got weights='int8' with sharding={sharding}, expected none or fsdp"):
        check_ranks(recipe, 2)
