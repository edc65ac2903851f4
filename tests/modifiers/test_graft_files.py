"""A grafted model on disk: what is saved comes back to the bit, and what does not fit is refused."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from modifier_sets import CASES
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

from phantrol.models.configuration import PhantrolConfig
from phantrol.modifiers.base import config_to_dict
from phantrol.modifiers.graft import graft, load_grafted, modifier_configs
from phantrol.modifiers.phantom import PhantomConfig
from phantrol.modifiers.trol import TrolConfig

# a partial LoRA has to be told where images are, and a model that was loaded has no hook that does so
SAVED = [case for case in CASES if case[1] != "partial_lora"]


@pytest.fixture
def build(build_case: Callable[[str, str], Any]) -> Callable[[str, str], Any]:
    """`build(family, name)` returns a case in float32, the dtype in which `from_pretrained` computes rotary tables."""

    def build_single(family: str, name: str) -> Any:
        case = copy.copy(build_case(family, name))
        case.model, case.plain = (copy.deepcopy(model).float() for model in (case.model, case.plain))
        return case

    return build_single


def load(folder: Path) -> Any:
    """Load, and copy each parameter to fresh memory: the last bit of a product depends on how memory is aligned."""
    model = load_grafted(folder)
    for parameter in model.parameters():
        parameter.data = parameter.data.clone()
    return model


def logits(model: Any, ids: Tensor) -> Tensor:
    with torch.no_grad():
        return model(ids, use_cache=False, prompt_length=8).logits


def without_modifiers(model: Any, ids: Tensor) -> Tensor:
    with torch.no_grad():
        return model(ids, use_cache=False).logits


@pytest.mark.parametrize(("family", "name"), SAVED)
def test_a_model_comes_back_to_the_bit(family: str, name: str, build: Callable[[str, str], Any], tmp_path: Path):
    case = build(family, name)
    case.model.save_pretrained(tmp_path / "one")
    loaded = load(tmp_path / "one")
    assert not loaded.training
    assert modifier_configs(loaded.config) == list(case.configs)
    before, after = case.model.state_dict(), loaded.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert torch.equal(logits(loaded, case.ids), logits(case.model, case.ids))
    loaded.save_pretrained(tmp_path / "two")
    for file in ("config.json", "model.safetensors"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()
    # the same folder read by transformers alone has lost what the modifiers do
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "one")
    assert float((without_modifiers(plain, case.ids) - logits(loaded, case.ids)).abs().max()) > 1e-3


def test_a_loaded_model_generates_and_learns(build: Callable[[str, str], Any], tmp_path: Path):
    case = build("llama", "both_prompt")
    case.model.save_pretrained(tmp_path)
    loaded = load(tmp_path)
    options = {"max_new_tokens": 4, "do_sample": False}
    assert torch.equal(loaded.generate(case.ids, **options), case.model.generate(case.ids, **options))
    loaded.train()(case.ids, labels=case.ids).loss.backward()
    assert all(parameter.grad is not None for parameter in loaded.parameters())


def test_shards_and_other_dtypes(build: Callable[[str, str], Any], tmp_path: Path):
    case = build("llama", "both")
    case.model.save_pretrained(tmp_path, max_shard_size="60KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    assert torch.equal(logits(load(tmp_path), case.ids), logits(case.model, case.ids))
    half = load_grafted(tmp_path, dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in half.parameters()} == {torch.bfloat16}


def test_a_shared_gate_is_named_once_and_stays_shared(build: Callable[[str, str], Any], tmp_path: Path):
    case = build("llama", "trol_shared")
    case.model.save_pretrained(tmp_path)
    assert sum("traversal_gate.weight" in key for key in load_file(tmp_path / "model.safetensors")) == 1
    gates = {id(layer.traversal_gate) for layer in load_grafted(tmp_path).model.layers}
    assert len(gates) == 1


def test_the_configuration_names_modifiers_and_nothing_of_this_process(
    build: Callable[[str, str], Any], tmp_path: Path
):
    case = build("llama", "both_prompt")
    logits(case.model, case.ids)
    case.model.save_pretrained(tmp_path)
    text = (tmp_path / "config.json").read_text("utf-8")
    assert [modifier["name"] for modifier in json.loads(text)["modifiers"]] == ["trol", "phantom"]
    assert json.loads(text)["modifiers"][1]["layers"] == [1, 2]
    assert "phantom_sdpa" not in text, "a fresh process does not know this attention function yet"


@pytest.fixture
def folder(build: Callable[[str, str], Any], tmp_path: Path) -> Path:
    build("llama", "both").model.save_pretrained(tmp_path)
    return tmp_path


def edit_tensors(folder: Path, edit: Callable[[dict[str, Tensor]], Any]) -> None:
    tensors = load_file(folder / "model.safetensors")
    edit(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def edit_config(folder: Path, edit: Callable[[dict[str, Any]], Any]) -> None:
    path = folder / "config.json"
    config = json.loads(path.read_text("utf-8"))
    edit(config)
    path.write_text(json.dumps(config), "utf-8")


@pytest.mark.parametrize(
    "key",
    ["model.layers.1.traversal_gate.bias", "model.layers.2.self_attn.phantom.value.o_proj.weight", "lm_head.weight"],
)
def test_a_missing_tensor_is_refused(folder: Path, key: str):
    load_grafted(folder)
    edit_tensors(folder, lambda tensors: tensors.pop(key))
    with pytest.raises(ValueError, match=f"missing_keys.*{key}"):
        load_grafted(folder)


def test_a_tensor_too_many_is_refused(folder: Path):
    edit_tensors(folder, lambda tensors: tensors.update({"model.layers.0.traversal_gate.extra": torch.zeros(1)}))
    with pytest.raises(ValueError, match=r"unexpected_keys.*traversal_gate\.extra"):
        load_grafted(folder)


def test_a_modifier_less_than_was_saved_is_refused(folder: Path):
    edit_config(folder, lambda config: config["modifiers"].pop())
    with pytest.raises(ValueError, match=r"unexpected_keys.*\.phantom\.|unexpected_keys.*traversal_gate"):
        load_grafted(folder)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda options: options.update(name="troll"), "unknown name 'troll' among modifiers: known are partial_lora"),
        (lambda options: options.update(name="trol.py"), "no file trol.py"),
        (lambda options: options.update(name="no_such.module"), "no module 'no_such.module'"),
        (lambda options: options.update(name="json.decoder"), "json.decoder defines no MODIFIER"),
        (lambda options: options.update(speed=2), "modifier 'trol' has no option speed: known are layers, passes"),
        (lambda options: options.update(passes=1), "passes is 1: expected 2 or more"),
        (lambda options: options.update(layers=[0, 3]), r"layers is \(0, 3\): expected 'all' or indices from 0 to 2"),
    ],
    ids=["name", "file", "module", "constant", "option", "value", "layers"],
)
def test_what_config_json_gets_wrong_is_said(folder: Path, edit: Callable[[dict[str, Any]], None], message: str):
    edit_config(folder, lambda config: edit(config["modifiers"][1]))
    with pytest.raises(ValueError, match=message):
        load_grafted(folder)


def test_a_plain_model_is_refused(build: Callable[[str, str], Any], tmp_path: Path):
    build("llama", "both").plain.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"names no modifiers in its config\.json: load it with AutoModelForCausalLM"):
        load_grafted(tmp_path)


def test_a_whole_model_is_refused(tmp_path: Path):
    config = PhantrolConfig()
    config.text_config.modifiers = [config_to_dict(TrolConfig())]
    config.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"is no causal language model but phantrol: load it with phantrol\.load"):
        load_grafted(tmp_path)


def test_no_model_is_refused_in_one_line(tmp_path: Path):
    for folder in (tmp_path, tmp_path / "nothing"):
        with pytest.raises(ValueError, match=r"holds no grafted model: .*; name one that was saved"):
            load_grafted(folder)


def test_one_of_our_models_is_grafted_as_if_it_had_been_built_so(seeing: Callable[..., Any], tmp_path: Path):
    model, ids, modifiers = (
        seeing(),
        torch.arange(3, 11)[None],
        [TrolConfig(gate_bias=0.0, tokens="prompt"), PhantomConfig()],
    )
    plain = logits_of(model, ids)
    assert graft(model, modifiers) is model
    assert float((logits_of(model, ids) - plain).abs().max()) > 1e-3
    model.save_pretrained(tmp_path)
    again = AutoModelForImageTextToText.from_pretrained(tmp_path).eval()
    assert [type(part) for part in again.modules()] == [type(part) for part in model.modules()]
    assert torch.equal(logits_of(again, ids), logits_of(model, ids))
    assert torch.equal(*(one.generate(ids, max_new_tokens=3, do_sample=False) for one in (again, model)))


def logits_of(model: Any, ids: Tensor) -> Tensor:
    with torch.no_grad():
        return model(ids).logits


@pytest.mark.parametrize("key", ["traversal_gate.bias", "self_attn.phantom.value.o_proj.weight"])
@pytest.mark.parametrize("size", [None, (1, 7)])
def test_what_a_graft_lacks_is_not_taken_from_the_memory(
    seeing: Callable[..., Any], key: str, size: tuple[int, ...] | None, tmp_path: Path
):
    seeing([TrolConfig(), PhantomConfig()]).save_pretrained(tmp_path)
    key = f"language_model.model.layers.1.{key}"
    with_another = {} if size is None else {key: torch.zeros(size)}
    edit_tensors(tmp_path, lambda tensors: (tensors.pop(key), tensors.update(with_another)))
    with pytest.raises(ValueError, match=rf"does not fit its config.json: missing_keys, .*{key}.*graft it then"):
        AutoModelForImageTextToText.from_pretrained(tmp_path, ignore_mismatched_sizes=True)
