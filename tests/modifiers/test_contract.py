"""What every modifier owes every decoder: the logits depend on the tokens alone, not on how they are fed.

Each comparison (ways_to_feed.py) is the largest difference of logits between two ways to feed the same tokens.
It must be below 1e-10 for each set of modifiers on each family, and the very same comparison must exceed 1e-3, again on
each family, once the mechanism that it watches is broken (`BREAKS` below; breaks of general use are in conftest.py).
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers.cache_utils import Cache
from ways_to_feed import (
    COMPARISONS,
    behind_padding,
    cached,
    chunked,
    chunked_behind_padding,
    eager,
    in_one_batch,
    interleaved,
    largest,
    reordered,
    repeated_and_selected,
    static,
)

import phantrol.modifiers.graft as graft_module
import phantrol.modifiers.step as step_module
from phantrol.modifiers.enlarged_cache import ANCHOR, EnlargedCache
from phantrol.modifiers.pass_cache import PassCache
from phantrol.modifiers.phantom import AnchorAttention
from phantrol.modifiers.sequence import KEYS_AND_VALUES, AnchorLayer

NUM_LAYERS = 3
EXACT, BROKEN = 1e-10, 1e-3
pytestmark = pytest.mark.usefixtures("float64_throughout", "no_grad")


@pytest.mark.parametrize("comparison", COMPARISONS, ids=lambda comparison: comparison.__name__)
def test_how_tokens_are_fed_changes_nothing(case: Any, comparison: Callable[[Any], float]):
    assert comparison(case) < EXACT


def test_the_modifiers_matter(case: Any):
    plain = case.plain(case.ids, use_cache=False).logits
    assert largest((plain, case.full(case.ids))) > 0.1, "with so small an effect the other tests would see nothing"


@pytest.fixture
def keep_on_module(monkeypatch: pytest.MonkeyPatch) -> None:
    """What lies in the extra layers of a cache is kept on the module instead, so that the last request wins."""
    begin, update, anchors, held = EnlargedCache.__init__, PassCache.update, {}, {}

    def begin_held(self: EnlargedCache, phantom: Any, cache: Any, layer_idx: int, step: Any, *args: Any) -> None:
        if cache is not None:
            slot = step.state.slots[step.pass_index, layer_idx, ANCHOR]
            getattr(cache, "whole", cache).layers[slot] = anchors.setdefault(slot, AnchorLayer())
        begin(self, phantom, cache, layer_idx, step, *args)

    def update_held(self: PassCache, keys: Tensor, values: Tensor, layer_idx: int, *args: Any, **kwargs: Any) -> Any:
        slot = self._step.state.slots[self._step.pass_index, layer_idx, KEYS_AND_VALUES]
        layer = self.whole.layers[slot]
        if slot in held and layer.is_initialized:
            length = layer.keys.shape[-2]
            layer.keys, layer.values = (states[..., :length, :] for states in held[slot])
        out = update(self, keys, values, layer_idx, *args, **kwargs)
        held[slot] = layer.keys, layer.values
        return out

    monkeypatch.setattr(EnlargedCache, "__init__", begin_held)
    monkeypatch.setattr(PassCache, "update", update_held)


@pytest.fixture
def take_a_pad_as_anchor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step_module, "real_tokens", lambda _, num_tokens, past: torch.ones(1, past + num_tokens).bool())


@pytest.fixture
def guess_the_prompt(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take one token that comes alone for a token of the answer, whatever prompt_length says."""
    is_prompt = step_module._is_prompt

    def guess(past_tokens: int, num_tokens: int, device: Any, *prompt: Any) -> bool | Tensor:
        return is_prompt(past_tokens, num_tokens, device, *((None, None) if num_tokens == 1 else prompt))

    monkeypatch.setattr(step_module, "_is_prompt", guess)


@pytest.fixture
def family_module(family: str, build_case: Callable[[str, str], Any]) -> ModuleType:
    """Where transformers defines the decoder: its layers look masks and eager attention up here, by name."""
    return sys.modules[type(build_case(family, "trol").plain).__module__]


@pytest.fixture
def ignore_mask(monkeypatch: pytest.MonkeyPatch, family_module: ModuleType) -> None:
    def unmasked(make: Callable[..., Any]) -> Callable[..., Any]:
        return lambda **kwargs: make(**{**kwargs, "attention_mask": None, "position_ids": None})

    for name in ("create_causal_mask", "create_sliding_window_causal_mask"):
        if hasattr(family_module, name):
            monkeypatch.setattr(family_module, name, unmasked(getattr(family_module, name)))


@pytest.fixture
def ignore_mask_in_eager(monkeypatch: pytest.MonkeyPatch, family_module: ModuleType) -> None:
    attend = family_module.eager_attention_forward

    def unmasked(module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Any, *args: Any, **kwargs: Any) -> Any:
        return attend(module, query, key, value, torch.zeros_like(mask), *args, **kwargs)

    monkeypatch.setattr(family_module, "eager_attention_forward", unmasked)


@pytest.fixture
def reorder_own_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    def reorder(self: Cache, beam_idx: Tensor) -> None:
        for layer in self.layers[:NUM_LAYERS]:
            layer.reorder_cache(beam_idx)

    monkeypatch.setattr(Cache, "reorder_cache", reorder)


