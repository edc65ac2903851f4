"""Weights of frozen linear maps in the precision that a stage computes in, where that loses nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from phantrol.training.trainable import bare_name, is_added


@contextmanager
def held_in(model: nn.Module, dtype: torch.dtype) -> Iterator[int]:
    """Hold the weights of frozen linear maps in `dtype` inside the block, which gets how many numbers that are.

    Autocast casts a weight each time its map is called, and remembers trained weights alone: a frozen decoder is cast
    anew in each pass, a second pass included. Published weights are mostly bfloat16, and cast there once and for all
    they are the same numbers in half the memory. Left alone are weights that `dtype` would round, so that no bit of
    the result changes, those with a second owner (an embedding that is also the output head), quantised ones, maps that
    are more than `nn.Linear`, and what modifiers added, whose weights may meet one another before they are cast.
    """
    held = []
    for weight in _frozen_maps(model):
        wide, narrow = weight.dtype, weight.data.to(dtype)
        if torch.equal(narrow.to(wide), weight.data):
            weight.data = narrow
            held.append((weight, wide))
    try:
        yield sum(weight.numel() for weight, _ in held)
    finally:
        for weight, wide in held:
            weight.data = weight.data.to(wide)


def _frozen_maps(model: nn.Module) -> list[nn.Parameter]:
    """The float32 weights of the backbone's own frozen linear maps, each of which has one owner."""
    owners = Counter(id(p) for module in model.modules() for p in module.parameters(recurse=False))
    return [
        module.weight
        for name, module in model.named_modules()
        if type(module) is nn.Linear
        and type(module.weight) is nn.Parameter
        and module.weight.dtype == torch.float32
        and not module.weight.requires_grad
        and owners[id(module.weight)] == 1
        and not is_added(f"{bare_name(name)}.weight")
    ]
