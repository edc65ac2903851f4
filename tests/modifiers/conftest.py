"""Grafted tiny decoders, and float64 throughout, so that "equal" can mean 1e-10 and a lost state cannot hide.

And the same decoders with one mechanism broken (`broken_case`), for the negative controls of every comparison.

B rows, N tokens of a sequence, of which the first PROMPT are its prompt, V vocabulary.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import Cache

from phantrol.models.configuration import PhantrolConfig, StemVisionConfig
from phantrol.models.modeling import PhantrolForConditionalGeneration
from phantrol.modifiers import growing_cache, sequence
from phantrol.modifiers.base import config_to_dict
from phantrol.modifiers.graft import graft
from phantrol.modifiers.pass_cache import PassCache
from phantrol.modifiers.sequence import AnchorLayer

sys.path.append(str(Path(__file__).parent))  # modifier_sets.py and ways_to_feed.py are no tests

from modifier_sets import SETS

PROMPT, TOTAL, NUM_LAYERS = 8, 11, 3


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


@pytest.fixture(autouse=True)
def caches_grow_in_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """As those of long texts do: the texts here are short."""
    monkeypatch.setattr(growing_cache, "LONG_TOKENS", 3)


@pytest.fixture
def no_grad() -> Iterator[None]:
    with torch.no_grad():
        yield


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


def say_where_images_are(decoder: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Take every fourth token of the vocabulary for one of an image, so that a partial LoRA has something to do."""
    ids = args[0] if args else kwargs.get("input_ids")
    return args, {**kwargs, "image_mask": kwargs.get("image_mask", None if ids is None else ids % 4 == 0)}


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
        model.get_decoder().register_forward_pre_hook(say_where_images_are, with_kwargs=True)
        enlarge(model)
        plain.load_state_dict(model.state_dict(), strict=False)
        ids = torch.randint(3, 97, (2, TOTAL), generator=torch.Generator().manual_seed(2))
        return Case(model, plain, SETS[name], ids)

    return build


@pytest.fixture(scope="session")
def seeing(tiny_decoder: Callable[..., PreTrainedModel]) -> Callable[..., PhantrolForConditionalGeneration]:
    """`seeing(modifiers)` makes a model that sees, in float32."""

    def make(modifiers: Sequence[Any] = ()) -> PhantrolForConditionalGeneration:
        text = tiny_decoder("llama").config
        text.modifiers = [config_to_dict(config) for config in modifiers]
        vision = StemVisionConfig(image_size=32, stem=[[8, 3, 8, 1]], num_attention_heads=2)
        config = PhantrolConfig(text, vision, image_px=32, image_grid=4, unshuffle=2)
        return PhantrolForConditionalGeneration(config).eval()

    return make


@pytest.fixture(params=list(SETS))
def case(family: str, request: pytest.FixtureRequest, build_case: Callable[[str, str], Case]) -> Case:
    """Each set of modifiers on each family of decoders."""
    return build_case(family, request.param)


@pytest.fixture(scope="session")
def sets() -> dict[str, list[Any]]:
    return SETS


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test of a `comparison` on a `broken_case` runs on each family with each row of its file's BREAKS.

    BREAKS  rows of (comparison, name of the fixture that breaks a mechanism, names of the sets that have it)
    """
    if {"comparison", "broken_case"} <= set(metafunc.fixturenames):
        rows = [(comparison, (broken, name)) for comparison, broken, names in metafunc.module.BREAKS for name in names]
        ids = ["-".join((comparison.__name__, *broken_case)) for comparison, broken_case in rows]
        metafunc.parametrize(("comparison", "broken_case"), rows, ids=ids, indirect=["broken_case"])


@pytest.fixture
def broken_case(family: str, request: pytest.FixtureRequest, build_case: Callable[[str, str], Case]) -> Case:
    """A case that was built whole; from here to the end of the test, one mechanism is broken.

    A break keeps all shapes as they are: it must show in the numbers, since an exception could have any other cause.
    """
    broken, name = request.param
    case = build_case(family, name)
    request.getfixturevalue(broken)
    return case


@pytest.fixture
def first_passes(monkeypatch: pytest.MonkeyPatch) -> dict[int, tuple[Tensor, Tensor]]:
    """What a cache last gave each slot to attend to; at a later pass of layer i, slot i holds its first pass."""
    update, given = Cache.update, {}

    def update_and_note(self: Cache, keys: Tensor, values: Tensor, slot: int, *args: Any, **kwargs: Any) -> Any:
        given[slot] = update(self, keys, values, slot, *args, **kwargs)
        return given[slot]

    monkeypatch.setattr(Cache, "update", update_and_note)
    return given


@pytest.fixture
def alias_second_pass(monkeypatch: pytest.MonkeyPatch, first_passes: dict[int, tuple[Tensor, Tensor]]) -> None:
    """Later passes attend to the keys and values of the first."""
    monkeypatch.setattr(PassCache, "update", lambda self, keys, values, layer_idx, *args: first_passes[layer_idx])


@pytest.fixture
def forget_anchor(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of the anchor survives the forward pass that met it."""
    keep = AnchorLayer.keep
    monkeypatch.setattr(AnchorLayer, "keep", lambda self, keys, values: keep(self, 0 * keys, 0 * values))


@pytest.fixture
def reset_own_layers(monkeypatch: pytest.MonkeyPatch, first_passes: dict[int, tuple[Tensor, Tensor]]) -> None:
    """What lies in the extra layers of a cache outlives its reset.

    No break for tokens="prompt": the end of a prompt drops its layers, and a state that outlives a reset raises.
    """
    begin, update = sequence._begin, PassCache.update

    def begin_once(cache: Cache, state: sequence.SequenceState) -> None:
        # `_begin` clears the extra layers of any cache whose length is an int, as that of a sliding first layer is
        if not state.begun:
            begin(cache, state)

    def update_oldest(self: PassCache, keys: Tensor, values: Tensor, layer_idx: int, *args: Any) -> Any:
        # a sliding layer that goes on from an old window gives more than the mask expects: the old comes first
        num_tokens = first_passes[layer_idx][0].shape[-2]
        return tuple(states[..., :num_tokens, :] for states in update(self, keys, values, layer_idx, *args))

    monkeypatch.setattr(Cache, "reset", lambda self: [layer.reset() for layer in self.layers[:NUM_LAYERS]])
    monkeypatch.setattr(sequence, "_begin", begin_once)
    monkeypatch.setattr(PassCache, "update", update_oldest)
