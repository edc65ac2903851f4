"""What modifiers ask of decoder layers before they are grafted: which find their keys by an index, which share them."""

from __future__ import annotations

import inspect
from collections.abc import Sequence

from torch import nn


def finds_keys(layer: nn.Module) -> bool:
    """Whether the attention of a layer chooses its keys by an index, or is told them by a layer that does.

    DeepSeek's sparse attention and its kin: the index has keys of its own in the cache, and what was chosen becomes a
    mask for some attention functions alone, which are asked for by name.
    """
    if any(getattr(part, "indexer", None) is not None for part in layer.modules()):
        return True
    attention = getattr(layer, "self_attn", None)
    takes = () if attention is None else inspect.signature(type(attention).forward).parameters
    return any(name.endswith("indices") for name in takes)


def sharing_keys(layers: Sequence[nn.Module]) -> list[tuple[int, ...]]:
    """Return the layers that attend to the same keys and values, by their numbers: Gemma 3n and 4, of each kind of
    attention one that hands its own on and all that take them."""
    kinds: dict[str | None, list[int]] = {}
    for index, layer in enumerate(layers):
        attention = getattr(layer, "self_attn", None)
        if any(getattr(attention, name, False) for name in ("store_full_length_kv", "is_kv_shared_layer")):
            kinds.setdefault(getattr(attention, "layer_type", None), []).append(index)
    return [tuple(indices) for indices in kinds.values()]
