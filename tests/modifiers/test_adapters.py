"""Maps of a modifier whose weights are not at hand as they are: PEFT stands before them, or they lie elsewhere."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from modifier_sets import SETS
from torch import nn
from transformers import AutoModelForCausalLM, DynamicCache

from phantrol.modifiers import phantom
from phantrol.modifiers.base import OwnLinear
from phantrol.modifiers.graft import GraftedGeneration, graft, load_grafted
from phantrol.modifiers.partial_lora import PartialLoraConfig
from phantrol.modifiers.phantom import PhantomConfig
from phantrol.modifiers.trol import TrolConfig

EXACT, BROKEN = 1e-10, 1e-3
pytestmark = pytest.mark.usefixtures("float64_throughout")


@pytest.fixture
def adapted(request: pytest.FixtureRequest, build_case: Callable[[str, str], Any]) -> Iterator[Any]:
    """A case whose linear maps have adapters that matter, and the names of those that got no gradient."""
    peft = pytest.importorskip("peft")
    name, targets = request.param
    case = copy.copy(build_case("llama", name))
    lora = peft.LoraConfig(r=2, lora_alpha=4, target_modules=targets, init_lora_weights=False)
    torch.manual_seed(0)
    case.model = peft.get_peft_model(copy.deepcopy(case.model), lora, autocast_adapter_dtype=False).eval()
    case.model(case.ids, labels=case.ids, use_cache=False).loss.backward()
    case.dead = [name for name, part in case.model.named_parameters() if part.requires_grad and part.grad is None]
    return case


ALL = "all-linear"
WAYS = [(name, ALL) for name in SETS] + [("both", ["q_proj", "o_proj"]), ("phantom_anchors", ["k_proj", "v_proj"])]


@pytest.mark.parametrize("adapted", WAYS, ids=str, indirect=True)
def test_adapters_learn_are_decoded_with_and_merge(adapted: Any):
    assert not adapted.dead
    with torch.no_grad():
        whole, cache = adapted.full(adapted.ids), DynamicCache(config=adapted.model.config)
        steps = [adapted.step(adapted.ids[:, :8], cache, prompt=8)]
        steps += [adapted.step(adapted.ids[:, i : i + 1], cache, prompt=8) for i in range(8, 11)]
        assert float((torch.cat(steps, 1) - whole).abs().max()) < EXACT
        with adapted.model.disable_adapter():
            assert float((adapted.full(adapted.ids) - whole).abs().max()) > BROKEN
        adapted.model = adapted.model.merge_and_unload()
        assert float((adapted.full(adapted.ids) - whole).abs().max()) < EXACT


@torch.no_grad()
def test_layers_that_share_a_gate_share_the_copy_that_peft_trains(build_case: Callable[[str, str], Any]):
    peft = pytest.importorskip("peft")
    case = copy.copy(build_case("llama", "trol_shared"))
    lora, before = peft.LoraConfig(target_modules=["q_proj"], modules_to_save=["traversal_gate"]), case.full(case.ids)
    case.model = peft.get_peft_model(copy.deepcopy(case.model), lora, autocast_adapter_dtype=False).eval()
    for name, parameter in case.model.named_parameters():
        if "modules_to_save" in name:
            parameter.add_(1.0)
    whole = case.full(case.ids)
    assert float((whole - before).abs().max()) > BROKEN
    case.model = case.model.merge_and_unload()
    assert float((case.full(case.ids) - whole).abs().max()) < EXACT
    assert len({id(layer.traversal_gate) for layer in case.model.get_decoder().layers}) == 1


@pytest.mark.parametrize("adapted", [("both", ALL)], ids=str, indirect=True)
@torch.no_grad()
def test_a_weight_that_is_read_past_its_adapter_would_be_seen(adapted: Any, monkeypatch: pytest.MonkeyPatch):
    whole = adapted.full(adapted.ids)
    monkeypatch.setattr(phantom, "_weight", lambda linear, like: linear.weight)
    assert float((adapted.full(adapted.ids) - whole).abs().max()) > BROKEN


def test_a_map_of_a_modifier_is_drawn_as_a_linear_one():
    drawn = []
    for kind in (nn.Linear, OwnLinear):
        torch.manual_seed(0)
        made = kind(5, 2, dtype=torch.float64)
        drawn.append([*made.state_dict().items(), ("output", made(torch.ones(3, 5, dtype=torch.float64)))])
    for (name, one), (other_name, other) in zip(*drawn, strict=True):
        assert name == other_name and torch.equal(one, other)


PLACES = {f"model.layers.{index}": place for index, place in enumerate(("cpu", "disk", "disk"))}
PLACES |= dict.fromkeys(("model.embed_tokens", "model.norm", "model.rotary_emb", "lm_head"), "cpu")


@pytest.mark.parametrize("config", [TrolConfig(), PhantomConfig()])
def test_a_model_that_is_spread_already_is_refused(tiny_decoder: Callable[..., Any], config: Any, tmp_path: Path):
    tiny_decoder("llama").save_pretrained(tmp_path)
    one = AutoModelForCausalLM.from_pretrained(tmp_path, device_map="cpu")
    assert isinstance(graft(one, [config]), GraftedGeneration)
    spread = AutoModelForCausalLM.from_pretrained(tmp_path, device_map=PLACES, offload_folder=tmp_path / "disk")
    message = r"got LlamaDecoderLayer with a forward pass of its own, .* load_grafted\(folder, device_map=\.\.\.\)"
    with pytest.raises(ValueError, match=message):
        graft(spread, [config])
    assert not hasattr(spread.config, "modifiers")


# a partial LoRA has to be told where images are, and a model that was loaded has no hook that does so
@pytest.mark.parametrize("name", [name for name in SETS if name != "partial_lora"])
@torch.no_grad()
def test_layers_on_a_disk(build_case: Callable[[str, str], Any], name: str, tmp_path: Path):
    pytest.importorskip("accelerate")
    case = copy.copy(build_case("llama", name))
    case.model.save_pretrained(tmp_path)
    whole = case.full(case.ids)
    options = dict(device_map=PLACES, offload_folder=tmp_path / "disk", dtype=torch.float64)
    case.model = load_grafted(tmp_path, **options).eval()
    assert next(case.model.get_decoder().layers[1].parameters()).is_meta
    case.model.get_decoder().rotary_emb = build_case("llama", name).model.get_decoder().rotary_emb  # loaded in float32
    assert float((case.full(case.ids) - whole).abs().max()) < EXACT
    cache = DynamicCache(config=case.model.config)
    steps = [case.step(case.ids[:, :8], cache, prompt=8), case.step(case.ids[:, 8:9], cache, prompt=8)]
    assert float((torch.cat(steps, 1) - whole[:, :9]).abs().max()) < EXACT


@pytest.mark.parametrize("config", [TrolConfig(tokens="prompt"), PhantomConfig(anchors=3), PartialLoraConfig(rank=3)])
@torch.no_grad()
def test_layers_on_two_devices(tiny_decoder: Callable[..., Any], config: Any):
    """The second one has no numbers, but it will not compute with those of the first."""
    hooks = pytest.importorskip("accelerate.hooks")
    decoder = graft(tiny_decoder("llama").double(), [config]).get_decoder()
    places = {"embed_tokens": "cpu", "rotary_emb": "cpu", "layers.0": "cpu"}
    places |= dict.fromkeys(("layers.1", "layers.2", "norm"), "meta")
    for name, place in places.items():
        decoder.get_submodule(name).to(place)
    hooks.attach_align_device_hook_on_blocks(decoder, execution_device=places, skip_keys="past_key_values")
    hooks.remove_hook_from_module(decoder)  # which would bring the last layer's output to the first device
    ids = torch.arange(3, 25).view(2, 11)
    given = dict(attention_mask=torch.ones_like(ids), prompt_mask=ids > 0, image_mask=ids % 4 == 0)
    for use_cache in (False, True):
        assert decoder(ids, use_cache=use_cache, **given).last_hidden_state.is_meta
