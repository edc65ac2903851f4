"""Phantom under vLLM: queries, keys and values of a step are enlarged by constants of the first token.

T tokens of all requests of one step, H query heads and K key/value heads of this rank, d head size. G groups of K heads
that look at the anchor alike: H/K of queries, one of keys, one of values; or one, where only values are enlarged.
A heads of the anchor on all ranks: H on each, or K.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from vllm.distributed import get_tensor_model_parallel_world_size, tensor_model_parallel_all_gather

from phantrol.modifiers.phantom import PhantomDimension
from phantrol.ops.phantom import join_gates, merge_halves


class ServedPhantom(nn.Module):
    """What one pass of one layer knows of the anchor. The parameters are the attention module's, which loads them.

    Differs: as `phantrol.modifiers.phantom`, in fewer operations, since a step of few tokens costs what its operations
    cost to start. Queries, keys and values go together, K heads at a time; anchors of fewer heads are repeated, which
    adds equal terms to both sides of the softmax; all three gain η·y; the two gates are one product.
    """

    def __init__(self, dimension: PhantomDimension, head_size: int, num_heads: int, num_kv_heads: int):
        super().__init__()
        self.__dict__["dimension"] = dimension  # not registered twice: a checkpoint names it once
        self.exact, self.splits = dimension.exact, (num_heads, num_kv_heads, num_kv_heads)
        self.groups = {"query": num_heads // num_kv_heads, "key": 1, "value": 1} if self.exact else {"value": 1}
        self.scaled = not (isinstance(dimension.eta, float) and dimension.eta == 1.0)
        groups = sum(self.groups.values())
        anchor_heads = get_tensor_model_parallel_world_size() * (num_heads if self.exact else num_kv_heads)
        dtype = torch.get_default_dtype()
        for name, shape, kind in (
            ("weight", (groups, head_size, head_size), dtype),
            ("keys", (groups, anchor_heads, head_size), torch.float32),
            ("values", (groups, anchor_heads, head_size), dtype),
            ("eta", (1,), dtype),
            ("gate_weight", (2 * head_size,), dtype),
            ("gate_bias", (1,), dtype),
        ):
            self.register_buffer(name, torch.zeros(shape, dtype=kind), persistent=False)

    def remember(self, **anchor: Tensor) -> None:
        """Keep what the first token says: query [1, H, 1, d], key and value [1, K, 1, d], on this rank."""
        start = 0
        for kind, groups in self.groups.items():
            states, attention = anchor[kind].flatten(0, 2), getattr(self.dimension, kind)
            if get_tensor_model_parallel_world_size() > 1:
                # a key/value head that ranks share comes twice: equal terms, too
                states = tensor_model_parallel_all_gather(states.contiguous(), dim=0)
            repeats, end = self.keys.shape[1] // len(states), start + groups
            keys, values = (part.repeat_interleave(repeats, dim=0) for part in attention.remember(states))
            self.weight[start:end] = attention.q_proj.weight.T
            self.keys[start:end] = keys * keys.shape[-1] ** -0.5
            self.values[start:end] = values
            start = end
        self.eta.copy_(torch.as_tensor(self.dimension.eta).reshape(1))
        # g2(h1 + term) - g1(h1), of h1 and the term side by side
        gates = (self.dimension.gate_1, self.dimension.gate_2)
        weight, bias = join_gates(*(part.float() for gate in gates for part in (gate.weight, gate.bias)))
        self.gate_weight.copy_(weight[0])
        self.gate_bias.copy_(bias)

    def enlarge(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """[1, H, T, d], [1, K, T, d], [1, K, T, d] → [T, H, 2d], [T, K, 2d], [T, K, 2d]"""
        if self.exact:
            return self._side_by_side(torch.cat([query, key, value], dim=1)).split(self.splits, dim=1)
        size = query.shape[-1]  # paged attention wants keys as wide as values
        query, key = (F.pad(states[0].transpose(0, 1), (0, size)) for states in (query, key))
        return query, key, self._side_by_side(value.contiguous())

    def _side_by_side(self, states: Tensor) -> Tensor:
        """[1, R, T, d] → [T, R, 2d], states and η·y of R heads                                    [Phantom, eq. 1]"""
        grouped = states.view(len(self.weight), -1, states.shape[-1])  # [G, K·T, d]
        queries = _gelu(torch.bmm(grouped, self.weight))
        # float32, since a product of large states overflows float16; the anchor's heads first, since a softmax over a
        # short last axis is several times slower on a CPU
        scores = torch.bmm(self.keys, queries.float().mT)  # [G, A, K·T]
        shares = torch.softmax(scores, dim=1).to(states.dtype)
        said = _gelu(torch.bmm(shares.mT, self.values)).view(states.shape)
        # heads first, as they are: joining rows that lie apart takes twice the time
        wide = torch.cat([states, said * self.eta if self.scaled else said], dim=-1)[0].transpose(0, 1)
        return wide if wide.is_cpu else wide.contiguous()  # other backends' caches want a token's heads together

    def merge(self, attended: Tensor) -> Tensor:
        """[T, H, 2d] → [T, H, d], w·h1 + (1 - w)·h2 = h1 + (1 - w)·term.                         [Phantom, eq. 3]"""
        first, term = attended.chunk(2, dim=-1)
        # a product with a vector: a linear of one output is the same, slower
        scores = torch.addmv(self.gate_bias, attended.flatten(0, 1), self.gate_weight)
        return merge_halves(first, term, scores.view(*first.shape[:-1], 1))


def _gelu(fresh: Tensor) -> Tensor:
    """gelu in place, which F.gelu is not: with many tokens it is memory that takes the time. Transposed, since for rows
    in order a CPU asks oneDNN, whose start takes longer than a step of few tokens needs."""
    return torch.ops.aten.gelu_(fresh.mT).mT
