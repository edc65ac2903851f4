"""Rotary angles and windows of the released backbones, as parts.py maps them onto transformers' own settings."""

from __future__ import annotations

import math

import pytest
import torch
from sources import draw_source
from torch import Tensor
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from phantrol.models.released.angles import rope_parameters
from phantrol.models.released.layout import read_layout

pytestmark = pytest.mark.usefixtures("no_grad")


def shapes_of(weights: dict[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in weights.items()}


def internlm2_angles(theta: float, d: int, factor: float, length: int, longest: int) -> Tensor:
    """base' = base·((factor·L / max) - (factor - 1))^(d / (d - 2)) once L > max; 1 / base'^(2i / d)."""
    if length > longest:
        theta = theta * ((factor * length / longest) - (factor - 1)) ** (d / (d - 2))
    return 1.0 / theta ** (torch.arange(0, d, 2).float() / d)


def test_dynamic_angles_are_internlm2s():
    llm = {"rope_theta": 1e6, "rope_scaling": {"type": "dynamic", "factor": 2.0}}
    config = LlamaConfig(
        hidden_size=64,
        num_attention_heads=4,
        max_position_embeddings=32,
        rope_parameters=rope_parameters(llm, "internlm2", 16),
    )
    rotary = LlamaRotaryEmbedding(config)
    x = torch.zeros(1)
    for length in (8, 32, 33, 100, 8):  # within, at the end, beyond, far beyond, and within again
        rotary(x, torch.arange(length)[None])
        expected = internlm2_angles(1e6, 16, 2.0, length, 32)
        assert float((rotary.inv_freq - expected).abs().max()) < 1e-7
    beyond = internlm2_angles(1e6, 16, 2.0, 100, 32)
    assert float((beyond / internlm2_angles(1e6, 16, 2.0, 32, 32) - 1).abs().max()) > 0.1
    # between the two lengths transformers keeps the base of the longest so far, as the released code does for ever
    rotary(x, torch.arange(100)[None])
    rotary(x, torch.arange(50)[None])
    assert float((rotary.inv_freq - beyond).abs().max()) < 1e-7


@pytest.mark.parametrize(
    ("kind", "grown"), [("su", math.sqrt(1 + math.log(4) / math.log(64))), ("yarn", 0.1 * math.log(4) + 1)]
)
def test_phi3s_long_angles(kind: str, grown: float):
    config, weights = draw_source("trol", "phi3")
    factors = {"short_factor": [1.0 + 0.1 * i for i in range(8)], "long_factor": [2.0 + 0.3 * i for i in range(8)]}
    config["llm_config"] |= {
        "rope_scaling": {"type": kind, **factors},
        "max_position_embeddings": 256,
        "original_max_position_embeddings": 64,
    }
    text = read_layout(config, shapes_of(weights)).text
    from transformers.models.phi3.modeling_phi3 import Phi3RotaryEmbedding

    rotary = Phi3RotaryEmbedding(text)
    for length, name in ((10, "short_factor"), (64, "short_factor"), (65, "long_factor")):
        positions = torch.arange(length)[None]
        cosines, _ = rotary(torch.zeros(1), positions)
        angles = 1.0 / (torch.tensor(factors[name]) * 1e4 ** (torch.arange(0, 16, 2).float() / 16))
        expected = grown * torch.cos(positions[0, :, None] * angles)
        assert float((cosines[0, :, :8] - expected).abs().max()) < 1e-5


def test_other_angles():
    assert rope_parameters({}, "internlm2", 16) == {"rope_type": "default", "rope_theta": 1e6}
    linear = {"rope_theta": 1e6, "rope_scaling": {"type": "linear", "factor": 4}}
    assert rope_parameters(linear, "internlm2", 16) == {"rope_type": "linear", "rope_theta": 1e6, "factor": 4.0}
    with pytest.raises(ValueError, match="rope_scaling of type 'yarn' on internlm2"):
        rope_parameters({"rope_scaling": {"type": "yarn", "factor": 2}}, "internlm2", 16)


def test_a_window_of_flash_attention_is_one_longer():
    config, weights = draw_source("phantom", "phi3")
    assert config["llm_config"]["sliding_window"] == 2047
    assert read_layout(config, shapes_of(weights)).text.sliding_window == 2048
