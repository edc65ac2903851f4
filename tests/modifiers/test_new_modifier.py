"""The promise: a new modifier is one new file. Here it is written to a temporary folder, and never registered."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from phantrol.find import find
from phantrol.modifiers.graft import graft, load_grafted
from phantrol.modifiers.trol import TrolConfig

SOURCE = '''
"""A layer scale: each layer's step is multiplied by a number per channel."""

from __future__ import annotations

import dataclasses

import torch
from torch import nn

from phantrol.modifiers.base import LayerModifier, mark_initialized


@dataclasses.dataclass(frozen=True)
class ScaleConfig:
    layers: str | tuple[int, ...] = "all"
    start: float = 0.5


class Scaled:
    def forward(self, hidden_states, *args, **kwargs):
        return hidden_states + self.scale(super().forward(hidden_states, *args, **kwargs) - hidden_states)


class ChannelScale(nn.Module):
    def __init__(self, size, start, **factory):
        super().__init__()
        self.weight = nn.Parameter(torch.full((size,), start, **factory))

    def forward(self, x):
        return x * self.weight


class Scale(LayerModifier):
    Config, mixin = ScaleConfig, Scaled

    def attach(self, layer, layer_idx, text_config):
        like = next(layer.parameters())
        layer.scale = ChannelScale(text_config.hidden_size, self.config.start, device=like.device, dtype=like.dtype)
        mark_initialized(layer.scale)


MODIFIER = Scale
'''


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "my_scale.py"
    path.write_text(SOURCE, "utf-8")
    return path


def logits(model: Any, ids: Tensor) -> Tensor:
    with torch.no_grad():
        return model(ids, use_cache=False).logits


def test_one_file_is_enough(family: str, file: Path, tiny_decoder: Callable[..., Any], tmp_path: Path):
    Config = find("modifiers", str(file)).Config
    model, ids = tiny_decoder(family), torch.arange(3, 13)[None]
    plain = logits(model, ids)
    graft(model, [Config(start=1.0)])
    torch.testing.assert_close(logits(model, ids), plain, atol=1e-5, rtol=0)
    model = graft(tiny_decoder(family), [Config(layers=(0, 2)), TrolConfig(gate_bias=0.2)])
    with torch.no_grad():
        model.get_decoder().layers[2].scale.weight[3] = 0.25
    scaled = logits(model, ids)
    assert float((scaled - plain).abs().max()) > 1e-3
    assert [hasattr(layer, "scale") for layer in model.get_decoder().layers] == [True, False, True]
    generated = [model.generate(ids, max_new_tokens=4, use_cache=use) for use in (True, False)]
    assert torch.equal(*generated)

    model.save_pretrained(tmp_path / "model")
    named = json.loads((tmp_path / "model" / "config.json").read_text("utf-8"))["modifiers"]
    assert named[0] == {"name": str(file), "layers": [0, 2], "start": 0.5} and named[1]["name"] == "trol"
    for name in [name for name in sys.modules if name.startswith("phantrol_user_my_scale")]:
        del sys.modules[name]  # as in a fresh process, which has not seen the file
    loaded = load_grafted(tmp_path / "model")
    before, after = model.state_dict(), loaded.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[key], after[key]) for key in before)
    torch.testing.assert_close(logits(loaded, ids), scaled, atol=1e-5, rtol=0)


def test_without_its_file_the_model_says_so(file: Path, tiny_decoder: Callable[..., Any], tmp_path: Path):
    model = graft(tiny_decoder("llama"), [find("modifiers", str(file)).Config()])
    model.save_pretrained(tmp_path / "model")
    load_grafted(tmp_path / "model")
    shutil.move(file, tmp_path / "elsewhere.py")
    with pytest.raises(ValueError, match=r"no file .*my_scale\.py: expected a Python file"):
        load_grafted(tmp_path / "model")


def test_a_file_without_a_modifier_is_refused(tmp_path: Path):
    (tmp_path / "empty.py").write_text("ANSWER = 42\n", "utf-8")
    with pytest.raises(ValueError, match="defines no MODIFIER"):
        find("modifiers", str(tmp_path / "empty.py"))


def test_a_dotted_name_is_found_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_decoder: Callable[..., Any]):
    package = tmp_path / "a_users_package"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "scale.py").write_text(SOURCE, "utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    model = graft(tiny_decoder("llama"), [find("modifiers", "a_users_package.scale").Config()])
    assert model.config.modifiers[0]["name"] == "a_users_package.scale"
