"""What stands before the cache in a later pass of a layer: the same cache, where the layer means another slot."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers.cache_utils import Cache

from phantrol.modifiers.sequence import KEYS_AND_VALUES, SequenceStep

SAFE = ("is_compileable",)  # to ask besides: it says nothing of one layer
_ONE_SLOT = (
    "expected keys and values, once; name layers of such attention, TrolConfig(layers=(...)), or graft another decoder"
)


class PassCache:
    """A view of a cache for a later pass of a layer: layer i means the slot of (pass, i).

    whole  the cache itself, with all its slots; for modifiers, not for attention
    Raises ValueError for a layer that keeps a state there in place of keys and values, or an index of its keys: it has
    one slot for all passes.
    """

    def __init__(self, cache: Cache, step: SequenceStep):
        self.whole, self._step = cache, step

    def update(self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any) -> Any:
        """Add keys and values, [B, K, N, d] each, to the slot of this pass and return all that it holds, [B, K, S, d].

        Raises ValueError for a layer with more than one slot.
        """
        slot = self._slot(layer_idx)
        if slot is None:  # LongCat: two attentions of a layer, numbered as if each were one
            raise ValueError(f"TroL cannot run a layer again that has more in the cache than its own slot: {_ONE_SLOT}")
        return self.whole.update(key_states, value_states, slot, *args, **kwargs)

    def get_seq_length(self, layer_idx: int = 0) -> Any:
        return self.whole.get_seq_length(self._slot(layer_idx, layer_idx))

    def get_mask_sizes(self, query_length: int, layer_idx: int) -> Any:
        return self.whole.get_mask_sizes(query_length, self._slot(layer_idx, layer_idx))

    def get_query_offset(self, layer_idx: int = 0) -> Any:
        return self.whole.get_query_offset(self._slot(layer_idx, layer_idx))

    def _slot(self, layer_idx: int, other: int | None = None) -> int | None:
        """Return the slot of this pass of a layer, or `other` if the layer does not run so often."""
        return self._step.state.slots.get((self._step.pass_index, layer_idx, KEYS_AND_VALUES), other)

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.whole, name)
        if name not in SAFE:  # a state, or what sparse attention keeps to find its keys: `update_indexer`, `layers`
            raise ValueError(
                f"TroL cannot run a layer again that keeps a state in the cache (it asks for `{name}`), as linear "
                f"attention and convolutions do: {_ONE_SLOT}"
            )
        return found
