"""`generate()` on a grafted decoder: with any cache and in any chunks, the same tokens with the same logits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from modifier_sets import SETS
from torch import Tensor
from transformers import StaticCache
from transformers.cache_utils import Cache

from phantrol.modifiers.graft import graft
from phantrol.modifiers.phantom import PhantomConfig
from phantrol.modifiers.trol import TrolConfig

PADS, NEW_TOKENS, NUM_LAYERS = 5, 4, 3
EXACT, BROKEN = 1e-10, 1e-3

pytestmark = pytest.mark.usefixtures("float64_throughout", "no_grad")


def prompts(case: Any, shift: int = 0) -> dict[str, Tensor]:
    """Two prompts of unequal length, the shorter one behind padding."""
    ids = case.ids.roll(shift, dims=1)
    rows = torch.stack([torch.cat([ids.new_zeros(PADS), ids[0, :6]]), ids[1]])
    return {"input_ids": rows, "attention_mask": (rows != 0).long()}


def greedy(case: Any, **options: Any) -> Tensor:
    """Return the logits of each new token, [T, B, V]."""
    options = {"max_new_tokens": NEW_TOKENS, "min_new_tokens": NEW_TOKENS, "do_sample": False, **options}
    output = case.model.generate(**options, return_dict_in_generate=True, output_logits=True)
    return torch.stack(output.logits)


def differ(one: Tensor, other: Tensor) -> float:
    return float((one - other).abs().max())


def dynamic(case: Any) -> float:
    return differ(greedy(case, **prompts(case)), greedy(case, **prompts(case), use_cache=False))


def chunked_prefill(case: Any) -> float:
    return differ(greedy(case, **prompts(case), prefill_chunk_size=3), greedy(case, **prompts(case), use_cache=False))


def static(case: Any) -> float:
    return differ(
        greedy(case, **prompts(case), cache_implementation="static"), greedy(case, **prompts(case), use_cache=False)
    )


def static_used_twice(case: Any) -> float:
    cache = StaticCache(config=case.model.config, max_cache_len=40)
    greedy(case, **prompts(case, shift=3), past_key_values=cache)
    cache.reset()
    return differ(greedy(case, **prompts(case), past_key_values=cache), greedy(case, **prompts(case), use_cache=False))


def beams(case: Any) -> float:
    """Largest difference of the beams' scores; 1 if they say different things."""
    options = {"max_new_tokens": NEW_TOKENS, "min_new_tokens": NEW_TOKENS, "do_sample": False, "num_beams": 3}
    outputs = [
        case.model.generate(
            **prompts(case), **options, num_return_sequences=3, return_dict_in_generate=True, output_scores=True, **more
        )
        for more in ({}, {"use_cache": False})
    ]
    if not torch.equal(outputs[0].sequences, outputs[1].sequences):
        return 1.0
    return differ(*(output.sequences_scores for output in outputs))


COMPARISONS = (dynamic, chunked_prefill, static, static_used_twice, beams)


@pytest.mark.parametrize("comparison", COMPARISONS, ids=lambda comparison: comparison.__name__)
def test_generate_gives_the_same_logits(case: Any, comparison: Callable[[Any], float]):
    assert comparison(case) < EXACT


@pytest.mark.parametrize("name", [name for name in SETS if name != "phantom_anchors"])  # which refuses short chunks
def test_a_static_cache_can_be_filled_in_chunks(build_case: Callable[[str, str], Any], name: str):
    """transformers then allocates the cache before the first forward pass, with the sizes that the plain model has."""
    case = build_case("llama", name)
    chunks = greedy(case, **prompts(case), cache_implementation="static", prefill_chunk_size=3)
    assert differ(chunks, greedy(case, **prompts(case), use_cache=False)) < EXACT


@pytest.mark.parametrize("name", [name for name in SETS if name != "partial_lora"])  # which goes by the tokens' ids
def test_embeddings_are_a_prompt_too(build_case: Callable[[str, str], Any], name: str):
    case = build_case("llama", name)
    inputs = prompts(case)
    embeds = case.model.get_input_embeddings()(inputs["input_ids"])
    other = greedy(case, inputs_embeds=embeds, attention_mask=inputs["attention_mask"])
    assert differ(other, greedy(case, **inputs)) < EXACT
    shorter = greedy(case, inputs_embeds=embeds[1:, 1:])
    assert differ(shorter, greedy(case, **inputs)[:, 1:]) > BROKEN


