"""Phantom under vLLM: queries, keys and values of a step are enlarged by constants of the first token.

T tokens of all requests of one step, H query heads and K key/value heads of this rank, d head size, R heads that are
enlarged: H + 2K, or K where only values are. A heads of the anchor on all ranks: H on each, or K.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from vllm.distributed import get_tensor_model_parallel_world_size, tensor_model_parallel_all_gather

from phantrol.modifiers.phantom import PhantomDimension

gelu_ = torch.ops.aten.gelu_  # in place, which F.gelu is not: with many tokens it is memory that takes the time


class ServedPhantom(nn.Module):
    """What one pass of one layer knows of the anchor. The parameters are the attention module's, which loads them.

    Differs: as `phantrol.modifiers.phantom`, in fewer operations, since a step of few tokens costs what its operations
    cost to start. Queries, keys and values go together, each head with a weight of its own; anchors of fewer heads are
    repeated, which adds equal terms to both sides of the softmax; all three gain η·y; the two gates are one product.
    """

    def __init__(self, dimension: PhantomDimension, head_size: int, num_heads: int, num_kv_heads: int):
        super().__init__()
        self.__dict__["dimension"] = dimension  # not registered twice: a checkpoint names it once
        self.exact, self.splits = dimension.exact, (num_heads, num_kv_heads, num_kv_heads)
        self.scaled = not (isinstance(dimension.eta, float) and dimension.eta == 1.0)
        heads = sum(self.splits) if self.exact else num_kv_heads
        anchor_heads = get_tensor_model_parallel_world_size() * (num_heads if self.exact else num_kv_heads)
        dtype = torch.get_default_dtype()
        for name, shape, kind in (
            ("weight", (heads, head_size, head_size), dtype),
            ("keys", (heads, anchor_heads, head_size), torch.float32),
            ("values", (heads, anchor_heads, head_size), dtype),
            ("eta", (1,), dtype),
            ("gate_weight", (1, 2 * head_size), dtype),
            ("gate_bias", (1,), dtype),
        ):
            self.register_buffer(name, torch.zeros(shape, dtype=kind), persistent=False)

    def remember(self, **anchor: Tensor) -> None:
        """Keep what the anchor says: query [1, H, d], key and value [1, K, d] of the first token, on this rank."""
        start = 0
        for kind in ("query", "key", "value") if self.exact else ("value",):
            states, attention = anchor[kind][0], getattr(self.dimension, kind)
            end = start + len(states)
            if get_tensor_model_parallel_world_size() > 1:
                # a key/value head that ranks share comes twice: equal terms, too
                states = tensor_model_parallel_all_gather(states.contiguous(), dim=0)
            repeats = self.keys.shape[1] // len(states)
            keys, values = (part.repeat_interleave(repeats, dim=0) for part in attention.remember(states))
            self.weight[start:end] = attention.q_proj.weight.T
            self.keys[start:end] = keys * keys.shape[-1] ** -0.5
            self.values[start:end] = values
            start = end
        self.eta.copy_(torch.as_tensor(self.dimension.eta).reshape(1))
        # g2(h1 + term) - g1(h1), of h1 and the term side by side
        gates = self.dimension.gate_1, self.dimension.gate_2
        first, second = (gate.weight.float() for gate in gates)
        self.gate_weight.copy_(torch.cat([second - first, second], dim=-1))
        self.gate_bias.copy_(gates[1].bias.float() - gates[0].bias.float())

    def enlarge(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """[T, H, d], [T, K, d], [T, K, d] → [T, H, 2d], [T, K, 2d], [T, K, 2d]"""
        if self.exact:
            return self._side_by_side(torch.cat([query, key, value], dim=1)).split(self.splits, dim=1)
        size = query.shape[-1]  # paged attention wants keys as wide as values
        return F.pad(query, (0, size)), F.pad(key, (0, size)), self._side_by_side(value)

    def _side_by_side(self, states: Tensor) -> Tensor:
        """[T, R, d] → [T, R, 2d], states and η·y                                                  [Phantom, eq. 1]"""
        queries = gelu_(torch.bmm(states.transpose(0, 1), self.weight))
        # float32, since a product of large states overflows float16; the anchor's heads first, since a softmax over a
        # short last axis is several times slower on a CPU
        scores = torch.bmm(self.keys, queries.float().mT)  # [R, A, T]
        shares = torch.softmax(scores, dim=1).to(states.dtype)
        said = gelu_(torch.bmm(shares.mT, self.values)).transpose(0, 1)
        return torch.cat([states, said * self.eta if self.scaled else said], dim=-1)

    def merge(self, attended: Tensor) -> Tensor:
        """[T, H, 2d] → [T, H, d], w·h1 + (1 - w)·h2 = h1 + (1 - w)·term.                         [Phantom, eq. 3]"""
        first, term = attended.chunk(2, dim=-1)
        return torch.addcmul(first, torch.sigmoid(F.linear(attended, self.gate_weight, self.gate_bias)), term)
