"""Folders of PEFT that cannot be merged are refused in one line."""

from __future__ import annotations

import json
import sys

import pytest

from phantrol.training.merging import merge


@pytest.mark.parametrize(
    ("text", "words"),
    [("[]", "names no base"), ('{"base_model_name_or_path": 3}', "names no base"), ("{", "is broken")],
)
def test_a_broken_configuration_is_named(tmp_path, text, words):
    (tmp_path / "adapter_config.json").write_text(text)
    with pytest.raises(ValueError, match=rf"adapter_config\.json {words}"):
        merge(tmp_path, tmp_path / "out")


def test_without_the_package(tmp_path, monkeypatch):
    (tmp_path / "adapter_config.json").write_text("{}")
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ValueError, match=r"pip install 'phantrol\[lora\]'"):
        merge(tmp_path, tmp_path / "out")


def test_adapters_that_cannot_be_read(tiny_recipe, tmp_path):
    model, processor = tiny_recipe().model.build()
    model.save_pretrained(tmp_path / "base")
    processor.save_pretrained(tmp_path / "base")
    described = {"base_model_name_or_path": str(tmp_path / "base"), "peft_type": "LORA", "target_modules": ["q_proj"]}
    (tmp_path / "adapter_config.json").write_text(json.dumps(described))
    (tmp_path / "adapter_model.safetensors").write_bytes(b"1")
    with pytest.raises(ValueError, match=r"its adapters do not fit .*base, or are broken: SafetensorError"):
        merge(tmp_path, tmp_path / "out")
