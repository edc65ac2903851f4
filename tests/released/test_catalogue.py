"""The seven released models at full size, without their weights: sizes, names and shapes, and what they add up to.

`released_shapes.json` lists every tensor of the official models as [name, shape, copies], {i} for the index of a layer;
shapes and totals were read from the official classes, built without memory.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch

from phantrol.models.memory import on_shapes, weight_bytes
from phantrol.models.modeling import PhantrolForConditionalGeneration
from phantrol.models.released.catalogue import RELEASES, release_named
from phantrol.models.released.layout import read_layout
from phantrol.models.released.mapping import plan, target_shapes
from phantrol.training.new_model import SavedModel

TABLES = json.loads((Path(__file__).parents[1] / "recorded" / "released_shapes.json").read_text("utf-8"))
GATES = "trol_gating"


def official_shapes(name: str) -> dict[str, tuple[int, ...]]:
    """Every official tensor of a release, the layers written out."""
    return {
        key.replace("{i}", str(index)): tuple(shape)
        for key, shape, copies in TABLES[name]["keys"]
        for index in range(copies)
    }


def num_elements(shapes: dict[str, tuple[int, ...]]) -> int:
    return sum(math.prod(shape) for shape in shapes.values())


@pytest.fixture(params=list(RELEASES))
def release(request):
    return RELEASES[request.param]


def test_all_seven_are_there():
    assert list(RELEASES) == [
        "TroL-1.8B",
        "TroL-3.8B",
        "TroL-7B",
        *(f"Phantom-{n}B" for n in ("0.5", "1.8", "3.8", "7")),
    ]
    assert set(TABLES) == set(RELEASES)
    assert RELEASES["Phantom-7B"].hub_id == "BK-Lee/Phantom-7B"


def test_the_table_adds_up(release):
    shapes = official_shapes(release.name)
    assert len(shapes) == TABLES[release.name]["tensors"]
    assert round(num_elements(shapes) / 1e9, 3) == TABLES[release.name]["billion_elements"]


def test_sizes_of_the_catalogue_are_those_of_the_tensors(release):
    by_sizes, by_shapes = read_layout(release.config, {}), read_layout(release.sizes, official_shapes(release.name))
    assert (by_shapes.family, by_shapes.backbone) == (release.family, release.backbone)
    assert by_sizes.config.to_dict() == by_shapes.config.to_dict()


def test_it_builds_without_memory(release):
    with torch.device("meta"):
        model = PhantrolForConditionalGeneration(read_layout(release.config, {}).config)
    assert all(tensor.is_meta for tensor in model.state_dict().values())
    assert {modifier["name"] for modifier in model.config.modifiers} == (
        {"phantom"}
        if release.family == "phantom"
        else {"trol"} | ({"partial_lora"} if release.max_tiles == 1 else set())
    )


def test_every_tensor_finds_its_place_and_every_place_its_tensor(release):
    shapes = official_shapes(release.name)
    layout = read_layout(release.sizes, shapes)
    made = plan(layout, shapes)
    ours = {}
    for move in made.moves:
        parts = move.split(torch.empty(shapes[move.source], device="meta"))
        ours |= {target: tuple(part.shape) for target, part in zip(move.targets, parts, strict=True)}
    assert ours == target_shapes(layout)
    # what is left behind: of the gates all but one, which they share, and the row of the image token
    gone = {name: shapes[name] for name in made.dropped if name in shapes}
    assert all(GATES in name for name in gone)
    row = sum(shapes["model.tok_embeddings.weight"][1] for name in made.dropped if name.endswith("[92544]"))
    assert num_elements(ours) + num_elements(gone) + row == num_elements(shapes)
    assert row == (0 if release.max_tiles > 1 else layout.text.hidden_size)
    assert len(gone) == (0 if release.family == "phantom" else 2 * (layout.text.num_hidden_layers - 1))


@pytest.mark.parametrize("name", ["TroL-1.8B", "Phantom-0.5B"])
@pytest.mark.parametrize("tower", [True, False])
def test_without_its_last_layer_it_is_refused(name, tower):
    shapes = official_shapes(name)
    whole = {key: shape for key, shape in shapes.items() if "s.23." not in key or ("vision" in key) != tower}
    assert len(whole) < len(shapes)
    with pytest.raises(ValueError, match=r"24.*, but the tensors are of 23 layers, up to \S*layers.22: expected"):
        read_layout(RELEASES[name].sizes, whole)


def test_its_sizes_suit_smaller_weights(release):
    model = on_shapes(read_layout(release.config, {}).config)
    full, int8, int4 = (weight_bytes(model, dtype) for dtype in ("bfloat16", "int8", "int4"))
    assert full > int8 > int4 > full / 4


@pytest.mark.parametrize("name", ["TroL-1.8B", "Phantom-0.5B"])
def test_a_tensor_more_or_less_or_of_another_shape_is_refused(name):
    shapes = official_shapes(name)
    layout = read_layout(RELEASES[name].sizes, shapes)
    key = next(key for key in shapes if "layers.3." in key and key.endswith(("o_proj.weight", "wo.ffn.weight")))
    less = {other: shape for other, shape in shapes.items() if other != key}
    for faulty in (less, {**shapes, key + "_2": (2, 2)}, {**shapes, key: (shapes[key][0] + 1, shapes[key][1])}):
        with pytest.raises(ValueError, match=key.removesuffix(".weight")):
            plan(layout, faulty)


def test_a_folder_goes_before_a_release_of_its_name(tmp_path, monkeypatch):
    """What `phantrol convert BK-Lee/TroL-7B TroL-7B` wrote is what is meant afterwards, not what is on the hub."""
    monkeypatch.chdir(tmp_path)
    assert release_named("trol-7b") is RELEASES["TroL-7B"] is release_named("BK-Lee/TroL-7B")
    monkeypatch.setattr("phantrol.training.new_model.written_once", lambda name, unpack: f"cache/{name}")
    assert SavedModel("trol-7b")._opened() == "cache/TroL-7B"
    assert release_named("TroL-8B") is None and release_named("other/TroL-7B") is None
    (tmp_path / "TroL-7B").mkdir()
    assert release_named("TroL-7B") is None and SavedModel("TroL-7B")._opened() == "TroL-7B"
