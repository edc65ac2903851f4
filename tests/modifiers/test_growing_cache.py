import copy

import pytest
import torch
from transformers.cache_utils import DynamicLayer

from phantrol.modifiers import growing_cache
from phantrol.modifiers.growing_cache import LONG_TOKENS, SPARE, GrowingLayer


def tokens(count, seed=0, rows=2):
    generator = torch.Generator().manual_seed(seed)
    return (
        torch.randn(rows, 3, count, 4, generator=generator),
        torch.randn(rows, 3, count, 6, generator=generator),
    )


def same(one, other):
    return torch.equal(one.keys, other.keys) and torch.equal(one.values, other.values)


def crop(layer):
    layer.crop(-3)


def pick_rows(layer):
    layer.batch_select_indices(torch.tensor([1, 1, 0]))


def reorder(layer):
    layer.reorder_cache(torch.tensor([1, 0]))


def cut_padding(layer):
    layer.keys, layer.values = layer.keys[:, :, 2:], layer.values[:, :, 2:]


@pytest.mark.parametrize("act", [crop, pick_rows, reorder, cut_padding])
def test_holds_what_the_plain_layer_holds(act):
    ours, plain = GrowingLayer(), DynamicLayer()
    with torch.no_grad():
        for step in range(60):
            for layer in (ours, plain):
                given = layer.update(
                    *tokens(1 + step % 3, seed=step, rows=2 if layer.keys is None else len(layer.keys))
                )
                assert torch.equal(given[0], layer.keys) and torch.equal(given[1], layer.values)
                if step % 20 == 19:
                    act(layer)
            assert same(ours, plain) and ours.get_seq_length() == plain.get_seq_length()


def spare(layer):
    """Return how much more the keys hold than their tokens fill."""
    return layer.keys.untyped_storage().nbytes() / layer.keys.nbytes - 1


@pytest.mark.parametrize(("enlarged", "short"), [(False, 1024), (True, 512)])
def test_a_short_text_holds_what_its_tokens_fill(monkeypatch, enlarged, short):
    monkeypatch.setattr(growing_cache, "LONG_TOKENS", 1024)
    ours = GrowingLayer(enlarged=enlarged)
    with torch.inference_mode():
        ours.update(*tokens(short - 1))
        ours.update(*tokens(1))
        assert spare(ours) == 0
        ours.update(*tokens(1))
        assert 0 < spare(ours) <= 1 / SPARE


def test_tokens_are_not_copied_again_and_again():
    ours, rooms = GrowingLayer(), set()
    with torch.inference_mode():
        ours.update(*tokens(640))
        for step in range(200):
            ours.update(*tokens(1, seed=step))
            rooms.add(ours.keys.untyped_storage().data_ptr())
            assert spare(ours) <= 1 / SPARE
    assert len(rooms) <= 200 / (640 / SPARE) + 1  # the plain layer makes 200


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy])
def test_two_that_share_tokens_do_not_write_into_each_others(copied):
    one = GrowingLayer()
    with torch.no_grad():
        one.update(*tokens(10))
        one.update(*tokens(1))
        two, before = copied(one), one.keys.clone()
        one.update(*tokens(1, seed=1))
        two.update(*tokens(1, seed=2))
        one.update(*tokens(1, seed=3))
    first, second = (torch.cat([before, *(tokens(1, seed)[0] for seed in seeds)], dim=2) for seeds in ((1, 3), (2,)))
    assert torch.equal(one.keys, first) and torch.equal(two.keys, second)


def test_what_was_read_in_one_mode_goes_on_in_another():
    ours, plain = GrowingLayer(), DynamicLayer()
    with torch.inference_mode():
        for layer in (ours, plain):
            layer.update(*tokens(LONG_TOKENS))  # the room of what follows may not be written in by other modes
    for mode in (torch.inference_mode, torch.no_grad, torch.enable_grad, torch.no_grad, torch.inference_mode):
        for step in range(6):
            for layer in (ours, plain):
                with mode():
                    layer.update(*tokens(1, seed=step))
        assert same(ours, plain)


def test_gradients_pass_through():
    ours = GrowingLayer()
    new = tokens(3)[0].requires_grad_()
    ours.update(new, tokens(3)[1])
    kept = ours.update(*tokens(1))[0]
    kept.sum().backward()
    assert torch.equal(new.grad, torch.ones_like(new))
    with torch.no_grad():
        ours.update(*tokens(1))
    ours.update(*tokens(1))
    assert ours.keys.shape[2] == 6


def test_begins_anew_after_a_reset():
    ours = GrowingLayer()
    with torch.no_grad():
        for _ in range(9):
            ours.update(*tokens(1))
        ours.reset()
        assert ours.get_seq_length() == 0
        kept = ours.update(*tokens(2, seed=5))
    assert torch.equal(kept[0], tokens(2, seed=5)[0])
