"""Variants with adapters, on full and on quantised weights: trained, merged into full ones, and asked."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import phantrol
from phantrol.ablation.run import plan
from phantrol.ablation.variants import choose_variants
from phantrol.training.checkpoint import last_whole_checkpoint
from phantrol.training.merging import _built, merge
from phantrol.training.new_model import Lora
from phantrol.training.run import run
from phantrol.training.weights import load_weights

pytest.importorskip("peft")
pytest.importorskip("torchao")
IDS = torch.tensor([[9, 30, 17, 20, 30, 31, 40]])
TRAINED = ("projector.*", "*lora_*", "*traversal_gate*")


def logits(model):
    with torch.inference_mode():
        return model.eval()(input_ids=IDS).logits


@pytest.mark.parametrize("weights", [None, "int8", "nf4"])
def test_a_variant_with_adapters_is_merged(tiny_recipe, tmp_path, weights):
    recipe = tiny_recipe("stages.tune.max_steps=2", "stages.tune.optimiser=adamw", "stages.tune.lr=1e-2")
    text = {**recipe.model.text, "hidden_size": 128, "intermediate_size": 128, "num_key_value_heads": 4}  # as nf4 takes
    model = replace(recipe.model, text=text, lora=Lora(rank=4, targets=("all",)), weights=weights)
    recipe = replace(recipe, model=model, stages=(replace(recipe.stages[1], train=TRAINED),))
    arms = {arm.variant.name: arm.recipe for arm in plan(recipe, choose_variants(["trol"]))}
    final, _ = phantrol.load(run(arms["trol"], tmp_path / "run"))

    unmerged, _ = _built(arms["trol"])
    start = logits(unmerged)
    load_weights(unmerged, TRAINED, last_whole_checkpoint(tmp_path / "run").path)
    torch.testing.assert_close(logits(final), logits(unmerged), rtol=0, atol=1e-5)
    assert (logits(final) - start).abs().max() > 1e-2
    merged, _ = phantrol.load(merge(tmp_path / "run", tmp_path / "merged"))
    assert torch.equal(logits(merged), logits(final))
