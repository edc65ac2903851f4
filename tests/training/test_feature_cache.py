"""Features of a frozen tower on the disk: the very bits of a run without, and never those of another tower."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest
import torch

import phantrol
from phantrol.models.feature_cache import FeatureCache, RememberedTower, fingerprint, remember_features
from phantrol.models.tokenizer import train_tokenizer
from phantrol.training.run import run


@pytest.fixture
def tower(tiny_model):
    tokenizer = train_tokenizer(["red blue green"] * 4, 320)
    return tiny_model(tokenizer, [])[0].vision_tower.eval().requires_grad_(False)


def seen(tower, pixels):
    return tower(pixels).last_hidden_state


def test_to_the_bit_and_not_twice(tower, tmp_path):
    pixels = torch.randn(4, 3, 32, 32)
    plain, one = seen(tower, pixels), seen(tower, pixels[:1])
    cache = FeatureCache(tmp_path, 1e9)
    remember_features(tower, cache)
    assert torch.equal(seen(tower, pixels), plain) and (cache.found, cache.computed) == (0, 4)
    assert torch.equal(seen(tower, pixels.flip(0)), plain.flip(0)) and (cache.found, cache.computed) == (4, 4)
    assert torch.equal(seen(tower, pixels[:1]), one)
    again = FeatureCache(tmp_path, 1e9)
    remember_features(tower, again)
    assert torch.equal(seen(tower, pixels), plain) and again.computed == 0
    assert len(list(tmp_path.glob("*/*/*.safetensors"))) == 4 and not list(tmp_path.glob("*/*/.*"))
    remember_features(tower, None)
    assert torch.equal(seen(tower, pixels), plain) and again.found == 4


def test_another_tower_picture_or_precision_is_another_name(tower, tmp_path):
    cache, pixels = FeatureCache(tmp_path, 1e9), torch.randn(2, 3, 32, 32)
    before = fingerprint(tower)
    remember_features(tower, cache)
    assert fingerprint(tower) == before  # the mixin is not the tower
    names = cache.keys(pixels)
    with torch.autocast("cpu", torch.bfloat16):
        assert not set(names) & set(cache.keys(pixels))
    assert not set(names) & set(cache.keys(pixels + 1e-6)) and names == cache.keys(pixels.clone())
    with torch.no_grad():
        next(iter(tower.parameters())).view(-1)[0] += 1e-3
    assert fingerprint(tower) != before
    remember_features(tower, None)
    changed = fingerprint(tower)
    tower.config.layer_norm_eps *= 10  # the same numbers, and other features
    assert fingerprint(tower) != changed


def test_a_broken_file_is_computed_again_and_a_full_folder_grows_no_more(tower, tmp_path, caplog):
    pixels = torch.randn(3, 3, 32, 32)
    plain, cache = seen(tower, pixels), FeatureCache(tmp_path, 1e9)
    remember_features(tower, cache)
    seen(tower, pixels)
    path = sorted(tmp_path.glob("*/*/*.safetensors"))[0]
    path.write_bytes(path.read_bytes()[:50])
    assert torch.equal(seen(tower, pixels), plain) and cache.computed == 4 and "computed again" in caplog.text
    assert path.stat().st_size > 50
    size = path.stat().st_size
    small = FeatureCache(tmp_path / "small", 2.5 * size)
    remember_features(tower, small)
    for _ in range(2):
        assert torch.equal(seen(tower, pixels), plain)
    assert len(list((tmp_path / "small").glob("*/*/*"))) == 2 and small.computed == 4


def test_a_tower_that_is_trained_is_refused_and_one_in_training_left_alone(tower, tmp_path):
    cache = FeatureCache(tmp_path, 1e9)
    remember_features(tower, cache)
    tower.train()
    seen(tower, torch.randn(1, 3, 32, 32))
    assert (cache.found, cache.computed) == (0, 0)
    next(iter(tower.parameters())).requires_grad_(True)
    with pytest.raises(ValueError, match="expected a frozen one"):
        remember_features(tower, cache)


def test_two_ranks_fill_one_folder(tower, tmp_path, forked):
    pixels = torch.randn(24, 3, 32, 32)
    plain = seen(tower, pixels)

    def fill():
        remember_features(tower, FeatureCache(tmp_path, 1e9))
        for start in range(0, 24, 4):
            assert torch.equal(seen(tower, pixels[start : start + 4]), plain[start : start + 4])

    assert forked(fill, fill, fill) == [0, 0, 0]
    assert len(list(tmp_path.glob("*/*/*.safetensors"))) == 24 and not list(tmp_path.glob("*/*/.*"))


def test_runs_with_and_without_end_alike(tiny_recipe, tmp_path, metrics):
    """The second stage begins with a tower that the first has trained, also when it is resumed."""
    made = tiny_recipe()
    first, second = made.stages
    first = replace(first, train=("vision_tower.*", "projector.*"), max_steps=2)
    second = replace(second, train=("projector.*", "language_model.*"), optimiser="adamw")
    cached = replace(second, feature_cache=str(tmp_path / "features"))
    run(replace(made, stages=(first, second)), tmp_path / "plain")
    recipe = replace(made, stages=(first, cached))
    run(recipe, tmp_path / "cached")
    (folder,) = (tmp_path / "features").iterdir()
    last = tmp_path / "cached/stages/1-tune"
    os.rename(last / "checkpoint-4", tmp_path / "gone")
    os.rename(tmp_path / "cached/final", tmp_path / "gone too")
    run(recipe, tmp_path / "cached", resume=True)
    assert list((tmp_path / "features").iterdir()) == [folder]
    assert metrics(tmp_path / "cached") == metrics(tmp_path / "plain")
    one, other = (phantrol.load(tmp_path / name / "final")[0].state_dict() for name in ("plain", "cached"))
    assert all(torch.equal(one[name], other[name]) for name in one)
    with pytest.raises(ValueError, match="expected a frozen one"):
        run(replace(made, stages=(replace(first, feature_cache="x"),)), tmp_path / "refused")


def test_the_mixin_keeps_every_key(tower):
    keys = list(tower.state_dict())
    remember_features(tower, FeatureCache("unused", 0))
    assert isinstance(tower, RememberedTower) and list(tower.state_dict()) == keys
