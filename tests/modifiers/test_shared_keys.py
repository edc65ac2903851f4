"""Decoders whose last layers attend to the keys and values of earlier ones (Gemma 3n, Gemma 4)."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from test_phantom_decoding import EXACT, KEYS_GO_ON
from transformers import AutoConfig, AutoModelForCausalLM, DynamicCache, PreTrainedModel

from phantrol.modifiers.graft import graft
from phantrol.modifiers.phantom import PhantomConfig
from phantrol.modifiers.trol import IDENTITY_BIAS, TrolConfig

PROMPT, IDS = 8, torch.arange(3, 15)[None]
pytestmark = pytest.mark.usefixtures("float64_throughout", "no_grad")


@pytest.fixture(scope="module")
def plain() -> Callable[[str], PreTrainedModel]:
    @torch.no_grad()
    def build(family: str) -> PreTrainedModel:
        torch.manual_seed(0)
        config = AutoConfig.for_model(family, **KEYS_GO_ON[family])
        model = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa").double().eval()
        return enlarge(model)

    return build


def enlarge(model: PreTrainedModel) -> PreTrainedModel:
    generator = torch.Generator().manual_seed(1)
    for name, parameter in model.named_parameters():
        if "traversal_gate" not in name:
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter += (0.8 if ".phantom." in name else 0.2) * noise
    return model


def largest(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).abs().max())


MIXES = {
    "phantom": [PhantomConfig(init="random")],
    "both": [TrolConfig(tokens="prompt", gate_bias=0.1), PhantomConfig(init="random")],
}


@pytest.mark.parametrize("name", MIXES)
def test_the_last_token_alone(name: str, plain: Callable[[str], PreTrainedModel]):
    """`generate` asks for its logits alone, and Gemma 4 cuts the others away before its last layers."""
    model = enlarge(graft(plain("gemma4_text"), MIXES[name]))
    full = model(IDS, use_cache=False).logits
    for options in ({}, {"use_cache": False}, {"prompt_length": PROMPT}):
        whole = model(IDS, **options | {"use_cache": False}).logits
        for kept in (1, 3):
            last = model(IDS, logits_to_keep=kept, **options).logits
            assert last.shape[1] == kept and largest(last, whole[:, -kept:]) < EXACT
    padded = torch.cat([torch.zeros(1, 4, dtype=torch.long), IDS[:, :-4]], dim=1)
    mask = torch.cat([torch.ones_like(IDS), (padded != 0).long()])
    said = model.generate(
        torch.cat([IDS, padded]),
        attention_mask=mask,
        max_new_tokens=1,
        output_logits=True,
        return_dict_in_generate=True,
    ).logits[0]
    assert largest(said[0], full[0, -1]) < EXACT
    assert largest(said[1], model(IDS[:, :-4], use_cache=False).logits[0, -1]) < EXACT


@pytest.mark.parametrize("tokens", ["all", "prompt"])
@pytest.mark.parametrize("family", KEYS_GO_ON)
def test_a_layer_that_hands_its_keys_on_traverses(family: str, tokens: str, plain: Callable[[str], PreTrainedModel]):
    """Later layers take its first pass's keys, which each token has: of an answer too, and where a gate is closed."""
    backbone = plain(family)
    model = graft(copy.deepcopy(backbone), [TrolConfig(tokens=tokens, gate_bias=0.1)])
    full = model(IDS, use_cache=False, prompt_length=PROMPT).logits
    assert largest(full, backbone(IDS, use_cache=False).logits) > 0.1
    cache = DynamicCache(config=model.config)
    parts = IDS.split([5, 3, 1, 1, 2], dim=1)
    fed = torch.cat([model(part, past_key_values=cache, prompt_length=PROMPT).logits for part in parts], dim=1)
    assert largest(fed, full) < EXACT
    closed = graft(copy.deepcopy(backbone), [TrolConfig(tokens=tokens, gate_bias=IDENTITY_BIAS)])
    assert largest(closed(IDS, use_cache=False).logits, backbone(IDS, use_cache=False).logits) < EXACT


@pytest.mark.parametrize("layers", [(0, 1), (2, 3), (0, 1, 2)])
@pytest.mark.parametrize("family", KEYS_GO_ON)
def test_keys_are_enlarged_for_all_that_attend_to_them(
    family: str, layers: tuple[int, ...], plain: Callable[[str], PreTrainedModel]
):
    model = plain(family)
    with pytest.raises(
        ValueError, match=r"PhantomConfig.layers is .*: expected all or none of \((0, 2|1, 3)\)"
    ) as caught:
        graft(model, [PhantomConfig(layers=layers)])
    assert "\n" not in str(caught.value)
    logits = model(IDS, use_cache=False).logits
    model = graft(model, [PhantomConfig(layers=(1, 3))])
    assert largest(model(IDS, use_cache=False).logits, logits) < EXACT, "at its start it is the backbone"
