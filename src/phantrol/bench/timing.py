"""The works that are measured, each of them on both sides in turn, so that whatever else runs here troubles both.

Nothing is warm the first time: each side does everything once before a clock is read.
"""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from phantrol.bench.cases import Case
from phantrol.training.recomputing import set_gradient_checkpointing

Sides = dict[str, PreTrainedModel]
DECODED = 8  # tokens of one run of "decode"; each of them is timed


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of the result.

    ours, plain  medians of the runs
    ratio        median over the runs of ours / plain, the two of one run being neighbours in time: on a busy machine
                 that is steadier than the ratio of the medians. Without a plain side, `ours`
    """

    name: str
    ratio: float
    ours: float
    plain: float | None
    unit: str
    runs: int


def measure(name: str, case: Case, sides: Sides, runs: int) -> Row:
    """Return the medians of `runs` runs of a case, or of one where each would say the same."""
    samples: dict[str, list[float]] = {side: [] for side in sides}
    work, unit = WORKS[case.work]
    for side, value in work(sides, case.tokens, runs):
        samples[side].append(value)
    ratios = [ours / plain for ours, plain in zip(samples["ours"], samples["plain"], strict=True)]
    medians = (statistics.median(values) for values in (ratios, samples["ours"], samples["plain"]))
    return Row(name, *medians, unit, min(runs, len(ratios)))


def prefill(sides: Sides, tokens: int, runs: int) -> Iterator[tuple[str, float]]:
    """Yield seconds for a prompt with an empty cache, head of the last token included."""
    prompt = _tokens(tokens)

    def once(model: PreTrainedModel) -> None:
        model(prompt, past_key_values=DynamicCache(config=model.config), logits_to_keep=1)

    with torch.inference_mode():
        yield from _in_turn(sides, once, runs)


def decode(sides: Sides, tokens: int, runs: int) -> Iterator[tuple[str, float]]:
    """Yield seconds for one more token, a token of one side after a token of the other."""
    prompt, next_token = _tokens(tokens), _tokens(1)
    with torch.inference_mode():
        caches = {}
        for model in sides.values():
            caches[id(model)] = DynamicCache(config=model.config)
            model(prompt, past_key_values=caches[id(model)], logits_to_keep=1)

        def once(model: PreTrainedModel) -> None:
            model(next_token, past_key_values=caches[id(model)])

        yield from _in_turn(sides, once, runs * DECODED)


def train_step(sides: Sides, tokens: int, runs: int) -> Iterator[tuple[str, float]]:
    """Yield seconds for a forward and a backward pass with gradient checkpointing."""
    batch = _tokens(tokens)
    for model in sides.values():
        set_gradient_checkpointing(model.train(), True)

    def once(model: PreTrainedModel) -> None:
        model(batch, labels=batch, use_cache=False).loss.backward()
        model.zero_grad(set_to_none=True)

    try:
        yield from _in_turn(sides, once, runs)
    finally:
        for model in sides.values():
            set_gradient_checkpointing(model.eval(), False)


def cache(sides: Sides, tokens: int, runs: int) -> Iterator[tuple[str, float]]:
    """Yield bytes of the cache after a prompt and one token of an answer; the same each time."""
    with torch.inference_mode():
        for side, model in sides.items():
            past = DynamicCache(config=model.config)
            model(_tokens(tokens), past_key_values=past, logits_to_keep=1)
            model(_tokens(1), past_key_values=past)
            yield side, float(token_bytes(past))


WORKS: dict[str, tuple[Callable[[Sides, int, int], Iterator[tuple[str, float]]], str]] = {
    "prefill": (prefill, "s"),
    "decode": (decode, "s/token"),
    "train_step": (train_step, "s"),
    "cache": (cache, "bytes"),
}


def token_bytes(past: Any) -> int:
    """Return how many bytes the keys and values of all layers of a cache take, our own extra layers included."""
    tensors = [t for layer in past.layers for t in (layer.keys, layer.values) if isinstance(t, Tensor)]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _in_turn(sides: Sides, once: Callable[[PreTrainedModel], None], runs: int) -> Iterator[tuple[str, float]]:
    for model in sides.values():
        once(model)
    for run in range(runs):
        for side in sides if run % 2 else reversed(sides):  # who comes first finds other things in the caches
            start = time.perf_counter()
            once(sides[side])
            yield side, time.perf_counter() - start


def _tokens(count: int) -> Tensor:
    return torch.arange(count)[None] % 4096 + 16
