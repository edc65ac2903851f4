"""What a user can get wrong is said in one line: what was got, what was expected, and what to do."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, DynamicCache, Lfm2Config

from phantrol.modifiers.base import config_from_dict
from phantrol.modifiers.graft import graft
from phantrol.modifiers.partial_lora import PartialLoraConfig
from phantrol.modifiers.phantom import PhantomConfig
from phantrol.modifiers.trol import TrolConfig

PROMPT = 8
pytestmark = pytest.mark.usefixtures("float64_throughout")
OPTIONS = [
    (lambda: TrolConfig(passes=1), "TrolConfig.passes is 1: expected 2 or more"),
    (lambda: TrolConfig(passes="2"), "TrolConfig.passes is '2': expected"),
    (lambda: TrolConfig(tokens="answer"), "TrolConfig.tokens is 'answer': expected 'all' or 'prompt'"),
    (lambda: PhantomConfig(logits="some"), "PhantomConfig.logits is 'some': expected exact or drop"),
    (lambda: PhantomConfig(init="zero"), "PhantomConfig.init is 'zero': expected identity or random"),
    (lambda: TrolConfig(gate_bias=None), "TrolConfig.gate_bias is None: expected a number"),
    (lambda: TrolConfig(gate_bias="-4"), "TrolConfig.gate_bias is '-4': expected a number"),
    (lambda: PhantomConfig(eta=None), "PhantomConfig.eta is None: expected a number"),
    (lambda: PhantomConfig(eta=True), "PhantomConfig.eta is True: expected a number"),
    (lambda: PhantomConfig(eta=float("nan")), "PhantomConfig.eta is nan: expected a number"),
    (lambda: PhantomConfig(train_eta="yes"), "PhantomConfig.train_eta is 'yes': expected True or False"),
    (lambda: TrolConfig(gate_bias=float("inf")), "TrolConfig.gate_bias is inf: expected a number"),
    (lambda: TrolConfig(share_gate=1), "TrolConfig.share_gate is 1: expected True or False"),
    (lambda: PartialLoraConfig(alpha=None), "PartialLoraConfig.alpha is None: expected a number"),
    (lambda: PartialLoraConfig(alpha=float("nan")), "PartialLoraConfig.alpha is nan: expected a number"),
    (lambda: PartialLoraConfig(share_qkv="no"), "PartialLoraConfig.share_qkv is 'no': expected True or False"),
    (lambda: PartialLoraConfig(rank=True), "PartialLoraConfig.rank is True: expected 1 or more"),
    (lambda: config_from_dict({"name": "trol", "depth": 3}), "modifier 'trol' has no option depth: known are layers"),
    (
        lambda: config_from_dict({"name": "troll"}),
        "unknown name 'troll' among modifiers: known are partial_lora, phantom",
    ),
    (lambda: config_from_dict({"passes": 2}), "name"),
]
LISTS = [
    (
        [TrolConfig(layers=(3,))],
        r"TrolConfig.layers is \(3,\): expected 'all' or indices from 0 to 2, since the decoder has 3",
    ),
    ([PhantomConfig(layers=(-1, 0))], r"PhantomConfig.layers is \(-1, 0\)"),
    (
        [TrolConfig(layers=[0, 0])],
        r"TrolConfig.layers is \[0, 0\]: expected .*, since the decoder has 3 layers, each once",
    ),
    (TrolConfig(), r"modifiers: got TrolConfig\(.*\), expected a list of configurations, such as \[TrolConfig\(\)\]"),
    (None, "modifiers: got None, expected a list"),
    ([TrolConfig(layers=())], r"TrolConfig.layers is \(\)"),
    ([TrolConfig(layers="some")], "TrolConfig.layers is .*: expected 'all' or indices"),
    ([TrolConfig(layers=(0.5,))], r"TrolConfig.layers is \(0.5,\): expected 'all' or indices"),
    ([TrolConfig(layers=1)], "TrolConfig.layers is 1: expected 'all' or indices"),
    ([TrolConfig(layers=None)], "TrolConfig.layers is None: expected 'all' or indices"),
    ([TrolConfig(layers=({},))], "TrolConfig.layers is .*: expected 'all' or indices"),
    ([TrolConfig(layers=(0, []))], "TrolConfig.layers is .*: expected 'all' or indices"),
    ([PhantomConfig(layers=1)], "PhantomConfig.layers is 1: expected 'all' or indices"),
    ([PartialLoraConfig(layers=None)], "PartialLoraConfig.layers is None: expected 'all' or indices"),
    ([TrolConfig(skip=1)], r"TrolConfig.skip is 1: expected a tuple of layers that traverse, \(0, 1, 2\)"),
    ([TrolConfig(skip=None)], "TrolConfig.skip is None: expected a tuple of layers"),
    ([TrolConfig(skip=("a", 5))], r"TrolConfig.skip names \['a', 5\]: expected some of the layers"),
    (["trol"], "'trol' is no modifier's configuration: expected, for example, TrolConfig"),
    ([TrolConfig], "is no modifier's configuration"),
    ([TrolConfig(), TrolConfig(layers=(0,))], "twice"),
]


@pytest.mark.parametrize(("make", "message"), OPTIONS, ids=[message[:30] for _, message in OPTIONS])
def test_an_option_that_cannot_be(make: Callable[[], Any], message: str):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(("configs", "message"), LISTS, ids=[str(configs)[1:40] for configs, _ in LISTS])
def test_a_list_that_does_not_fit_leaves_the_model_alone(
    configs: list[Any], message: str, tiny_decoder: Callable[..., Any]
):
    model = tiny_decoder("llama")
    kinds = [type(module) for module in model.modules()]
    with pytest.raises(ValueError, match=message):
        graft(model, configs)
    assert [type(module) for module in model.modules()] == kinds
    graft(model, [TrolConfig()])


def test_a_model_is_grafted_once(tiny_decoder: Callable[..., Any]):
    model = graft(tiny_decoder("llama"), [TrolConfig()])
    with pytest.raises(ValueError, match="grafted already: graft a fresh one, with all modifiers in one list"):
        graft(model, [PhantomConfig()])


def test_a_decoder_must_have_layers():
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model("gpt2", n_layer=1, n_embd=8, n_head=2, vocab_size=9))
    with pytest.raises(
        ValueError, match=r"GPT2Model has no `layers`: expected .*; graft another decoder, such as Llama"
    ):
        graft(model, [TrolConfig()])


@pytest.mark.parametrize("model", [None, torch.nn.Linear(2, 2)])
def test_what_is_no_language_model(model: Any):
    with pytest.raises(ValueError, match=f"got {type(model).__name__}, expected a model as AutoModelForCausalLM"):
        graft(model, [TrolConfig()])


OTHER_DECODERS = {
    "mamba": dict(hidden_size=8, state_size=4, time_step_rank=2, intermediate_size=16),
    "gpt_neox": dict(hidden_size=8, num_attention_heads=2, intermediate_size=16),
}
REFUSALS = [
    ("mamba", PhantomConfig(), "Phantom cannot enlarge MambaBlock: expected a layer whose self_attn"),
    ("mamba", TrolConfig(), "TroL cannot run MambaBlock .*: got .*cache_params.*, expected .* past_key_values"),
    ("gpt_neox", PhantomConfig(), "Phantom cannot enlarge GPTNeoXLayer: expected a layer whose self_attn"),
    ("gpt_neox", PhantomConfig(layers=(1,)), "Phantom cannot enlarge GPTNeoXLayer: expected"),
    ("gpt_neox", TrolConfig(), "TroL cannot run GPTNeoXLayer .*: got .*layer_past.*, expected .* past_key_values"),
    ("gpt_neox", TrolConfig(layers=(1,)), "TroL cannot run GPTNeoXLayer .*: got .*layer_past.*; graft another"),
]


@torch.no_grad()
@pytest.mark.parametrize(
    ("family", "config", "message"), REFUSALS, ids=[f"{case[0]} {case[1]}"[:30] for case in REFUSALS]
)
def test_a_decoder_that_a_modifier_does_not_fit_is_left_alone(family: str, config: Any, message: str):
    sizes = dict(vocab_size=9, num_hidden_layers=2, **OTHER_DECODERS[family])
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **sizes)).double().eval()
    kinds, weights, ids = [type(module) for module in model.modules()], model.state_dict(), torch.arange(9)[None]
    logits, attention = model(ids).logits, model.config._attn_implementation
    with pytest.raises(ValueError, match=message) as caught:
        graft(model, [config])
    assert "\n" not in str(caught.value)
    assert [type(module) for module in model.modules()] == kinds
    assert model.state_dict().keys() == weights.keys()
    assert not hasattr(model.config, "modifiers") and model.config._attn_implementation == attention
    assert torch.equal(model(ids).logits, logits)


@torch.no_grad()
def test_a_cache_that_a_plain_model_filled(case: Any):
    cache = DynamicCache(config=case.plain.config)
    case.plain(case.ids[:, :4], past_key_values=cache)
    with pytest.raises(ValueError, match="the cache holds 4 tokens that were not computed by this grafted model"):
        case.step(case.ids[:, 4:], cache)


@torch.no_grad()
def test_a_cache_of_a_deeper_decoder(build_case: Callable[[str, str], Any]):
    case = build_case("llama", "both_prompt")
    deeper = copy.deepcopy(case.plain.config)
    deeper.num_hidden_layers += 1
    message = f"the cache has {deeper.num_hidden_layers} layers, the decoder {deeper.num_hidden_layers - 1}: expected"
    with pytest.raises(ValueError, match=message):
        case.step(case.ids, DynamicCache(config=deeper))


@pytest.mark.parametrize("name", ["trol_prompt", "both_prompt"])
@torch.no_grad()
def test_a_prompt_after_an_answer(name: str, build_case: Callable[[str, str], Any]):
    case = build_case("llama", name)
    cache = DynamicCache(config=case.model.config)
    case.feed(case.ids, (PROMPT, PROMPT + 1), cache)
    with pytest.raises(
        ValueError, match=r"2 tokens of a prompt after an answer.*begin with an empty cache, or pass prompt_len"
    ):
        case.step(case.ids[:, PROMPT + 1 :], cache)
    # the remedy that the message names
    case.step(case.ids[:, PROMPT + 1 :], cache, prompt=PROMPT)


@pytest.mark.parametrize("name", ["trol", "phantom", "both"])
@torch.no_grad()
def test_where_all_tokens_traverse_a_conversation_goes_on(name: str, build_case: Callable[[str, str], Any]):
    case = build_case("llama", name)
    fed = case.feed(case.ids, (5, 6, 7, 11))
    assert float((fed - case.full(case.ids)).abs().max()) < 1e-10


@pytest.fixture
def hybrid(request) -> Any:
    """A convolution with a state in the cache, and a layer of attention; TroL in the layers that the test names."""
    torch.manual_seed(0)
    kinds = ["conv", "full_attention"]
    config = Lfm2Config(vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2, layer_types=kinds)
    config.num_attention_heads, config.num_key_value_heads = 4, 2
    model = AutoModelForCausalLM.from_config(config).double().eval()
    for parameter in model.parameters():
        parameter.data *= 4
    return graft(model, [TrolConfig(layers=request.param, gate_bias=0.0)])


@pytest.mark.parametrize("hybrid", ["all"], indirect=True)
@torch.no_grad()
def test_a_layer_with_one_state_for_all_passes_is_refused(hybrid):
    with pytest.raises(ValueError, match=r"a layer again that keeps a state in the cache.*TrolConfig\(layers="):
        hybrid(input_ids=torch.arange(PROMPT)[None])


@pytest.mark.parametrize("hybrid", [(1,)], indirect=True)
@torch.no_grad()
def test_the_attention_of_a_hybrid_decoder_traverses(hybrid):
    tokens = torch.arange(PROMPT + 4)[None]
    whole = hybrid(input_ids=tokens, use_cache=False).logits
    cache = hybrid(input_ids=tokens[:, :PROMPT]).past_key_values
    rest = hybrid(input_ids=tokens[:, PROMPT:], past_key_values=cache).logits
    torch.testing.assert_close(rest, whole[:, PROMPT:], rtol=0, atol=1e-10)


@pytest.mark.parametrize("config", [TrolConfig(), PhantomConfig()])
def test_an_offloaded_cache(tiny_decoder: Callable[..., Any], config: Any):
    model, cache = graft(tiny_decoder("llama"), [config]), DynamicCache()
    cache.offloading = True  # as on a GPU: without one it cannot be made
    with pytest.raises(ValueError, match="got an offloaded cache, expected one that stays where the model is"):
        model(torch.arange(3, 9)[None], past_key_values=cache)
