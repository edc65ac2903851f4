"""What stands before the cache of a layer with Phantom: keys and values of a token are enlarged once, as it enters.

B batch, N new tokens, T cached tokens, d head size, H query heads, K key/value heads, k anchors.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from phantrol.modifiers.sequence import SequenceStep
from phantrol.ops.blocks import split_blocks
from phantrol.ops.phantom import attend_kinds_at_once, join_gates

ANCHOR = "anchor"  # the slot of what a pass keeps of the anchor: [B, k, heads, d], with heads of all kinds
KINDS = ("value", "key", "query")  # in the order in which they come, and in which their heads stand in that slot

Pair = tuple[Tensor, Tensor]  # keys and values of the anchor's heads


class EnlargedCache:
    """Stands before the cache of one layer's pass and enlarges the keys and values of tokens as they enter it.

    What the anchor's heads say is kept in the cache beside them; without a cache, all tokens are at hand and so is the
    anchor. In a step of decoding keys and values wait for their query, since all three together take as few operations
    as each of them alone.

    keys_go_on  whether this layer hands its keys and values to other layers, for which they must not wait
    Raises ValueError if a layer asks for a state where there is no cache.
    """

    def __init__(self, phantom: nn.Module, cache: Any, layer_idx: int, step: SequenceStep, keys_go_on: bool = False):
        self._phantom, self._cache, self._step, self._keys_go_on = phantom, cache, step, keys_go_on
        self._kinds = KINDS if phantom.exact else KINDS[:1]
        self._kept = None
        if cache is not None:
            slots = getattr(cache, "whole", cache).layers  # also those of other passes
            self._kept = slots[step.state.slots[step.pass_index, layer_idx, ANCHOR]]
        self._met: dict[str, Pair] = {}  # of anchors, in this forward pass
        self._waiting: tuple[Any, Any] | None = None
        self.entered = 0  # how often attention asked for `enlarge`

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        """[B, K, N, d] each → keys [B, K, T, 2d] (or d), values [B, K, T, 2d]; those that wait stay as they are."""
        if self._is_step(value_states):
            self._waiting = args, kwargs
            return key_states, value_states
        value_states = self._side_by_side(value_states, self.attend("value", value_states))
        if self._phantom.exact:
            key_states = self._side_by_side(key_states, self.attend("key", key_states))
        return self._store(key_states, value_states, *args, **kwargs)

    def enlarge(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """[B, H, N, d] and what `update` returned → queries [B, H, N, 2d] (or d), and keys and values of all tokens."""
        self.entered += 1
        if self._waiting is not None:
            return self._enlarge_at_once(query, key, value)
        if self._phantom.exact:
            query = self._side_by_side(query, self.attend("query", query))
        return query, key, value

    @property
    def joint_gates(self) -> Pair | None:
        """Both gates as one product, see `join_gates`, in a step of decoding; None elsewhere, and where their weights
        are there only while they are called."""
        return None if self._waiting is None else self._kept.constants[1]

    def attend(self, kind: str, states: Tensor) -> Tensor:
        """Return y of the queries, keys or values: [B, heads, N, d] → [B, heads, N, d]."""
        attention, step = getattr(self._phantom, kind), self._step
        if self._phantom.anchors > 1:
            return self._attend_several(attention, kind, states)
        if step.blocks is not None:
            parts = split_blocks(states, step.blocks)
            memory = attention.remember(torch.cat([part[:, :, 0] for part in parts]))  # an anchor each
            return attention.of_blocks(states, memory, [part.shape[2] for part in parts])
        if step.anchor_index is None:
            return attention(states, _all_heads(self._remembered(kind, states)))
        rows = torch.arange(states.shape[0], device=states.device)[:, None]
        memory = attention.remember(states[rows, :, step.anchor_index[:, None]])
        here = None if step.anchor_in_chunk is None else step.anchor_in_chunk[:, None]
        return attention(states, _all_heads(self._keep(kind, states, memory, here)))

    def _attend_several(self, attention: nn.Module, kind: str, states: Tensor) -> Tensor:
        """`attend` with several anchors, of which a token looks at those up to itself."""
        step = self._step
        if step.blocks is not None:
            parts = split_blocks(states, step.blocks)
            return torch.cat([self._look_back(attention, kind, part, _places(part)) for part in parts], dim=2)
        if step.anchor_index is None:
            return attention(states, _all_heads(self._remembered(kind, states)))
        return self._look_back(attention, kind, states, _places(states) if step.places is None else step.places)

    def _look_back(self, attention: nn.Module, kind: str, states: Tensor, places: Tensor) -> Tensor:
        """states [B, heads, N, d], places [B, N] or [1, N] of these tokens in their rows → y [B, heads, N, d]."""
        anchors = self._phantom.anchor_stride * torch.arange(self._phantom.anchors, device=states.device)
        rows = torch.arange(states.shape[0], device=states.device)[:, None]
        is_anchor = places[:, None] == anchors[:, None]  # [B, k, N]
        index, here = is_anchor.to(torch.int32).argmax(-1), is_anchor.any(-1)  # [B, k] each
        memory = attention.remember(states[rows, :, index])
        memory = self._keep(kind, states, memory, here)
        visible = places[..., None] >= anchors  # [B, N, k]
        visible[..., 0] = True  # padding before a row has to look somewhere
        visible = visible.expand(states.shape[0], -1, -1).repeat_interleave(states.shape[1], dim=-1)
        return attention(states, _all_heads(memory), visible)

    def _keep(self, kind: str, states: Tensor, memory: Pair, here: Tensor | None) -> Pair:
        """Keep what anchors of this chunk say, [B, k, heads, d] each, and return it with what earlier ones said.

        here  [B, k] False where an anchor lies in another chunk
        """
        if self._kept is None:
            return memory
        if self._kept.is_initialized:
            earlier = self._remembered(kind, states)
            memory = tuple(torch.where(here[..., None, None], *pair) for pair in zip(memory, earlier, strict=True))
        self._met[kind] = memory
        if kind == self._kinds[-1]:
            parts = [self._met[kind] for kind in self._kinds if kind in self._met]
            self._kept.keep(*(torch.cat(part, dim=2) for part in zip(*parts, strict=True)))
            self._kept.constants = self._constants([keys.shape[2] for keys, _ in parts])
        return memory

    def _remembered(self, kind: str, states: Tensor) -> Pair:
        """Return what is kept of this kind, [B, k, heads, d] each; an anchor has as many heads as the states."""
        keys, values = self._kept.keys, self._kept.values
        heads, first = states.shape[1], KINDS.index(kind)
        start = keys.shape[2] - heads if kind == self._kinds[-1] else first * heads
        return keys[:, :, start : start + heads], values[:, :, start : start + heads]

    def _constants(self, heads: list[int]) -> tuple[Tensor, Pair | None]:
        """Return what each step of decoding needs besides: whose heads the anchor's are, and both gates as one."""
        gates, like = (self._phantom.gate_1, self._phantom.gate_2), self._kept.keys
        ones = like.new_ones(1, 1, dtype=torch.promote_types(like.dtype, torch.float32))
        own = torch.block_diag(*(ones.expand(count, heads[-1]) for count in heads)).log()  # 0 and -∞
        own = own.repeat(like.shape[1], 1)
        if any(gate.weight.is_meta != like.is_meta for gate in gates):
            return own, None
        return own, join_gates(*(part for gate in gates for part in (gate.weight, gate.bias)))

    def _is_step(self, states: Tensor) -> bool:
        ready = self._kept is not None and self._step.anchor_index is None and not self._keys_go_on
        return ready and states.shape[2] == 1 and not torch.is_grad_enabled()

    def _enlarge_at_once(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """`enlarge` of one token, [B, H, 1, d] and [B, K, 1, d] twice; its keys and values enter the cache here."""
        if self._phantom.exact:
            groups = query.reshape(key.shape[0], key.shape[1], -1, key.shape[3])  # [B, K, H/K, d]
            states = torch.stack([value.expand_as(groups), key.expand_as(groups), groups], dim=1)
        else:
            states = value[:, None]
        weights = [getattr(self._phantom, kind).query_weight(states) for kind in self._kinds]
        weights = torch.stack(weights) if len(weights) > 1 else weights[0][None]
        said = attend_kinds_at_once(
            states, *_all_heads((self._kept.keys, self._kept.values)), weights, self._kept.constants[0]
        )
        kinds = self._side_by_side(states, said).unbind(1)
        value = kinds[0][:, :, :1]
        if self._phantom.exact:
            key, query = kinds[1][:, :, :1], kinds[2].reshape(*query.shape[:3], -1)
        args, kwargs = self._waiting
        return query, *self._store(key, value, *args, **kwargs)

    def _side_by_side(self, states: Tensor, said: Tensor) -> Tensor:
        """[..., d] twice → [..., 2d], states and η·y"""
        return torch.cat([states, self._phantom(said)], dim=-1)

    def _store(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        if self._cache is None:
            return key_states, value_states
        return self._cache.update(key_states, value_states, *args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        if self._cache is None and name.startswith(("get_", "has_", "update_")):
            raise ValueError(
                f"Phantom cannot enlarge a layer that asks its cache for {name} where there is none, as one does that "
                "is attention and state at once: expected one that keeps keys and values alone; graft another decoder, "
                "such as Llama or Qwen, or leave Phantom out"
            )
        return getattr(self._cache, name)


def _all_heads(memory: Pair) -> Pair:
    """[B, k, heads, d] → [B, k·heads, d]"""
    return tuple(part.flatten(1, 2) for part in memory)


def _places(states: Tensor) -> Tensor:
    """Return the places of tokens that begin a row without padding: states [B, heads, N, d] → [1, N]."""
    return torch.arange(states.shape[2], device=states.device)[None]
