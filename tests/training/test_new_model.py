"""Which layers a recipe's adapters are put on."""

from __future__ import annotations

import pytest
import torch

import phantrol
from phantrol.data.mixture import Mixture
from phantrol.models.quantised import backbone_linears
from phantrol.models.tokenizer import train_tokenizer
from phantrol.training.new_model import Lora, TrainedTokenizer

pytest.importorskip("peft")
ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")


@pytest.mark.parametrize("groups", [0, -1])
def test_a_tokenizer_learns_from_something(groups):
    with pytest.raises(ValueError, match=f"got groups={groups}, expected at least 1"):
        TrainedTokenizer(Mixture(((1.0, ("a",)),)), groups=groups)


@pytest.fixture
def model(tiny_model):
    tokenizer = train_tokenizer(["What color is the circle?"] * 4, 300)
    return tiny_model(tokenizer, [phantrol.TrolConfig(), phantrol.PhantomConfig()])[0]


@pytest.mark.parametrize("targets", [("q_proj", "v_proj"), ATTENTION, ("self_attn.q_proj",), ("all",)], ids=str)
def test_the_backbones_alone(model, targets):
    """A phantom has maps that are named alike, which are trained themselves."""
    names = [name for name in backbone_linears(model) if targets == ("all",) or name.endswith(targets)]
    adapted = Lora(rank=2, targets=targets).put_on(model)
    parts = [name for name, _ in adapted.named_parameters() if "lora_A" in name]
    assert sorted(parts) == sorted(f"base_model.model.{name}.lora_A.default.weight" for name in names) and names
    adapted.train()
    adapted(input_ids=torch.arange(9, 26)[None], labels=torch.arange(9, 26)[None]).loss.backward()
    assert all(part.grad is not None for name, part in adapted.named_parameters() if "lora_" in name)


@pytest.mark.parametrize(
    "field, values",
    [
        ("rank", (0, -1, 8.0, "8", True, None)),
        ("alpha", (0, -1, float("inf"), float("nan"), "32", True)),
        ("dropout", (-0.1, 1, float("nan"), "0.1", True)),
    ],
)
def test_numbers_of_adapters_out_of_range(field, values):
    for value in values:
        with pytest.raises(ValueError, match=f"^Lora: got {field}={value!r}, expected a .*number"):
            Lora(**{field: value})
    Lora(rank=1, alpha=0.5, dropout=0.0)


def test_the_vision_towers_too(model):
    adapted = Lora(rank=2, vision=True).put_on(model)
    parts = [name.split(".")[2] for name, _ in adapted.named_parameters() if "lora_A" in name]
    assert parts.count("language_model") == 4 and parts.count("vision_tower") >= 6


@pytest.mark.parametrize(
    "targets",
    [("proj",), ("q_proj", "no_such_proj"), (), ("traversal_gate", "gate_1"), ("q_proj", "embed_tokens")],
    ids=str,
)
def test_names_of_no_layer(model, targets):
    with pytest.raises(
        ValueError, match=r"Lora: Target modules .* name no linear layer of the decoder: expected names"
    ):
        Lora(targets=targets).put_on(model)
