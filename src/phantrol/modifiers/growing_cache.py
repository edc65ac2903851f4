"""A cache layer that grows in place: one more token is written behind the others, which are not copied.

B batch, K key/value heads, T tokens in the cache, N new ones, d head size.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicLayer

LONG_TOKENS = 1024  # from here on a copy at each token was seen to cost more than room (docs/performance.md)
SPARE = 64  # room for a 64th more: then a step copies some 64 tokens on average, however long the text


class Room:
    """Tokens with room behind them, [B, K, capacity, d].

    given  what was handed out last, [B, K, T, d]: only behind these very tokens is the room free
    """

    def __init__(self, tokens: Tensor, capacity: int):
        self._tensor = tokens.new_empty(*tokens.shape[:2], capacity, tokens.shape[3])
        self._tensor[:, :, : tokens.shape[2]] = tokens
        self.given = tokens

    def fits(self, tokens: Tensor, new: Tensor) -> bool:
        """Whether `new` may be written behind `tokens`, in this mode of autograd too."""
        writable = torch.is_inference_mode_enabled() or not self._tensor.is_inference()
        return self.given is tokens and writable and tokens.shape[2] + new.shape[2] <= self._tensor.shape[2]

    def write(self, new: Tensor) -> Tensor:
        """Return all tokens with `new` [B, K, N, d] behind them: [B, K, T + N, d]."""
        length = self.given.shape[2]
        self._tensor[:, :, length : length + new.shape[2]] = new
        self.given = self._tensor[:, :, : length + new.shape[2]]
        return self.given


class GrowingLayer(DynamicLayer):
    """transformers' `DynamicLayer`, whose long texts grow in place where no gradient is wanted.

    Whoever cuts, picks or replaces keys and values (crop, beams, rows that join) makes other tensors of them, and the
    next token then gets a new room. So two layers that share tensors never write into each other's.

    enlarged  whether tokens are larger than plain ones, and so dearer to copy: half as many are then a long text

    Differs: `DynamicLayer` copies all keys and values at each token, which after 4,096 tokens is twice what attention
    reads of them. The price is room for at most a 64th more tokens.
    """

    def __init__(self, *args: Any, enlarged: bool = False, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self._rooms: dict[str, Room] = {}
        self._enlarged = enlarged

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """[B, K, N, d] each → all keys and values, [B, K, T + N, d] each."""
        long = LONG_TOKENS // 2 if self._enlarged else LONG_TOKENS
        if torch.is_grad_enabled() or not self.is_initialized or self.get_seq_length() < long:
            return super().update(key_states, value_states, *args, **kwargs)
        self.keys = self._append("keys", self.keys, key_states)
        self.values = self._append("values", self.values, value_states)
        return self.keys, self.values

    def reset(self) -> None:
        """Forget all tokens, where `DynamicLayer` of transformers 5.17 goes on with as many zeros."""
        self._rooms.clear()
        self.keys = self.values = None
        self.is_initialized = False
        super().reset()

    def _append(self, name: str, tokens: Tensor, new: Tensor) -> Tensor:
        room = self._rooms.get(name)
        if room is None or not room.fits(tokens, new):
            length = tokens.shape[2] + new.shape[2]
            room = self._rooms[name] = Room(tokens, length + length // SPARE)
        return room.write(new)
