"""Masks that are longer than the tokens at hand, and caches that another part of transformers brings."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from modifier_sets import SETS
from torch import Tensor
from transformers import DynamicCache, GenerationConfig, StaticCache

EXACT, BROKEN = 1e-10, 1e-3
NEW_TOKENS = dict(max_new_tokens=4, min_new_tokens=4, do_sample=False)
pytestmark = pytest.mark.usefixtures("float64_throughout", "no_grad")


def generated(case: Any, ids: Tensor, **options: Any) -> Tensor:
    output = case.model.generate(
        input_ids=ids, **options, **NEW_TOKENS, return_dict_in_generate=True, output_logits=True
    )
    return torch.stack(output.logits)


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("held", [4, 9])
@pytest.mark.parametrize("new_alone", [True, False])
def test_a_prompt_goes_on_behind_a_cache(build_case: Callable[[str, str], Any], name: str, held: int, new_alone: bool):
    """With its new tokens alone and a mask of all, or with all tokens: both forms of transformers."""
    case = build_case("llama", name)
    ids, mask = case.ids[:1], torch.ones(1, 11, dtype=torch.long)
    cache = DynamicCache(config=case.model.config)
    case.step(ids[:, :held], cache)
    later = generated(case, ids[:, held:] if new_alone else ids, attention_mask=mask, past_key_values=cache)
    whole = generated(case, ids, attention_mask=mask, use_cache=False)
    assert float((later - whole).abs().max()) < EXACT


@pytest.mark.parametrize("name", ["trol_prompt", "both_prompt"])
def test_a_prompt_that_ends_too_early_would_be_seen(build_case: Callable[[str, str], Any], name: str):
    case = build_case("llama", name)
    cache = DynamicCache(config=case.model.config)
    case.step(case.ids[:1, :4], cache)
    told = dict(attention_mask=torch.ones(1, 11, dtype=torch.long), past_key_values=cache, prompt_length=7)
    assert float((generated(case, case.ids[:1, 4:], **told) - generated(case, case.ids[:1])).abs().max()) > BROKEN


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("beyond", [0, 1])
def test_a_mask_as_long_as_a_static_cache(build_case: Callable[[str, str], Any], name: str, beyond: int):
    """Whatever it says of tokens that are not there yet; one row begins with padding; a chunk and a token follow."""
    case = build_case("llama", name)
    mask = torch.full((2, 20), beyond)
    mask[:, :11] = 1
    mask[0, :3] = 0
    cache, logits = StaticCache(config=case.model.config, max_cache_len=20), []
    for start, end in ((0, 8), (8, 10), (10, 11)):
        step = case.model(case.ids[:, start:end], attention_mask=mask, past_key_values=cache, prompt_length=10)
        logits.append(step.logits)
    whole = case.full(case.ids, mask[:, :11], prompt=10)
    real = mask[:, :11, None].bool()
    assert float(((torch.cat(logits, 1) - whole) * real).abs().max()) < EXACT
    last = case.full(case.ids, mask[:, :11].flip(0), prompt=10)
    assert float(((last - whole) * real).abs().max()) > BROKEN


@pytest.mark.parametrize("name", ["trol", "phantom", "trol_prompt"])
def test_a_paged_cache_is_refused(build_case: Callable[[str, str], Any], name: str):
    """Each pass of a layer would write over the one before: transformers' continuous batching has one slot a layer."""
    case = build_case("llama", name)
    message = "got the paged cache of .* expected past_key_values.*: answer many requests with phantrol.Engine"
    with pytest.raises(ValueError, match=message):
        case.model.generate_batch([[5, 6, 7]], GenerationConfig(max_new_tokens=2, eos_token_id=-1), progress_bar=False)
    with pytest.raises(ValueError, match=message):
        case.model(case.ids, cache=object(), use_cache=False)


@pytest.mark.parametrize("name", ["trol", "phantom", "both"])
def test_a_prompt_with_learnt_tokens_before_it(build_case: Callable[[str, str], Any], name: str):
    """PEFT's prompt tuning: `generate` gets no length of the prompt where no modifier asks for it."""
    peft = pytest.importorskip("peft")
    case = copy.copy(build_case("llama", name))
    config = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=5)
    case.model = peft.get_peft_model(copy.deepcopy(case.model), config).double().eval()
    mask = torch.ones_like(case.ids)
    whole = case.model(input_ids=case.ids, attention_mask=mask, use_cache=False).logits[:, -1]
    assert float((generated(case, case.ids, attention_mask=mask)[0] - whole).abs().max()) < EXACT
