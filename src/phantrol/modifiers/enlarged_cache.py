"""What stands before the cache of a layer with Phantom: keys and values of a token are enlarged once, as it enters.

B batch, N new tokens, T cached tokens, d head size, H query heads, K key/value heads, k anchors.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from phantrol.modifiers.sequence import SequenceStep
from phantrol.ops.blocks import split_blocks
from phantrol.ops.phantom import scale_term


class EnlargedCache:
    """Stands before the cache of one layer's pass and enlarges the keys and values of tokens as they enter it.

    The states of the anchor are kept in the cache beside them; without a cache, all tokens are at hand and so is it.
    """

    def __init__(self, phantom: nn.Module, cache: Any, layer_idx: int, step: SequenceStep):
        self._phantom, self._cache, self._layer_idx, self._step = phantom, cache, layer_idx, step

    def update(self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any) -> Any:
        """[B, K, N, d] each → keys [B, K, T, 2d] (or d), values [B, K, T, 2d]."""
        value_states = torch.cat([value_states, self.attend("value", value_states)], dim=-1)
        if self._phantom.exact:
            key_states = torch.cat([key_states, scale_term(self.attend("key", key_states), self._phantom.eta)], dim=-1)
        if self._cache is None:
            return key_states, value_states
        return self._cache.update(key_states, value_states, layer_idx, *args, **kwargs)

    def enlarge_query(self, query: Tensor) -> Tensor:
        """[B, H, N, d] → [B, H, N, 2d] (or d)."""
        if not self._phantom.exact:
            return query
        return torch.cat([query, scale_term(self.attend("query", query), self._phantom.eta)], dim=-1)

    def attend(self, kind: str, states: Tensor) -> Tensor:
        """Return y of the queries, keys or values: [B, heads, N, d] → [B, heads, N, d]."""
        attention = getattr(self._phantom, kind)
        step, kept = self._step, None
        if self._phantom.anchors > 1:
            return self._attend_several(attention, kind, states)
        if step.blocks is not None:
            parts = split_blocks(states, step.blocks)
            keys, values = attention.remember(torch.cat([part[:, :, 0] for part in parts]))  # an anchor each
            memories = zip(keys.split(1), values.split(1), strict=True)
            return torch.cat([attention(part, memory) for part, memory in zip(parts, memories, strict=True)], dim=2)
        if self._cache is not None:
            kept = self._cache.layers[step.state.slots[step.pass_index, self._layer_idx, kind]]
        if step.anchor_index is None:
            return attention(states, (kept.keys.squeeze(2), kept.values.squeeze(2)))
        rows = torch.arange(states.shape[0], device=states.device)
        memory = attention.remember(states[rows, :, step.anchor_index])
        if kept is not None:
            if kept.is_initialized:  # an earlier chunk has met the anchors of some rows
                earlier = (kept.keys.squeeze(2), kept.values.squeeze(2))
                here = step.anchor_in_chunk[:, None, None]
                memory = tuple(torch.where(here, new, old) for new, old in zip(memory, earlier, strict=True))
            kept.keep(*(part.unsqueeze(2) for part in memory))
        return attention(states, memory)

    def _attend_several(self, attention: nn.Module, kind: str, states: Tensor) -> Tensor:
        """`attend` with several anchors, of which a token looks at those up to itself."""
        step = self._step
        if step.blocks is not None:
            parts = split_blocks(states, step.blocks)
            return torch.cat([self._look_back(attention, part, _places(part), None) for part in parts], dim=2)
        kept = None
        if self._cache is not None:
            kept = self._cache.layers[step.state.slots[step.pass_index, self._layer_idx, kind]]
        if step.anchor_index is None:
            return attention(states, (kept.keys.flatten(1, 2), kept.values.flatten(1, 2)))
        return self._look_back(attention, states, _places(states) if step.places is None else step.places, kept)

    def _look_back(self, attention: nn.Module, states: Tensor, places: Tensor, kept: Any) -> Tensor:
        """states [B, heads, N, d], places [B, N] or [1, N] of these tokens in their rows → y [B, heads, N, d]."""
        anchors = self._phantom.anchor_stride * torch.arange(self._phantom.anchors, device=states.device)
        rows, index = torch.arange(states.shape[0], device=states.device)[:, None], anchors - places[:, :1]  # [B, k]
        here = (index >= 0) & (index < states.shape[2])
        memory = attention.remember(states[rows, :, index.clamp(0, states.shape[2] - 1)])  # [B, k, heads, d] each
        if kept is not None:
            if kept.is_initialized:
                earlier = (kept.keys, kept.values)
                memory = tuple(
                    torch.where(here[..., None, None], new, old) for new, old in zip(memory, earlier, strict=True)
                )
            kept.keep(*memory)
        visible = places[..., None] >= anchors  # [B, N, k]
        visible[..., 0] = True  # padding before a row has to look somewhere
        heads = states.shape[1]
        visible = visible.expand(states.shape[0], -1, -1).repeat_interleave(heads, dim=-1)
        return attention(states, tuple(part.flatten(1, 2) for part in memory), visible)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._cache, name)


def _places(states: Tensor) -> Tensor:
    """Return the places of tokens that begin a row without padding: states [B, heads, N, d] → [1, N]."""
    return torch.arange(states.shape[2], device=states.device)[None]
