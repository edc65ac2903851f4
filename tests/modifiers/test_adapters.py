"""Maps of a modifier whose weights are not at hand as they are: PEFT stands before them, or they lie on a disk."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from modifier_sets import SETS
from torch import nn
from transformers import DynamicCache

from phantrol.modifiers import phantom
from phantrol.modifiers.base import OwnLinear
from phantrol.modifiers.graft import load_grafted

NAMES = [name for name in SETS if name != "partial_lora"]  # of the same names as PEFT's
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
WAYS = [(name, ALL) for name in NAMES] + [("both", ["q_proj", "o_proj"]), ("phantom_anchors", ["k_proj", "v_proj"])]


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


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_layers_on_a_disk(build_case: Callable[[str, str], Any], name: str, tmp_path: Path):
    pytest.importorskip("accelerate")
    case = copy.copy(build_case("llama", name))
    case.model.save_pretrained(tmp_path)
    whole = case.full(case.ids)
    places = {f"model.layers.{index}": place for index, place in enumerate(("cpu", "disk", "disk"))}
    places |= dict.fromkeys(("model.embed_tokens", "model.norm", "model.rotary_emb", "lm_head"), "cpu")
    options = dict(device_map=places, offload_folder=tmp_path / "disk", dtype=torch.float64)
    case.model = load_grafted(tmp_path, **options).eval()
    assert next(case.model.get_decoder().layers[1].parameters()).is_meta
    case.model.get_decoder().rotary_emb = build_case("llama", name).model.get_decoder().rotary_emb  # loaded in float32
    assert float((case.full(case.ids) - whole).abs().max()) < EXACT
    cache = DynamicCache(config=case.model.config)
    steps = [case.step(case.ids[:, :8], cache, prompt=8), case.step(case.ids[:, 8:9], cache, prompt=8)]
    assert float((torch.cat(steps, 1) - whole[:, :9]).abs().max()) < EXACT
