"""Phantom under vLLM: queries, keys and values of a step are enlarged by constants of the first token.

T tokens of all requests of one step, H query heads and K key/value heads of this rank, A heads of the anchor (all ranks),
d head size.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from vllm.distributed import get_tensor_model_parallel_world_size, tensor_model_parallel_all_gather

from phantrol.modifiers.phantom import PhantomDimension


class AnchorHeads(nn.Module):
    """What heads of one or several kinds (G of them, each with its own weights) say to rows of states of that kind.

    The constants are laid out so that the softmax runs along the first axis: over a short last one it is many times
    slower on a CPU.
    """

    def __init__(self, kinds: tuple[str, ...], num_heads: int, size: int):
        super().__init__()
        self.kinds = kinds
        for name, shape in {"weight": (size, size), "keys": (num_heads, size), "values": (num_heads, size)}.items():
            zeros = torch.zeros(len(kinds), *shape, dtype=torch.get_default_dtype())
            self.register_buffer(name, zeros, persistent=False)

    def remember(self, dimension: PhantomDimension, anchor: dict[str, Tensor]) -> None:
        """Keep what the anchor says; anchor: of each kind, [1, heads, d] on this rank."""
        for index, kind in enumerate(self.kinds):
            states, attention = anchor[kind][0], getattr(dimension, kind)
            if get_tensor_model_parallel_world_size() > 1:
                # a key/value head that ranks share comes twice, which adds equal terms to both sides of the softmax
                states = tensor_model_parallel_all_gather(states.contiguous(), dim=0)
            keys, values = attention.remember(states)
            self.weight[index] = attention.q_proj.weight.T
            self.keys[index] = keys * keys.shape[-1] ** -0.5
            self.values[index] = values

    def forward(self, states: Tensor) -> Tensor:
        """[G, R, d] → y [G, R, d]                                                                 [Phantom, eq. 1]"""
        queries = F.gelu(torch.bmm(states, self.weight))
        scores = torch.bmm(self.keys, queries.mT)  # [G, A, R]
        shares = torch.softmax(scores, dim=1, dtype=torch.float32).to(states.dtype)
        return F.gelu(torch.bmm(shares.mT, self.values))


class ServedPhantom(nn.Module):
    """What one pass of one layer knows of the anchor. The parameters are the attention module's, which loads them.

    As `phantrol.modifiers.phantom`, in fewer operations, since a step of few tokens costs what its operations cost to
    start: keys and values go together, η² stands in the query's half alone, and the two gates are one product.
    """

    def __init__(self, dimension: PhantomDimension, head_size: int, num_heads: int, num_kv_heads: int):
        super().__init__()
        self.__dict__["dimension"] = dimension  # not registered twice: a checkpoint names it once
        ranks = get_tensor_model_parallel_world_size()
        stored = ("key", "value") if dimension.exact else ("value",)
        self.stored = AnchorHeads(stored, ranks * num_kv_heads, head_size)
        self.asking = AnchorHeads(("query",), ranks * num_heads, head_size) if dimension.exact else None
        for name, shape in {"gate_weight": (1, 2 * head_size), "gate_bias": (1,), "eta": (1,)}.items():
            self.register_buffer(name, torch.zeros(shape, dtype=torch.get_default_dtype()), persistent=False)

    def remember(self, **anchor: Tensor) -> None:
        """Keep what the anchor says: query [1, H, d], key and value [1, K, d] of the first token, on this rank."""
        self.stored.remember(self.dimension, anchor)
        if self.asking is not None:
            self.asking.remember(self.dimension, anchor)
        eta = torch.as_tensor(self.dimension.eta, dtype=torch.float32, device=self.eta.device).reshape(1)
        self.eta.copy_(eta)
        # g2(h1 + term) - g1(h1), of h1 and P·y_V side by side, with term = η·P·y_V
        gates = self.dimension.gate_1, self.dimension.gate_2
        first, second = (gate.weight.float() for gate in gates)
        self.gate_weight.copy_(torch.cat([second - first, second * eta], dim=-1))
        self.gate_bias.copy_(gates[1].bias.float() - gates[0].bias.float())

    def enlarge(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """[T, H, d], [T, K, d], [T, K, d] → [T, H, 2d], [T, K, 2d], [T, K, 2d]"""
        size, heads, kv_heads = query.shape[-1], query.shape[1], key.shape[1]
        states = [value] if self.asking is None else [key, value]
        stored = torch.stack([part.reshape(-1, size) for part in states])  # [G, T·K, d]
        stored = torch.cat([stored, self.stored(stored)], dim=-1).view(len(states), -1, kv_heads, 2 * size)
        if self.asking is None:  # paged attention wants keys as wide as values
            return F.pad(query, (0, size)), F.pad(key, (0, size)), stored[0]
        asked = self.asking(query.reshape(1, -1, size)).view(-1, heads, size)
        return torch.cat([query, asked * self.eta**2], dim=-1), stored[0], stored[1]

    def merge(self, attended: Tensor) -> Tensor:
        """[T, H, 2d] → [T, H, d], w·h1 + (1 - w)·h2 = h1 + (1 - w)·term.                         [Phantom, eq. 3]"""
        first, term = attended.chunk(2, dim=-1)
        share = torch.sigmoid(F.linear(attended, self.gate_weight, self.gate_bias))
        return torch.addcmul(first, share * self.eta, term)