@pytest.fixture
def repeat_extra_layers_in_another_order(monkeypatch: pytest.MonkeyPatch) -> None:
    def repeat(self: Cache, repeats: int) -> None:
        for i, layer in enumerate(self.layers):
            layer.batch_repeat_interleave(repeats)
            if i >= NUM_LAYERS and layer.get_seq_length() > 0:
                order = torch.arange(len(layer.keys)).view(-1, repeats).T.flatten()
                layer.keys, layer.values = layer.keys[order], layer.values[order]

    monkeypatch.setattr(Cache, "batch_repeat_interleave", repeat)


@pytest.fixture
def overlook_lone_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take a token that comes alone for one of a text, whatever image_mask says."""
    rows = graft_module.image_rows
    monkeypatch.setattr(graft_module, "image_rows", lambda *args: None if args[2] == 1 else rows(*args))


@pytest.fixture
def mistake_rows_for_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    """Count image tokens column by column, while linears see them row by row."""
    rows = graft_module.image_rows
    monkeypatch.setattr(
        graft_module, "image_rows", lambda mask, *sizes: rows(None if mask is None else mask.T.reshape(sizes), *sizes)
    )


@pytest.fixture
def look_at_later_anchors(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of several anchors a token looks at all that its forward pass knows of, those after it included."""
    forward = AnchorAttention.forward
    monkeypatch.setattr(AnchorAttention, "forward", lambda self, states, memory, _=None: forward(self, states, memory))


TROL = ("trol", "trol_3_passes", "trol_shared", "both")
PROMPT_TROL = ("trol_prompt", "both_prompt")
PHANTOM = ("phantom", "phantom_drop", "phantom_anchors", "both", "both_prompt")
ALL = (*TROL, *PROMPT_TROL, "phantom", "phantom_drop")
BREAKS = [
    (cached, "alias_second_pass", TROL + PROMPT_TROL),
    (cached, "forget_anchor", PHANTOM),
    (cached, "overlook_lone_images", ("partial_lora",)),
    (chunked, "alias_second_pass", TROL + PROMPT_TROL),
    (chunked, "forget_anchor", PHANTOM),
    (chunked, "guess_the_prompt", PROMPT_TROL),
    (chunked, "look_at_later_anchors", ("phantom_anchors",)),
    (in_one_batch, "look_at_later_anchors", ("phantom_anchors",)),
    (behind_padding, "take_a_pad_as_anchor", PHANTOM),
    (behind_padding, "mistake_rows_for_columns", ("partial_lora",)),
    (behind_padding, "ignore_mask", ALL),
    (chunked_behind_padding, "take_a_pad_as_anchor", PHANTOM),
    (chunked_behind_padding, "alias_second_pass", TROL + PROMPT_TROL),
    (in_one_batch, "ignore_mask", ALL),
    (in_one_batch, "take_a_pad_as_anchor", PHANTOM),
    (interleaved, "keep_on_module", ALL),
    (reordered, "reorder_own_layers", ALL),
    (repeated_and_selected, "repeat_extra_layers_in_another_order", (*TROL, "phantom", "phantom_drop", "both_prompt")),
    (static, "reset_own_layers", (*TROL, "phantom", "phantom_drop")),
    (static, "alias_second_pass", TROL + PROMPT_TROL),
    (static, "forget_anchor", PHANTOM),
    (eager, "ignore_mask_in_eager", ALL),
]
# what each break must spare: a comparison in which its mechanism has no part
SPARED = {
    "alias_second_pass": behind_padding,
    "forget_anchor": behind_padding,
    "guess_the_prompt": cached,
    "take_a_pad_as_anchor": cached,
    "ignore_mask": cached,
    "look_at_later_anchors": cached,
    "keep_on_module": chunked,
    "reorder_own_layers": cached,
    "repeat_extra_layers_in_another_order": cached,
    "reset_own_layers": chunked,
    "ignore_mask_in_eager": behind_padding,
    "overlook_lone_images": behind_padding,
    "mistake_rows_for_columns": interleaved,
}
OF_IMAGES = ("overlook_lone_images", "mistake_rows_for_columns")
OF_ANCHORS = ("look_at_later_anchors",)
WITH_THE_REST = [
    (broken, "partial_lora" if broken in OF_IMAGES else "phantom_anchors" if broken in OF_ANCHORS else "both_prompt")
    for broken in SPARED
]


def test_a_broken_mechanism_shows(broken_case: Any, comparison: Callable[[Any], float]):
    assert comparison(broken_case) > BROKEN


@pytest.mark.parametrize("broken_case", WITH_THE_REST, ids="-".join, indirect=True)
def test_a_break_spares_the_rest(broken_case: Any, request: pytest.FixtureRequest):
    spared = SPARED[request.node.callspec.params["broken_case"][0]]
    assert spared(broken_case) < EXACT


def test_no_break_lasts(case: Any):
    """The models are shared: one that a control had left broken would make other controls pass for a wrong reason."""
    assert cached(case) < EXACT


def test_every_comparison_can_fail():
    assert {comparison for comparison, *_ in BREAKS} == set(COMPARISONS)
    assert {broken for _, broken, _ in BREAKS} == set(SPARED)
