"""What a graft leaves alone: the backbone's keys, the number of hidden states, masks that the caller made."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, DynamicCache

import phantrol.modifiers.step as step_module
from phantrol.modifiers.graft import graft, grafted_modifiers
from phantrol.modifiers.phantom import PhantomConfig
from phantrol.modifiers.trol import TrolConfig

PROMPT, PADS, NUM_LAYERS = 8, 5, 3
EXACT, BROKEN = 1e-10, 1e-3
pytestmark = pytest.mark.usefixtures("float64_throughout")
BOTH = [TrolConfig(), PhantomConfig()]


def changed_keys(plain: nn.Module, grafted: nn.Module) -> set[str]:
    """Return the keys of the plain model that the other one lacks, or holds another tensor under."""
    before, after = plain.state_dict(), grafted.state_dict()
    return {key for key in before if key not in after or not torch.equal(before[key], after[key])}


def test_backbone_keys_keep_their_names_and_tensors(case: Any, sets: dict[str, list[Any]]):
    assert changed_keys(case.plain, case.model) == set()
    new = case.model.state_dict().keys() - case.plain.state_dict().keys()
    assert new and all("traversal_gate" in key or ".phantom." in key or ".lora_" in key for key in new)


class Wrapped(nn.Module):
    """A modifier as one would rather not write it: around the layer, whose keys it renames."""

    def __init__(self, layer: nn.Module):
        super().__init__()
        self.layer = layer


def test_renamed_and_redrawn_keys_would_show(tiny_decoder: Callable[..., Any]):
    plain = tiny_decoder("llama")
    wrapped = copy.deepcopy(plain)
    wrapped.model.layers[1] = Wrapped(wrapped.model.layers[1])
    assert changed_keys(plain, wrapped) == {key for key in plain.state_dict() if ".layers.1." in key}
    assert "lm_head.weight" in changed_keys(plain, tiny_decoder("llama", seed=1))


def all_outputs(model: nn.Module, ids: Tensor) -> Any:
    with torch.no_grad():
        return model(ids, output_hidden_states=True, use_cache=False)


def test_hidden_states_are_one_per_layer(case: Any):
    states = all_outputs(case.model, case.ids).hidden_states
    plain = all_outputs(case.plain, case.ids).hidden_states
    assert states is not None and len(states) == len(plain) == NUM_LAYERS + 1
    assert torch.equal(states[0], plain[0])
    assert float((states[-1] - plain[-1]).abs().max()) > BROKEN
    with torch.no_grad():
        last = case.model.get_decoder()(case.ids, use_cache=False).last_hidden_state
    assert float((states[-1] - last).abs().max()) < EXACT


def test_a_layer_that_is_listed_twice_would_show(build_case: Callable[[str, str], Any]):
    naive = copy.deepcopy(build_case("llama", "trol").plain)
    naive.model.layers.extend(copy.deepcopy(naive.model.layers))
    naive.config.num_hidden_layers *= 2
    assert len(all_outputs(naive, build_case("llama", "trol").ids).hidden_states) == 2 * NUM_LAYERS + 1


@pytest.mark.parametrize(("skip", "runs"), [((), [0, 0, 1, 1, 2, 2]), ((0, 2), [0, 1, 1, 2])])
@torch.no_grad()
def test_attentions_and_router_logits_come_once_a_pass(skip: tuple[int, ...], runs: list[int]):
    sizes = dict(hidden_size=32, intermediate_size=48, num_attention_heads=4, num_key_value_heads=2)
    config = AutoConfig.for_model("mixtral", vocab_size=97, num_hidden_layers=NUM_LAYERS, num_local_experts=4, **sizes)
    eager = dict(attn_implementation="eager", experts_implementation="eager")
    plain = AutoModelForCausalLM.from_config(config, **eager).double().eval()
    model, ran = graft(copy.deepcopy(plain), [TrolConfig(skip=skip)]), []
    for number, layer in enumerate(model.model.layers):
        layer.self_attn.register_forward_hook(lambda _, __, out, number=number: ran.append((number, out[1])))
    asked = dict(output_attentions=True, output_router_logits=True, output_hidden_states=True, use_cache=False)
    ours, theirs = (each(torch.arange(3, 11)[None], **asked) for each in (model, plain))
    assert [number for number, _ in ran] == runs
    assert len(ours.attentions) == len(ours.router_logits) == len(runs)
    assert all(torch.equal(given, weights) for given, (_, weights) in zip(ours.attentions, ran, strict=True))
    assert len(theirs.attentions) == len(theirs.router_logits) == NUM_LAYERS
    assert len(ours.hidden_states) == len(theirs.hidden_states) == NUM_LAYERS + 1


def own_mask(case: Any, dtype: torch.dtype, ends: tuple[int, ...] | None) -> float:
    """Largest difference between two rows under one mask of four dimensions, [B, 1, N, N], and each row alone.

    ends  where the chunks end that tokens come in, or None for all at once without a cache
    """
    ids = torch.stack([torch.cat([case.ids.new_zeros(PADS), case.ids[0, :-PADS]]), case.ids[1]])
    real, num_tokens = ids != 0, ids.shape[1]
    visible = torch.ones(num_tokens, num_tokens, dtype=torch.bool).tril() & real[:, None, None, :]
    mask = visible if dtype == torch.bool else torch.zeros(visible.shape, dtype=dtype).masked_fill(~visible, -1e9)
    positions = (real.long().cumsum(-1) - 1).clamp(min=0)
    with torch.no_grad():
        alone = torch.cat([case.full(ids[:1, PADS:], prompt=PROMPT - PADS)[0], case.full(ids[1:])[0]])
        cache, chunks = None if ends is None else DynamicCache(config=case.model.config), []
        for start, end in zip((0, *(ends or ())), ends or (num_tokens,), strict=False):
            part = {"attention_mask": mask[:, :, start:end, :end], "position_ids": positions[:, start:end]}
            options = {"past_key_values": cache, "use_cache": cache is not None, "prompt_length": PROMPT}
            chunks.append(case.model(ids[:, start:end], **part, **options).logits)
    return float((torch.cat(chunks, 1)[real] - alone).abs().max())


@pytest.mark.parametrize("dtype", [torch.bool, torch.float64], ids=str)
@pytest.mark.parametrize("ends", [None, (PROMPT, 11), (3, 6, PROMPT, 11)], ids=["whole", "cached", "late_row"])
@pytest.mark.parametrize("name", ["trol", "trol_prompt", "phantom", "phantom_drop", "both", "both_prompt"])
def test_a_mask_of_four_dimensions_is_read_too(
    name: str, ends: Any, dtype: torch.dtype, build_case: Callable[[str, str], Any], monkeypatch: pytest.MonkeyPatch
):
    case = build_case("llama", name)
    assert own_mask(case, dtype, ends) < EXACT
    if "phantom" in name or "both" in name:
        monkeypatch.setattr(step_module, "real_tokens", lambda mask, n, past: torch.ones(1, past + n).bool())
        monkeypatch.setattr(step_module, "check_shared_anchors", lambda *_: None)  # which sees that padding is none
        assert own_mask(case, dtype, ends) > BROKEN


@pytest.mark.parametrize("name", ["trol", "phantom", "both"])
@torch.no_grad()
def test_two_answers_to_one_prompt_share_a_row(name: str, build_case: Callable[[str, str], Any]):
    """A row [prompt][answer][answer] whose answers do not see each other: each token has the logits of its own row."""
    case = build_case("llama", name)
    prompt, answers = case.ids[:1, :5], case.ids[:, 8:]
    row = torch.cat([prompt, answers[:1], answers[1:]], dim=1)
    segments = torch.tensor([0] * 5 + [1] * 3 + [2] * 3)
    same = (segments[None, :] == 0) | (segments[None, :] == segments[:, None])
    visible = (torch.ones_like(same).tril() & same)[None, None]
    positions = torch.tensor([[*range(8), 5, 6, 7]])
    packed = case.model(row, attention_mask=visible, position_ids=positions, use_cache=False).logits[0]
    for number, answer in enumerate(answers, start=1):
        alone = case.full(torch.cat([prompt[0], answer])[None])[0]
        assert float((packed[segments == 0] - alone[:5]).abs().max()) < EXACT
        assert float((packed[segments == number] - alone[5:]).abs().max()) < EXACT
    unpacked = case.model(row, position_ids=positions, attention_mask=torch.ones_like(row), use_cache=False).logits[0]
    assert float((packed - unpacked)[segments == 2].abs().max()) > BROKEN


@pytest.mark.parametrize("name", ["trol", "trol_prompt", "phantom", "both", "both_prompt"])
@torch.no_grad()
def test_a_copied_cache_goes_its_own_way(name: str, build_case: Callable[[str, str], Any]):
    """A prompt read once, and its cache copied for each answer."""
    case = build_case("llama", name)
    prompt, answers = case.ids[:1, :PROMPT], case.ids[:, PROMPT:]
    cache = DynamicCache(config=case.model.config)
    case.step(prompt, cache, prompt=PROMPT)
    copied = copy.deepcopy(cache)
    shared = copy.copy(cache)
    for answer, own in zip(answers, (cache, copied), strict=True):
        fed = torch.cat([case.step(answer[None, i : i + 1], own) for i in range(len(answer))], dim=1)
        full = case.full(torch.cat([prompt, answer[None]], dim=1))
        assert float((fed - full[:, PROMPT:]).abs().max()) < EXACT
    late = case.step(answers[1:, :1], shared)  # not copied in depth: the first answer is already in it
    assert float((late - full[:, PROMPT : PROMPT + 1]).abs().max()) > BROKEN


def test_layers_of_one_kind_share_one_class_whose_name_tells(build_case: Callable[[str, str], Any]):
    layers = build_case("llama", "both").model.model.layers
    assert len({type(layer) for layer in layers}) == 1
    assert type(layers[0]).__name__ == "TraversedEnlargedGraftedLayerLlamaDecoderLayer"
    assert type(build_case("llama", "both_prompt").model.model.layers[0]) is not type(layers[0])
    assert type(build_case("llama", "both").plain.model.layers[0]).__name__ == "LlamaDecoderLayer"


def test_sharding_knows_the_new_layers(case: Any):
    kinds = {type(layer).__name__ for layer in case.model.get_decoder().layers}
    assert kinds <= set(case.model._no_split_modules)
    assert not kinds & set(case.plain._no_split_modules), "the class of other models is left alone"


@torch.no_grad()
def test_a_decoder_alone_can_be_grafted(build_case: Callable[[str, str], Any]):
    case = build_case("llama", "both")
    decoder = AutoModel.from_config(AutoConfig.for_model(**case.plain.config.to_dict())).double().eval()
    graft(decoder, BOTH)
    decoder.load_state_dict(case.model.model.state_dict())
    expected = case.model.model(case.ids, use_cache=False).last_hidden_state
    assert float((decoder(case.ids, use_cache=False).last_hidden_state - expected).abs().max()) < EXACT
    assert [type(modifier).__name__ for modifier in grafted_modifiers(decoder)] == ["Trol", "Phantom"]


def test_the_order_of_modifiers_does_not_matter(
    tiny_decoder: Callable[..., Any], build_case: Callable[[str, str], Any]
):
    case = build_case("llama", "both")
    other = graft(tiny_decoder("llama").double(), list(reversed(case.configs)))
    other.load_state_dict(case.model.state_dict())
    with torch.no_grad():
        assert torch.equal(other(case.ids).logits, case.model(case.ids).logits)


def test_no_modifiers_is_no_graft(tiny_decoder: Callable[..., Any]):
    plain = tiny_decoder("llama")
    kind = type(plain)
    assert type(graft(plain, [])) is kind and grafted_modifiers(plain) == []


def test_another_model_with_the_same_configuration_is_left_alone(build_case: Callable[[str, str], Any]):
    """Phantom names its attention function in the configuration, which a plain model may share."""
    case = build_case("llama", "phantom")
    with torch.no_grad():
        before = case.plain(case.ids, use_cache=False).logits
        shared = copy.deepcopy(case.plain)
        case.full(case.ids)
        for part in shared.modules():
            if getattr(part, "config", None) is not None:
                part.config = case.model.config
        assert case.model.config._attn_implementation == "phantom_sdpa"
        assert torch.equal(shared(case.ids, use_cache=False).logits, before)
