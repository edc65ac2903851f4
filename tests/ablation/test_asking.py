"""What is read off a trained model besides its answers."""

from __future__ import annotations

from dataclasses import replace

import pytest

from phantrol.ablation.asking import observe
from phantrol.ablation.variants import PLAIN, TROL
from phantrol.inference.engine import Engine
from phantrol.modifiers.phantom import PhantomConfig

CHAT = [{"role": "user", "content": "What color, 3?"}]


def test_the_size_of_a_trained_eta_is_told_whatever_its_sign(tiny_recipe):
    recipe = PLAIN(tiny_recipe())
    model = replace(recipe.model, modifiers=(PhantomConfig(train_eta=True),))
    engine = Engine(*model.build())
    for layer, eta in zip(engine.model.get_decoder().layers, (-0.5, 0.25), strict=True):
        layer.self_attn.phantom.eta.data.fill_(eta)
    assert observe(engine, [CHAT]) == {"mean_eta": pytest.approx(0.375), "largest_eta": pytest.approx(0.5)}


def test_gates_are_told_where_there_are_any_and_nothing_else_is(tiny_recipe):
    assert observe(Engine(*PLAIN(tiny_recipe()).model.build()), [CHAT]) == {}
    found = observe(Engine(*TROL(tiny_recipe()).model.build()), [CHAT])
    assert set(found) == {"mean_w", "largest_w"} and 0 < found["mean_w"] <= found["largest_w"] < 1
