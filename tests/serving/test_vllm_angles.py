"""Angles that the length of a text decides are held still, so that they can be compiled. Needs no vLLM."""

from __future__ import annotations

import pytest
import torch
from torch._dynamo.exc import TorchDynamoException
from transformers import AutoConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding
from transformers.models.phi3.modeling_phi3 import Phi3RotaryEmbedding

from phantrol.serving.vllm.angles import hold_dynamic, hold_longrope

SIZES = dict(hidden_size=64, num_attention_heads=4, num_key_value_heads=2, num_hidden_layers=1, pad_token_id=0)
LONGROPE = {"rope_type": "longrope", "rope_theta": 1e4, "factor": 4.0, "attention_factor": 1.2}
LONGROPE |= {"short_factor": [1.0 + i / 4 for i in range(8)], "long_factor": [9.0] * 8}
POSITIONS = torch.arange(64)[None]


def longrope() -> Phi3RotaryEmbedding:
    lengths = dict(original_max_position_embeddings=64, max_position_embeddings=256)
    return Phi3RotaryEmbedding(AutoConfig.for_model("phi3", **SIZES, **lengths, rope_parameters=dict(LONGROPE)))


def dynamic(held: bool) -> LlamaRotaryEmbedding:
    ropes = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 3.0}
    config = AutoConfig.for_model("llama", **SIZES, max_position_embeddings=64, rope_parameters=ropes)
    if held:
        hold_dynamic(config)
    return LlamaRotaryEmbedding(config)


def compiled(rotary: torch.nn.Module) -> tuple[torch.Tensor, torch.Tensor]:
    torch.compiler.reset()
    return torch.compile(rotary, backend="eager", fullgraph=True)(torch.zeros(1), POSITIONS)


@pytest.mark.parametrize("kind", ["longrope", "dynamic"])
def test_held_angles_are_the_same_and_compile(kind: str):
    plain, held = (longrope(), longrope()) if kind == "longrope" else (dynamic(False), dynamic(True))
    if kind == "longrope":
        hold_longrope(held)
    for ours, theirs in zip(compiled(held), plain(torch.zeros(1), POSITIONS), strict=True):
        assert torch.equal(ours, theirs)
    beyond = torch.arange(65)[None]  # where they would change
    assert not torch.equal(held(torch.zeros(1), beyond)[0], plain(torch.zeros(1), beyond)[0])
    if kind == "dynamic":  # newer versions of transformers can compile longrope by themselves
        with pytest.raises(TorchDynamoException):
            compiled(plain)


def test_the_angles_of_each_kind_of_layer_are_held():
    both = longrope()
    both.rope_type = {"full_attention": "longrope", "sliding_attention": "default", "other": "yarn"}
    hold_longrope(torch.nn.ModuleList([both]))
    assert both.rope_type == {"full_attention": "default", "sliding_attention": "default", "other": "yarn"}
    config = AutoConfig.for_model("llama", **SIZES)
    config.rope_parameters = {"full": {"rope_type": "dynamic", "factor": 2.0}, "near": {"rope_type": "default"}}
    hold_dynamic(config)
    assert [each["rope_type"] for each in config.rope_parameters.values()] == ["default", "default"]
