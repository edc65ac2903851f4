"""Ways to feed the same tokens to a decoder: each returns the largest difference of logits between two of them.

B rows, N tokens; a case is that of conftest.py.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, StaticCache

PROMPT, TOTAL, PADS = 8, 11, 5
ONE_BY_ONE = (PROMPT, 9, 10, TOTAL)


def largest(*pairs: tuple[Tensor, Tensor]) -> float:
    return max(float((one - other).abs().max()) for one, other in pairs)


def padded_rows(ids: Tensor) -> tuple[Tensor, Tensor]:
    """Return row 0 behind padding and row 1 without, [2, PADS + N], and their mask."""
    rows = torch.stack([torch.cat([ids.new_zeros(PADS), ids[0]]), torch.cat([ids[1], ids[1, :PADS]])])
    mask = torch.ones_like(rows)
    mask[0, :PADS] = 0
    return rows, mask


def cached(case: Any) -> float:
    return largest((case.feed(case.ids, ONE_BY_ONE), case.full(case.ids)))


def chunked(case: Any) -> float:
    full, whole_prompt = case.full(case.ids), case.full(case.ids, prompt=TOTAL)
    return largest(
        (case.feed(case.ids, (3, 7, *ONE_BY_ONE), prompt=PROMPT), full),  # the prompt ends with a chunk of one token
        (case.feed(case.ids, (1, 5, 10, TOTAL), prompt=PROMPT), full),  # it begins so, and ends inside a chunk
        (case.feed(case.ids, (4, 7, 9, TOTAL), DynamicCache()), whole_prompt),  # a cache that does not know the model
    )


def behind_padding(case: Any) -> float:
    rows, mask = padded_rows(case.ids)
    alone = case.full(case.ids[:1], prompt=TOTAL)
    padded = case.full(rows, mask, prompt=TOTAL + PADS)
    return largest((padded[:1, PADS:], alone), (padded[1:], case.full(rows[1:], prompt=TOTAL + PADS)))


def chunked_behind_padding(case: Any) -> float:
    rows, mask = padded_rows(case.ids)
    prompt = PADS + PROMPT
    fed = case.feed(rows, (2, 4, 9, prompt, prompt + 1, TOTAL + PADS), mask=mask, prompt=prompt)
    return largest((fed[:1, PADS:], case.full(case.ids[:1])), (fed[1:], case.full(rows[1:], prompt=prompt)))


def in_one_batch(case: Any) -> float:
    """Three rows of unequal length in one batch, prompt and answer, against each row alone."""
    lengths = (PROMPT, 5, 2)
    source = case.ids.flatten()
    rows = [source[start : start + length + 3] for start, length in zip((0, 5, 11), lengths, strict=True)]
    batch = torch.stack([torch.cat([row.new_zeros(TOTAL - len(row)), row]) for row in rows])
    together = case.feed(batch, ONE_BY_ONE, mask=(batch != 0).long(), prompt=PROMPT)
    return largest(
        *((together[i, -len(row) :], case.full(row[None], prompt=len(row) - 3)[0]) for i, row in enumerate(rows))
    )


def interleaved(case: Any) -> float:
    """Two requests that take turns on one model, in their prompts and in their answers."""
    requests, caches = case.ids[:, None], [DynamicCache(config=case.model.config) for _ in case.ids]
    ends, logits = (3, *ONE_BY_ONE), ([], [])
    for start, end in zip((0, *ends), ends, strict=False):
        for request, cache, out in zip(requests, caches, logits, strict=True):
            out.append(case.step(request[:, start:end], cache, prompt=PROMPT))
    return largest(*((torch.cat(out, 1), case.full(request)) for request, out in zip(requests, logits, strict=True)))


def reordered(case: Any) -> float:
    """Beams change places inside the prompt, and again inside the answer."""
    cache, order = DynamicCache(config=case.model.config), torch.tensor([1, 0])
    case.step(case.ids[:, :4], cache, prompt=PROMPT)
    cache.reorder_cache(order)
    swapped = case.ids[order]
    prompt = case.step(swapped[:, 4:PROMPT], cache, prompt=PROMPT)
    case.step(swapped[:, PROMPT : PROMPT + 1], cache, prompt=PROMPT)
    cache.reorder_cache(torch.tensor([1, 1]))  # the first beam dies
    winner = swapped[[1, 1]]
    answer = case.step(winner[:, PROMPT + 1 :], cache, prompt=PROMPT)
    return largest((prompt, case.full(swapped)[:, 4:PROMPT]), (answer, case.full(winner)[:, PROMPT + 1 :]))


def repeated_and_selected(case: Any) -> float:
    """A prompt read once, then several answers to it, of which some are dropped."""
    cache = DynamicCache(config=case.model.config)
    case.step(case.ids[:, :PROMPT], cache, prompt=PROMPT)
    cache.batch_repeat_interleave(2)
    rows = case.ids.repeat_interleave(2, dim=0)
    four = case.step(rows[:, PROMPT : PROMPT + 1], cache, prompt=PROMPT)
    cache.batch_select_indices(torch.tensor([3, 0]))
    two = case.step(rows[[3, 0], PROMPT + 1 :], cache, prompt=PROMPT)
    full = case.full(rows)
    return largest((four, full[:, PROMPT : PROMPT + 1]), (two, full[[3, 0], PROMPT + 1 :]))


def static(case: Any) -> float:
    """A static cache, used twice."""
    cache = StaticCache(config=case.model.config, max_cache_len=2 * TOTAL)
    once = case.feed(case.ids, (3, *ONE_BY_ONE), cache, prompt=PROMPT)
    cache.reset()
    again = case.feed(case.ids.flip(0), ONE_BY_ONE, cache, prompt=PROMPT)
    return largest((once, case.full(case.ids)), (again, case.full(case.ids.flip(0))))


def eager(case: Any) -> float:
    rows, mask = padded_rows(case.ids)
    sdpa = case.full(rows, mask, prompt=PADS + PROMPT)
    case.model.set_attn_implementation("eager")
    try:
        other = case.full(rows, mask, prompt=PADS + PROMPT)
    finally:
        case.model.set_attn_implementation("sdpa")
    return largest((other[mask == 1], sdpa[mask == 1]))


PADDING = (behind_padding, chunked_behind_padding, in_one_batch)
COMPARISONS = (cached, chunked, *PADDING, interleaved, reordered, repeated_and_selected, static, eager)