@pytest.mark.parametrize("name", SETS)
def test_guessed_tokens_can_be_taken_back(build_case: Callable[[str, str], Any], name: str):
    """Assisted decoding feeds several guesses at once and crops the cache behind the first wrong one."""
    case = build_case("llama", name)
    prompt = case.ids[:1, :5].repeat(1, 3)
    options = {"max_new_tokens": 12, "min_new_tokens": 12, "do_sample": False}
    crops = []
    crop = Cache.crop
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Cache, "crop", lambda self, *args: (crops.append(args), crop(self, *args))[1])
        guessed = case.model.generate(prompt, prompt_lookup_num_tokens=3, **options)
    assert crops, "nothing was guessed, so nothing was tested"
    assert torch.equal(guessed, case.model.generate(prompt, use_cache=False, **options))


@pytest.fixture
def draft(tiny_decoder: Callable[..., Any]) -> Any:
    """A plain decoder of other weights, which guesses."""
    return tiny_decoder("llama", seed=7, num_hidden_layers=1).double()


@pytest.mark.parametrize("name", ["trol", "trol_prompt", "phantom", "both"])
def test_an_assistant_guesses(build_case: Callable[[str, str], Any], name: str, draft: Any):
    case = build_case("llama", name)
    options = {"max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False}
    alone = case.model.generate(case.ids[:1, :5], use_cache=False, **options)
    assert torch.equal(case.model.generate(case.ids[:1, :5], assistant_model=draft, **options), alone)
    graft(draft, [TrolConfig(gate_bias=0.5), PhantomConfig()])
    assert torch.equal(case.model.generate(case.ids[:1, :5], assistant_model=draft, **options), alone)


def test_an_assistant_that_cannot_take_tokens_back_is_refused(build_case: Callable[[str, str], Any], draft: Any):
    case = build_case("llama", "trol_prompt")
    for assistant in ({"assistant_model": graft(draft, [TrolConfig(tokens="prompt")])}, {"assistant_early_exit": 2}):
        with pytest.raises(ValueError, match="whose prompt alone traverses, which cannot take tokens back: expected"):
            case.model.generate(case.ids[:1, :5], max_new_tokens=4, do_sample=False, **assistant)


@pytest.fixture
def swap_rows_of_extra_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    def reorder(self: Cache, beam_idx: Tensor) -> None:
        for i, layer in enumerate(self.layers):
            layer.reorder_cache(beam_idx if i < NUM_LAYERS else beam_idx.flip(0))

    monkeypatch.setattr(Cache, "reorder_cache", reorder)


TROL, PHANTOM = ("trol", "trol_3_passes", "trol_shared", "both"), ("phantom", "phantom_drop", "both")
BREAKS = [
    (dynamic, "alias_second_pass", (*TROL, "trol_prompt", "both_prompt")),
    (dynamic, "forget_anchor", (*PHANTOM, "both_prompt")),
    (chunked_prefill, "alias_second_pass", (*TROL, "trol_prompt", "both_prompt")),
    (chunked_prefill, "forget_anchor", (*PHANTOM, "both_prompt")),
    (static, "alias_second_pass", (*TROL, "trol_prompt", "both_prompt")),
    (static, "forget_anchor", (*PHANTOM, "both_prompt")),
    (static_used_twice, "reset_own_layers", (*TROL, "phantom", "phantom_drop")),
    (beams, "swap_rows_of_extra_layers", (*TROL, "phantom", "phantom_drop", "both_prompt")),
]


def test_a_broken_mechanism_shows(broken_case: Any, comparison: Callable[[Any], float]):
    assert comparison(broken_case) > BROKEN


def test_every_comparison_can_fail():
    assert {comparison for comparison, *_ in BREAKS} == set(COMPARISONS)
