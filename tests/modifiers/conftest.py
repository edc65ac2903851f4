"""Grafted tiny decoders, and float64 throughout, so that "equal" can mean 1e-10 and a lost state cannot hide.

B rows, N tokens of a sequence, of which the first PROMPT are its prompt, V vocabulary.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from phantrol.modifiers.graft import graft
from phantrol.modifiers.phantom import PhantomConfig
from phantrol.modifiers.trol import TrolConfig

SETS = {
    "trol": [TrolConfig()],
    "trol_prompt": [TrolConfig(tokens="prompt")],
    "trol_3_passes": [TrolConfig(passes=3, layers=(0, 2))],
    "trol_shared": [TrolConfig(share_gate=True)],
    "phantom": [PhantomConfig()],
    "phantom_drop": [PhantomConfig(logits="drop", train_eta=True)],
    "both": [PhantomConfig(), TrolConfig()],
    "both_prompt": [TrolConfig(tokens="prompt"), PhantomConfig(layers=(1, 2))],
}
PROMPT, TOTAL = 8, 11


@dataclass(repr=False)
class Case:
    """A grafted decoder with weights large enough to matter, and two rows of tokens."""

    model: PreTrainedModel
    plain: PreTrainedModel  # the same backbone, before it was grafted
    configs: Sequence[Any]
    ids: Tensor  # [2, N]

    def full(self, ids: Tensor, mask: Tensor | None = None, prompt: int = PROMPT) -> Tensor:
        """Return the logits of all tokens at once, without a cache: [B, N, V]."""
        return self.model(ids, attention_mask=mask, use_cache=False, prompt_length=prompt).logits

    def feed(
        self, ids: Tensor, ends: Sequence[int], cache: Any = None, mask: Tensor | None = None, prompt: int | None = None
    ) -> Tensor:
        """Return the logits of tokens that come in chunks, which end before `ends`: [B, ends[-1], V]."""
        cache = DynamicCache(config=self.model.config) if cache is None else cache
        logits = []
        for start, end in zip((0, *ends), ends, strict=False):
            seen = None if mask is None else mask[:, :end]
            logits.append(self.step(ids[:, start:end], cache, seen, prompt))
        return torch.cat(logits, dim=1)

    def step(self, ids: Tensor, cache: Any, mask: Tensor | None = None, prompt: int | None = None) -> Tensor:
        return self.model(ids, attention_mask=mask, past_key_values=cache, prompt_length=prompt).logits


@pytest.fixture
def float64_throughout(monkeypatch: pytest.MonkeyPatch) -> None:
    """Norms, rotary angles, eager attention and sampling go through float32 even in float64 models: let them not."""

    def widened(function: Callable) -> Callable:
        def call(*args: Any, **kwargs: Any) -> Any:
            args = [torch.float64 if arg is torch.float32 else arg for arg in args]
            kwargs = {name: torch.float64 if arg is torch.float32 else arg for name, arg in kwargs.items()}
            return function(*args, **kwargs)

        return call

    monkeypatch.setattr(torch.Tensor, "to", widened(torch.Tensor.to))
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
    monkeypatch.setattr(torch.nn.functional, "softmax", widened(torch.nn.functional.softmax))


def enlarge(model: PreTrainedModel, gate_bias: float = 0.2) -> None:
    """Add noise to every parameter: with the small weights of a start, a lost state moves the logits by 1e-7."""
    generator = torch.Generator().manual_seed(1)
    for name, parameter in model.named_parameters():
        parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
        if name.endswith("traversal_gate.bias"):
            parameter.fill_(gate_bias)


@pytest.fixture(scope="session")
def build_case(tiny_decoder: Callable[..., PreTrainedModel]) -> Callable[[str, str], Case]:
    """`build_case(family, name of a set)` returns a case, the same object each time: leave it as you found it."""

    @cache
    @torch.no_grad()
    def build(family: str, name: str) -> Case:
        plain = tiny_decoder(family).double()
        torch.manual_seed(0)
        model = graft(copy.deepcopy(plain), SETS[name])
        enlarge(model)
        plain.load_state_dict(model.state_dict(), strict=False)
        ids = torch.randint(3, 97, (2, TOTAL), generator=torch.Generator().manual_seed(2))
        return Case(model, plain, SETS[name], ids)

    return build


@pytest.fixture(params=list(SETS))
def case(family: str, request: pytest.FixtureRequest, build_case: Callable[[str, str], Case]) -> Case:
    """Each set of modifiers on each family of decoders."""
    return build_case(family, request.param)


@pytest.fixture(scope="session")
def sets() -> dict[str, list[Any]]:
    return SETS
