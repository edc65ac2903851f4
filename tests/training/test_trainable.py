from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from phantrol.training.optimiser import MuonAndAdamW, build_optimiser, hidden_matrices, lr_factor
from phantrol.training.trainable import frozen_towers, parameter_groups, train_only, trainable_table


@pytest.fixture(scope="module")
def model(tiny_recipe):
    torch.manual_seed(0)
    return tiny_recipe().model.build()[0]


def trained(model):
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def test_patterns_choose_parameters(model):
    train_only(model, ("projector.*", "*traversal_gate*"))
    assert trained(model) == {
        name for name, _ in model.named_parameters() if name.startswith("projector.") or "traversal_gate" in name
    }
    assert any("traversal_gate" in name for name in trained(model))
    train_only(model, ("*",))
    assert trained(model) == {name for name, _ in model.named_parameters()}
    train_only(model, ("*.phantom.*",))  # what was trained before is frozen again
    assert trained(model) and all(".phantom." in name for name in trained(model))


def test_a_tied_head_answers_to_both_names(model):
    train_only(model, ("language_model.lm_head.*",))
    assert trained(model) == {"language_model.model.embed_tokens.weight"}


def test_a_pattern_that_matches_nothing(model):
    with pytest.raises(
        ValueError, match=r"'projecter\.\*', which matches no parameter; .*projector\.\*.*traversal_gate"
    ):
        train_only(model, ("*", "projecter.*"))


def test_a_quantised_parameter():
    model = nn.Linear(2, 2)
    model.weight = nn.Parameter(torch.zeros(2, 2, dtype=torch.uint8), requires_grad=False)
    with pytest.raises(ValueError, match="weight, which is quantised"):
        train_only(model, ("*",))


def test_table(model):
    train_only(model, ("projector.*", "*traversal_gate*"))
    rows = {row.part: (row.parameters, row.trained) for row in trainable_table(model)}
    assert set(rows) == {
        "vision_tower.*", "projector.*", "language_model.*", "*traversal_gate*", "*.phantom.*", "whole model"
    }  # fmt: skip
    assert rows["projector.*"][0] == rows["projector.*"][1] == sum(p.numel() for p in model.projector.parameters())
    assert rows["vision_tower.*"][1] == rows["language_model.*"][1] == 0
    gates = 2 * (32 + 1)
    assert rows["*traversal_gate*"] == (gates, gates)
    assert rows["whole model"][0] == sum(parameter.numel() for parameter in model.parameters())
    assert rows["whole model"][1] == rows["projector.*"][1] + gates


def test_frozen_towers(model):
    train_only(model, ("projector.*",))
    assert frozen_towers(model) == [model.vision_tower]
    train_only(model, ("*layernorm*", "projector.*", "vision_tower.*norm*"))
    assert frozen_towers(model) == []


def test_weight_decay_spares_norms_and_biases():
    layers = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4))
    decayed, spared = parameter_groups(list(layers.parameters()), 0.1)
    assert (decayed["weight_decay"], spared["weight_decay"]) == (0.1, 0.0)
    assert [p.shape for p in decayed["params"]] == [(4, 3)] and all(p.ndim == 1 for p in spared["params"])
    assert len(parameter_groups([layers[0].bias], 0.1)) == 1  # no empty group


def test_muon_is_for_hidden_matrices(model, tiny_recipe):
    train_only(model, ("*",))
    hidden = {name for name, p in model.named_parameters() if id(p) in hidden_matrices(model)}
    assert "language_model.model.layers.0.mlp.up_proj.weight" in hidden
    assert all(name.startswith("language_model.model.layers.") for name in hidden)
    for name, parameter in model.named_parameters():
        if parameter.ndim != 2 or "embed" in name or "traversal_gate" in name:
            assert name not in hidden
    optimiser = build_optimiser(model, tiny_recipe().stages[1])
    in_groups = [id(p) for group in optimiser.param_groups for p in group["params"]]
    assert len(in_groups) == len(set(in_groups)) == len(list(model.parameters()))


@pytest.mark.parametrize("optimiser", ["adamw", "muon"])
def test_an_optimiser_has_the_decay_and_the_betas_of_its_stage(model, tiny_recipe, optimiser):
    train_only(model, ("*",))
    stage = replace(tiny_recipe().stages[1], optimiser=optimiser, weight_decay=0.2, betas=(0.8, 0.95))
    groups = build_optimiser(model, stage).param_groups
    decay = {(parameter.ndim > 1, group["weight_decay"]) for group in groups for parameter in group["params"]}
    assert decay == {(True, 0.2), (False, 0.0)}
    assert {group["betas"] for group in groups if "betas" in group} == {(0.8, 0.95)}


