"""Official names to ours: against the recorded tensors, and against tables that are wrong on purpose.

B 2 rows, N tokens; that the five combinations compute what was released is held by test_verify.py on an independent
reimplementation.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from recordings import COMBINATIONS
from safetensors.torch import load_file
from sources import draw_source, write_source
from torch import Tensor
from transformers import CLIPVisionConfig, CLIPVisionModel

from phantrol.models.released import mapping
from phantrol.models.released.convert import load_official
from phantrol.models.released.layout import GATE_FILE, read_layout
from phantrol.models.released.mapping import official_name, plan, target_shapes

AGREEMENT, BROKEN = 2e-5, 1e-3
RECORDED = Path(__file__).parents[1] / "recorded"
pytestmark = pytest.mark.usefixtures("no_grad")


def shapes_of(weights: dict[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in weights.items()}


def difference(name: str, folder: Path | None = None) -> float:
    """How far a recorded model, loaded as it is mapped now, is from what was recorded at tokens that are no padding."""
    io = load_file(RECORDED / name / "io.safetensors")
    model = load_official(folder or RECORDED / name, need_vision="pixel_values" in io)
    if "pixel_values" in io:
        inputs = {key: io[key] for key in ("input_ids", "pixel_values", "attention_mask")}
        logits = model(**inputs).logits
    else:
        inputs = {"inputs_embeds": io["hidden_states"][0], "attention_mask": io["attention_mask"]}
        logits = model.language_model(**inputs, image_mask=io["im_mask"]).logits
    return float((logits - io["prefill_logits"])[io["attention_mask"] == 1].abs().max())


@pytest.mark.parametrize("name", ["trol_internlm2", "phantom_qwen2"])
def test_recorded_models(name: str):
    assert difference(name) < AGREEMENT


def swapped(tensor: Tensor, text: Any) -> tuple[Tensor, ...]:
    """Queries, keys and values where each has as many rows as before, but the keys are values and the values keys."""
    queries, keys, values = mapping._interleaved(tensor, text)
    return queries, values, keys


def rolled(tensor: Tensor, text: Any) -> tuple[Tensor, ...]:
    """Every query head belongs to the next key/value head."""
    queries, keys, values = mapping._interleaved(tensor, text)
    return queries.roll(16, 0), keys, values


def not_interleaved(tensor: Tensor, text: Any) -> tuple[Tensor, ...]:
    """All queries, then all keys, then all values, as Phi-3 has them."""
    return tensor.split([64, 32, 32])


@pytest.mark.parametrize("wrong", [swapped, rolled, not_interleaved])
def test_a_wrong_split_of_wqkv_shows(wrong: Callable[..., Any], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(mapping.SPLITS, "interleaved", wrong)
    assert difference("trol_internlm2") > BROKEN


@pytest.mark.parametrize("order", [(1, 0, 2), (0, 2, 1)])
def test_a_wrong_order_in_the_vision_tower_shows(order: tuple[int, ...], monkeypatch: pytest.MonkeyPatch):
    """Queries and keys swapped, and keys and values."""

    def mixed_up(tensor: Tensor, text: Any) -> tuple[Tensor, ...]:
        return tuple(tensor.chunk(3)[i] for i in order)

    monkeypatch.setitem(mapping.SPLITS, "thirds", mixed_up)
    assert difference("phantom_qwen2") > BROKEN


@pytest.mark.parametrize(("one", "other"), [("query", "value"), ("linear_q", "linear_k"), ("linear_v", "linear_o")])
def test_phantom_parts_swapped_show(one: str, other: str, tmp_path: Path):
    def swap(name: str) -> str:
        if "xattn" not in name:
            return name
        return name.replace(one, "\0").replace(other, one).replace("\0", other)

    folder = rewrite("phantom_qwen2", tmp_path, swap)
    assert difference("phantom_qwen2", folder) > BROKEN


def rewrite(name: str, folder: Path, rename: Callable[[str], str]) -> Path:
    config = json.loads((RECORDED / name / "config.json").read_text("utf-8"))
    weights = load_file(RECORDED / name / "weights.safetensors")
    return write_source(folder, config, {rename(key): weight for key, weight in weights.items()}, "whole")


def test_the_first_gate_in_place_of_the_last_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    config, weights = draw_source("trol", "phi3")
    folder = write_source(tmp_path, config, weights)
    inputs = some_inputs(config)
    last = load_official(folder)
    for i in range(1, 4):
        assert last.language_model.model.layers[i].traversal_gate is last.language_model.model.layers[0].traversal_gate
    assert torch.equal(last.language_model.model.layers[0].traversal_gate.bias, weights[f"{GATE_FILE}/3.bias"])
    logits = last(**inputs).logits
    gate = last.language_model.model.layers[0].traversal_gate
    gate.weight.copy_(weights[f"{GATE_FILE}/0.weight"])
    gate.bias.copy_(weights[f"{GATE_FILE}/0.bias"])
    assert float((last(**inputs).logits - logits).abs().max()) > BROKEN
    each = load_official(folder, per_layer_gates=True)
    assert [layer.traversal_gate.bias.item() for layer in each.language_model.model.layers] == [
        weights[f"{GATE_FILE}/{i}.bias"].item() for i in range(4)
    ]
    assert float((each(**inputs).logits - logits).abs().max()) > BROKEN


def some_inputs(config: dict[str, Any], rows: int = 2) -> dict[str, Tensor]:
    """Two rows of 12 tokens with one picture each, the first behind three pads."""
    generator = torch.Generator().manual_seed(5)
    ids = torch.randint(3, 400, (rows, 12), generator=generator)
    ids[:, 4:8] = config["image_token_index"]
    mask = torch.ones_like(ids)
    ids[0, :3], mask[0, :3] = 2, 0
    side_px = 28 if "llm_config" not in config else 56
    pixels = torch.randn(rows, 3, side_px, side_px, generator=generator)
    return {"input_ids": ids, "attention_mask": mask, "pixel_values": pixels}


@pytest.mark.parametrize(("family", "backbone"), COMBINATIONS)
def test_every_tensor_has_a_place(family: str, backbone: str):
    config, weights = draw_source(family, backbone)
    shapes = shapes_of(weights)
    layout = read_layout(config, shapes)
    assert (layout.family, layout.backbone) == (family, backbone)
    todo, expected = plan(layout, shapes), target_shapes(layout)
    made = {}
    for move in todo.moves:
        made |= shapes_of(move.apply(weights[move.source]))
        for target in move.targets:
            assert official_name(target, layout) == move.source
    assert made == expected
    moved = {move.source for move in todo.moves}
    assert moved | {name for name in todo.dropped if "[" not in name} == set(weights)
    assert moved.isdisjoint(todo.dropped)
    gates = {name for name in weights if GATE_FILE in name}
    extra = {f"model.tok_embeddings.weight[{512}]"} if layout.config.image_token_id == 512 else set()
    assert set(todo.dropped) == {name for name in gates if "/3." not in name} | extra


def test_what_is_dropped_has_a_reason():
    config, weights = draw_source("trol", "internlm2")
    weights["vit.vision_tower.vision_model.embeddings.position_ids"] = torch.arange(5)[None]
    weights["model.layers.0.attention.rotary_emb.inv_freq"] = torch.zeros(8)
    weights["model.trol_gating.2.weight"] = weights["model.trol_gating.3.weight"] = torch.zeros(1, 64)
    shapes = shapes_of(weights)
    dropped = plan(read_layout(config, shapes), shapes).dropped
    assert "image features overwrite it" in dropped["model.tok_embeddings.weight[512]"]
    assert "numbers 0, 1, 2" in dropped["vit.vision_tower.vision_model.embeddings.position_ids"]
    assert "computed from the configuration" in dropped["model.layers.0.attention.rotary_emb.inv_freq"]
    assert "takes the gates from trol_gating.pt" in dropped["model.trol_gating.3.weight"]
    assert "leaves the last entry" in dropped["trol_gating.pt/2.bias"]


def test_the_row_of_the_image_token_is_the_last_of_the_embeddings():
    """Without it every other token keeps its own row."""
    config, weights = draw_source("trol", "internlm2")
    shapes = shapes_of(weights)
    (move,) = (
        move for move in plan(read_layout(config, shapes), shapes).moves if move.source == "model.tok_embeddings.weight"
    )
    ((_, embeddings),) = move.apply(weights[move.source]).items()
    assert torch.equal(embeddings, weights[move.source][:-1])


def test_gates_may_stand_in_the_checkpoint_itself():
    config, weights = draw_source("trol", "phi3")
    inside = {name.replace(f"{GATE_FILE}/", "language_model.model.trol_gating."): w for name, w in weights.items()}
    shapes = shapes_of(inside)
    moves = {target: move.source for move in plan(read_layout(config, shapes), shapes).moves for target in move.targets}
    gate = "language_model.model.layers.0.traversal_gate.weight"
    assert moves[gate] == "language_model.model.trol_gating.3.weight"
    every = plan(read_layout(config, shapes, per_layer_gates=True), shapes)
    assert not every.dropped and sum("traversal_gate" in move.targets[0] for move in every.moves) == 8


@pytest.mark.parametrize(
    ("tied", "head", "message"),
    [
        (True, True, None),
        (True, False, None),
        (None, False, None),
        (False, True, None),
        (None, True, None),
        (False, False, "tensor language_model.lm_head.weight is missing"),
    ],
)
def test_a_head_may_be_tied_to_the_embeddings(tied: bool | None, head: bool, message: str | None):
    config, weights = draw_source("phantom", "qwen2")
    config["llm_config"]["tie_word_embeddings"] = tied
    if tied is None:
        del config["llm_config"]["tie_word_embeddings"]
    if not head:
        del weights["language_model.lm_head.weight"]
    shapes = shapes_of(weights)
    layout = read_layout(config, shapes)
    if message:
        with pytest.raises(ValueError, match=message):
            plan(layout, shapes)
        return
    todo = plan(layout, shapes)
    assert layout.tied == layout.text.tie_word_embeddings == (tied or (tied is None and not head))
    assert ("language_model.lm_head.weight" in todo.dropped) == (layout.tied and head)


def test_a_tied_head_follows_the_embeddings(tmp_path: Path):
    config, weights = draw_source("phantom", "qwen2", tie_word_embeddings=True)
    model = load_official(write_source(tmp_path, config, weights))
    assert model.language_model.lm_head.weight is model.get_input_embeddings().weight
    assert not any(parameter.is_meta for parameter in model.parameters())


def test_sizes_come_from_shapes_and_not_from_the_configuration():
    config, weights = draw_source("phantom", "internlm2")
    llm, shapes = config["llm_config"], shapes_of(weights)
    for name in ("hidden_size", "vocab_size", "intermediate_size", "num_key_value_heads"):
        llm[name] = 7
    text = read_layout(config, shapes).text
    assert (text.hidden_size, text.vocab_size, text.intermediate_size) == (64, 512, 96)
    assert (text.num_hidden_layers, text.num_key_value_heads, text.num_attention_heads) == (4, 2, 4)


def test_the_number_of_layers_comes_from_both():
    config, weights = draw_source("trol", "internlm2")
    shapes = shapes_of(weights)
    assert read_layout(config | {"num_hidden_layers": None}, shapes).text.num_hidden_layers == 4
    with pytest.raises(
        ValueError, match=r"num_hidden_layers 5, but the tensors are of 4 layers, up to model.layers.3:"
    ):
        read_layout(config | {"num_hidden_layers": 5}, shapes)


# --- the vision towers


def test_clip_is_the_stock_class_before_its_last_norm(tmp_path: Path):
    config, weights = draw_source("trol", "internlm2")
    model = load_official(write_source(tmp_path, config, weights))
    root = "vit.vision_tower.vision_model."
    stock = CLIPVisionConfig(
        hidden_size=64, intermediate_size=256, num_hidden_layers=2, num_attention_heads=1, image_size=28, patch_size=14
    )
    assert stock.hidden_act == model.config.vision_config.hidden_act == "quick_gelu"
    tower = CLIPVisionModel(stock).eval()
    tower.load_state_dict({key.removeprefix(root): w for key, w in weights.items() if key.startswith(root)})
    pixels = some_inputs(config)["pixel_values"]
    seen = tower(pixels).last_hidden_state[:, 1:]
    linear = torch.nn.functional.linear
    hidden = torch.nn.functional.gelu(linear(seen, weights["vision_proj.0.weight"], weights["vision_proj.0.bias"]))
    expected = linear(hidden, weights["vision_proj.2.weight"], weights["vision_proj.2.bias"])
    assert float((model.get_image_features(pixels) - expected).abs().max()) < AGREEMENT


def test_the_pixel_shuffle_is_the_released_one():
    """Its words: view (n, w, h/2, 2c), swap the middle two, view (n, h/2, w/2, 4c), swap the middle two again."""
    from phantrol.ops.images import pixel_unshuffle

    patches = torch.randn(3, 36, 5)
    grid = patches.view(3, 6, 3, 10).permute(0, 2, 1, 3).reshape(3, 3, 3, 20).permute(0, 2, 1, 3)
    assert torch.equal(pixel_unshuffle(patches, 2), grid.reshape(3, 9, 20))
