"""Caches joined along the batch: a row that was read alone goes on in company, without being read again.

B rows, P cached tokens of the longest row, Q of the longest one that joins, H heads, d head size.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import Cache, DynamicLayer

from phantrol.models.longrope import switch_lengths
from phantrol.modifiers.graft import grafted_modifiers, is_prompt_only
from phantrol.modifiers.sequence import AnchorLayer, SequenceState, end_prompt


def joining_fault(model: Any) -> str | None:
    """Return why rows of this model cannot share a batch that they join and leave, or None if they can.

    Keys are cached with their rotary angle, so padding before a row changes nothing. But a cache that has thrown away
    what slid out of its window, or holds a state that is no list of tokens, has no room for padding; and of `longrope`
    the angles are those of the longest row.
    """
    kinds = {type(layer) for layer in new_cache(model).layers} - {DynamicLayer}
    names = ", ".join(sorted(kind.__name__ for kind in kinds))
    if names:
        return f"its cache holds {names}, which cannot be padded"
    if switches := switch_lengths(model.config):
        return f"with longrope, a row of more than {switches[0]} tokens changes the angles of all rows beside it"
    return None


def new_cache(model: Any) -> DynamicCache:
    """Return an empty cache as `generate` makes it."""
    return DynamicCache(config=model.config.get_text_config(decoder=True))


def end_prompts(model: Any, cache: Cache) -> None:
    """Forget what only the prompts' own later passes needed, as the first token of an answer does, so that prompts
    just read can join answers under way."""
    state = getattr(cache, "sequence_state", None)
    prompt_only = is_prompt_only(grafted_modifiers(model))
    if state is not None and prompt_only and not state.prompt_ended:
        end_prompt(cache, state)


def join_caches(running: Cache, joining: Cache) -> None:
    """Append the rows of `joining` to those of `running`, in place; shorter rows get padding before them.

    Extra layers of a grafted decoder, slots of later passes and memories of the anchor, are joined like its own.
    """
    assert len(running.layers) == len(joining.layers)
    length = max(int(running.get_seq_length()), int(joining.get_seq_length()))
    for here, there in zip(running.layers, joining.layers, strict=True):
        assert type(here) is type(there)
        if isinstance(here, SequenceState):
            assert (here.slots, here.prompt_ended) == (there.slots, there.prompt_ended)
            here.anchors_complete = here.anchors_complete and there.anchors_complete
        elif isinstance(here, AnchorLayer):
            here.keep(torch.cat([here.keys, there.keys]), torch.cat([here.values, there.values]))
        else:
            here.keys = torch.cat([pad_tokens(here.keys, length), pad_tokens(there.keys, length)])
            here.values = torch.cat([pad_tokens(here.values, length), pad_tokens(there.values, length)])


def pad_tokens(states: Tensor, length: int) -> Tensor:
    """[B, H, Q, d] → [B, H, length, d], with zeros, which a mask hides, before the tokens."""
    missing = length - states.shape[-2]
    return states if missing == 0 else torch.nn.functional.pad(states, (0, 0, missing, 0))


def crop_padding(cache: Cache, num_tokens: int) -> None:
    """Remove the first `num_tokens` of every row, which are padding in all of them."""
    for layer in cache.layers:
        if not isinstance(layer, AnchorLayer):  # SequenceState is one, and has no tokens either
            layer.keys, layer.values = layer.keys[:, :, num_tokens:], layer.values[:, :, num_tokens:]