def test_the_first_pattern_that_matches_gives_the_rate(model, tiny_recipe):
    train_only(model, ("projector.*",))
    stage = replace(tiny_recipe().stages[0], lrs=(("projector.linear_1.*", 0.5), ("projector.*", 0.25)))
    rates = {id(p): group["lr"] for group in build_optimiser(model, stage).param_groups for p in group["params"]}
    assert [rates[id(each.weight)] for each in (model.projector.linear_1, model.projector.linear_2)] == [0.5, 0.25]


@pytest.mark.parametrize("lr, expected", [("0.03", 0.03), ("none", 0.1)])
def test_muon_and_adamw_by_hand(tiny_recipe, lr, expected):
    """Muon turns a gradient into one with all singular values near one; AdamW's first step is lr times the sign."""
    changes = "stages.tune.weight_decay=0", "stages.tune.lr=0.01", "stages.tune.betas=0,0", f"stages.tune.muon_lr={lr}"
    stage = tiny_recipe(*changes).stages[1]
    matrix, vector = nn.Parameter(torch.zeros(8, 8)), nn.Parameter(torch.zeros(3))
    optimiser = MuonAndAdamW([matrix], [vector], stage)
    torch.manual_seed(0)
    matrix.grad, vector.grad = torch.randn(8, 8) * 100, torch.tensor([1.0, -2.0, 3.0])
    optimiser.step()
    torch.testing.assert_close(vector.detach(), torch.tensor([-0.01, 0.01, -0.01]), rtol=1e-4, atol=0)
    singular = torch.linalg.svdvals(matrix.detach()) / expected
    assert singular.min() > 0.5 and singular.max() < 1.5


def test_a_loaded_optimiser_still_follows_the_schedule(tiny_recipe):
    stage = tiny_recipe().stages[1]

    def fresh():
        torch.manual_seed(0)
        layers = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4))
        matrices, others = [layers[0].weight], [layers[0].bias, *layers[1].parameters()]
        optimiser = MuonAndAdamW(matrices, others, stage)
        return layers, optimiser, torch.optim.lr_scheduler.LambdaLR(optimiser, lr_factor(stage))

    def steps(layers, optimiser, schedule, numbers):
        for number in numbers:
            layers(torch.full((2, 4), number + 1.0).cumsum(0)).pow(2).sum().backward()
            optimiser.step()
            schedule.step()
            optimiser.zero_grad()

    whole, stopped, resumed = fresh(), fresh(), fresh()
    steps(*whole, range(4))
    steps(*stopped, range(2))
    resumed[0].load_state_dict(stopped[0].state_dict())
    resumed[1].load_state_dict(stopped[1].state_dict())
    resumed[2].load_state_dict(stopped[2].state_dict())
    steps(*resumed, range(2, 4))
    assert all(torch.equal(a, b) for a, b in zip(whole[0].parameters(), resumed[0].parameters(), strict=True))
    for one, other in zip(whole[1].parts, resumed[1].parts, strict=True):
        assert [group["lr"] for group in one.param_groups] == [group["lr"] for group in other.param_groups]


@pytest.mark.parametrize(
    "schedule, expected",
    [
        ("constant", [1 / 3, 2 / 3, 1, 1, 1, 1]),
        ("linear", [1 / 3, 2 / 3, 1, 0.775, 0.55, 0.325]),
        ("cosine", [1 / 3, 2 / 3, 1, 0.1 + 0.9 * (1 + 0.5**0.5) / 2, 0.55, 0.1 + 0.9 * (1 - 0.5**0.5) / 2]),
    ],
)
def test_learning_rate_by_hand(tiny_recipe, schedule, expected):
    """Two steps of warm-up, then four from 1 towards 0.1."""
    changes = "max_steps=6", "warmup_steps=2", "lr=0.01", "final_lr=0.001", f"schedule={schedule}"
    factor = lr_factor(tiny_recipe(*(f"stages.0.{change}" for change in changes)).stages[0])
    assert [factor(step) for step in range(6)] == pytest.approx(expected)
    assert factor(6) == pytest.approx(1 if schedule == "constant" else 0.1)
