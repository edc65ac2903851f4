"""What one forward pass knows about its sequences, worked out of its masks and of what their cache has seen.

B batch, N tokens of this forward pass.
"""

from __future__ import annotations

import torch
from torch import Tensor
from transformers.cache_utils import Cache

from phantrol.modifiers.real_tokens import check_shared_anchors, real_tokens
from phantrol.modifiers.sequence import SequenceState, SequenceStep, end_prompt


def token_positions(attention_mask: Tensor, cache: Cache | None, num_tokens: int) -> Tensor:
    """Return how many real tokens each new one has before it in its row: [B, N].

    attention_mask  [B, past + N] with 1 on real tokens, or longer, as a static cache is
    """
    positions = (attention_mask.long().cumsum(-1) - 1).clamp(min=0)
    past = 0 if cache is None else cache.get_seq_length()
    if isinstance(past, Tensor):  # of a static cache: read, it would wait for the device and break a compiled step
        return positions.index_select(1, torch.arange(num_tokens, device=positions.device) + past)
    start = min(past, positions.shape[1] - num_tokens)
    return positions[:, start : start + num_tokens]


def next_step(
    state: SequenceState | None,
    cache: Cache | None,
    tokens: Tensor,
    attention_mask: Tensor | dict | None,
    prompt: tuple[int | None, Tensor | None] | None,
    span: int,
) -> SequenceStep:
    """Return what the next forward pass knows of its sequences, and note in `state` what has been seen after it.

    tokens  [B, N] or [B, N, D]
    prompt  (prompt_length, prompt_mask), or None if no modifier treats prompt and answer differently
    span    tokens of a row from its first anchor to its last; 0 if no modifier remembers any
    """
    rows, num_tokens = tokens.shape[:2]
    if state is not None and num_tokens == 1 and state.anchors_complete and (prompt is None or state.prompt_ended):
        # the common step of decoding asks the device nothing
        return SequenceStep(state=state, prompt=prompt is None)
    past_tokens = 0 if cache is None else int(cache.get_seq_length())
    index = here = places = None
    if state is None or not state.anchors_complete:
        ends = past_tokens + num_tokens
        real = None if attention_mask is None else real_tokens(attention_mask, num_tokens, past_tokens)
        anchor = torch.zeros(rows, dtype=torch.long, device=tokens.device) if real is None else _first(real, ends, rows)
        index, here = anchor - past_tokens, (anchor >= past_tokens) & (anchor < ends)
        index = index.clamp(0, num_tokens - 1)
        if span > 0:
            check_shared_anchors(attention_mask, past_tokens, anchor, span)
        if span > 1 and real is None:
            places = torch.arange(past_tokens, ends, device=tokens.device)[None]
        elif span > 1:  # padding may stand behind a row too, or within it, where its answer goes on
            places = torch.where(real, real.cumsum(-1) - 1, -1)[:, -num_tokens:]
        if state is not None:
            state.anchors_complete = span <= ends if real is None else bool((real.sum(-1) >= span).all())
    is_prompt = True if prompt is None else _is_prompt(past_tokens, num_tokens, tokens.device, *prompt)
    if state is not None and prompt is not None:
        _follow_prompt(cache, state, is_prompt, num_tokens)
    return SequenceStep(state=state, anchor_index=index, anchor_in_chunk=here, prompt=is_prompt, places=places)


def _first(real: Tensor, ends: int, rows: int) -> Tensor:
    """[B, T] or [1, T] → where the first real token of each row is, [B]; `ends` where a row has none yet."""
    return torch.where(real.any(dim=-1), real.to(torch.int32).argmax(dim=-1), ends).expand(rows)


def _is_prompt(
    past_tokens: int, num_tokens: int, device: torch.device, prompt_length: int | None, prompt_mask: Tensor | None
) -> bool | Tensor:
    if prompt_mask is not None:
        return prompt_mask.to(torch.bool)
    if prompt_length is None:
        return num_tokens > 1 or past_tokens == 0
    if past_tokens + num_tokens <= prompt_length:
        return True
    if past_tokens >= prompt_length:
        return False
    return (torch.arange(past_tokens, past_tokens + num_tokens, device=device) < prompt_length)[None]


def _follow_prompt(cache: Cache, state: SequenceState, is_prompt: bool | Tensor, num_tokens: int) -> None:
    if is_prompt is False and not state.prompt_ended:
        end_prompt(cache, state)
    elif is_prompt is not False and state.prompt_ended:
        raise ValueError(
            f"{num_tokens} tokens of a prompt after an answer: what the prompt's later passes need was dropped when "
            "the answer began; begin with an empty cache, or pass prompt_length if these tokens are of the answer"
        )


def end_known_prompt(cache: Cache, state: SequenceState, prompt_length: int) -> None:
    """Not in the first step of decoding: so all its steps are alike, and can be compiled."""
    if int(cache.get_seq_length()) == prompt_length:
        end_prompt(cache, state)
