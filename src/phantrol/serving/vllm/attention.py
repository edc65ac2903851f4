"""Attention under vLLM: each pass of a layer has slots of its own in the paged cache, and Phantom's keys are wider.

T tokens of all requests of one step, H query heads and K key/value heads of this rank, d head size.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from vllm.config import get_current_vllm_config
from vllm.model_executor.layers.attention import Attention

from phantrol.serving.vllm.phantom import ServedPhantom
from phantrol.serving.vllm.rehearsal import Rehearsal

NAME = "phantrol_vllm"  # of the attention function, in place of vLLM's own


class PassAttention(nn.Module):
    """One pass of one layer: vLLM's attention with its slots, and what Phantom knows of this pass's anchor."""

    def __init__(self, like: Attention, prefix: str, phantom: ServedPhantom | None):
        super().__init__()
        vllm_config = get_current_vllm_config()
        vllm_config.compilation_config.static_forward_context.pop(prefix, None)  # the name may be `like`'s own
        self.phantom, self.groups = phantom, like.num_heads // like.num_kv_heads
        try:
            self.attention = Attention(
                like.num_heads,
                like.head_size * (1 if phantom is None else 2),
                like.impl.scale,  # of the size that is not doubled: λ = √2 in the paper
                num_kv_heads=like.num_kv_heads,
                cache_config=vllm_config.cache_config,
                quant_config=like.quant_config,
                logits_soft_cap=getattr(like.impl, "logits_soft_cap", None) or None,
                per_layer_sliding_window=like.sliding_window,
                attn_type=like.attn_type,
                prefix=prefix,
            )
        except ValueError as error:
            raise ValueError(
                f"no attention backend of vLLM takes Phantom's heads of 2 x {like.head_size} numbers here "
                f"({' '.join(str(error).split())[:200]}): expected a head size whose double it takes; `phantrol serve` "
                "takes any"
            ) from None

    def forward(self, query: Tensor, key: Tensor, value: Tensor, rehearsal: Rehearsal | None) -> Tensor:
        """query [1, H, T, d], key and value [1, K, T, d] → [T, H·d]"""
        if self.phantom is None:
            query, key, value = (states[0].transpose(0, 1) for states in (query, key, value))
        else:
            if rehearsal is not None:
                self.phantom.remember(query=query, key=key, value=value)
            query, key, value = self.phantom.enlarge(query, key, value)
        if rehearsal is not None:  # a single token attends to itself alone
            attended = value.repeat_interleave(self.groups, dim=1)
        else:
            attended = self.attention(query, key, value)
            attended = attended.view(query.shape)
        if self.phantom is not None:
            attended = self.phantom.merge(attended)
        return attended.flatten(1)


def served_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    pass_index: int = 0,
    rehearsal: Rehearsal | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """query [1, H, T, d], key and value [1, K, T, d], as transformers' attention modules give them → [T, H·d], None"""
    if rehearsal is not None:
        rehearsal.reached(module, pass_index)
    return module.attention_passes[pass_index](query, key, value, rehearsal), None


ALL_ATTENTION_FUNCTIONS.register(NAME, served_attention)
