"""Tensors that the official modules gave, unmodified, on a CPU in float32 with random weights (tests/recorded).

B 2 rows, N 24 tokens of which row 0 has five pads at its left, D 64 hidden, 4 layers, 4 heads, 2 key/value heads, d 16.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import PreTrainedModel

RECORDED = Path(__file__).parents[1] / "recorded"


@dataclass(repr=False)
class Recording:
    """What was recorded of one model, and helpers to feed the same to ours."""

    folder: Path
    io: dict[str, Tensor]

    @property
    def real(self) -> Tensor:
        """[B, N] True on tokens that are no padding: values at pads are nobody's business."""
        return self.io["attention_mask"] == 1

    def layer_inputs(self, model: PreTrainedModel, layer_idx: int) -> dict[str, object]:
        """Return what decoder layer `layer_idx` was called with, besides a cache."""
        states, positions = self.io["hidden_states"][layer_idx], self.io["position_ids"]
        tokens = states.shape[1]
        visible = torch.ones(tokens, tokens, dtype=torch.bool).tril() & self.real[:, None, None, :]
        return {
            "hidden_states": states,
            "attention_mask": torch.zeros(visible.shape).masked_fill(~visible, torch.finfo(torch.float32).min),
            "position_ids": positions,
            "position_embeddings": model.model.rotary_emb(states, positions),
        }

    def difference(self, model: PreTrainedModel, layer_idx: int, output: Tensor) -> float:
        """Return how far a layer's output is from the recorded one on real tokens, as a share of numbers above 1."""
        output = model.model.norm(output) if layer_idx == 3 else output  # after the last one the norm was recorded
        ours, theirs = output[self.real], self.io["hidden_states"][layer_idx + 1][self.real]
        return float(((ours - theirs).abs() / theirs.abs().clamp(min=1)).max())


@pytest.fixture(scope="session")
def recorded():
    def read(name: str) -> Recording:
        folder = RECORDED / name
        return Recording(folder, load_file(folder / "io.safetensors"))

    return read


@pytest.fixture(autouse=True)
def no_grad():
    with torch.no_grad():
        yield
