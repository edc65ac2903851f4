"""Prompts in batches of like length; the next ones are read, pictures decoded, while the model is at work on these."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby
from typing import Any, TypeVar

from phantrol.models.longrope import switch_lengths
from phantrol.models.processing import Encoding

SORTED_BATCHES = 16  # so many batches are sorted by length together: little padding
AHEAD_BYTES = 2**30  # of pixels that are read ahead, and as much again while the model is at work on it

Prompts = list[Encoding]  # what belongs to one position: a prompt, or several about the same pictures
Result = TypeVar("Result")


def in_batches(
    count: int, read: Callable[[int], Prompts], work: Callable[[list[Prompts]], list[Result]], batch_size: int
) -> Iterator[tuple[int, Result | ValueError]]:
    """Yield (position, result) batch by batch, as they come; for a position that is refused, its ValueError.

    count       positions to read: 0 .. count - 1
    read        position → prompts, in a thread of its own; it may raise ValueError
    work        prompts of at most `batch_size` positions → their results
    Whoever closes the iterator stops the thread too. Raises ValueError for a batch_size below 1.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}: expected 1 or more chats")
    stop = threading.Event()
    reader = ThreadPoolExecutor(1, "phantrol-reading")
    try:
        start, batches = 0, 1  # the first prompts are few, so that the model need not wait for them
        ahead = reader.submit(_read, range(start, count), read, batch_size, batches, stop)
        while start < count:
            prompts, refused = ahead.result()
            start, batches = start + len(prompts) + len(refused), min(2 * batches, SORTED_BATCHES)
            ahead = reader.submit(_read, range(start, count), read, batch_size, batches, stop)
            yield from refused.items()
            order = sorted(prompts, key=lambda index: max(len(prompt.input_ids) for prompt in prompts[index]))
            for low in range(0, len(order), batch_size):
                batch = order[low : low + batch_size]
                yield from zip(batch, work([prompts[index] for index in batch]), strict=True)
    finally:
        stop.set()
        reader.shutdown(wait=True)


def alike(model: Any, rows: Sequence[Encoding], num_new_tokens: int = 0) -> list[list[Encoding]]:
    """Cut rows, in their order, where neighbours cannot share a batch while each is answered with up to so many tokens:
    where the longest one decides the rotary angles of all (`models/longrope.py`), none may change with its company.

    Rows share one if all stay before a switch, if all begin beyond it, or if they are equally long and come to it
    together.
    """
    switches = switch_lengths(model.config)

    def kind(row: Encoding) -> list[int]:
        return [min(max(len(row.input_ids), switch - num_new_tokens), switch + 1) for switch in switches]

    return [list(group) for _, group in groupby(rows, kind)]


def _read(
    positions: range, read: Callable[[int], Prompts], batch_size: int, batches: int, stop: threading.Event
) -> tuple[dict[int, Prompts], dict[int, ValueError]]:
    """Return the next prompts and what is wrong with others: so many batches, or a gigabyte."""
    prompts: dict[int, Prompts] = {}
    refused, size = {}, 0
    for index in positions:
        full = len(prompts) >= batch_size * batches or (size > AHEAD_BYTES and len(prompts) % batch_size == 0)
        if full or stop.is_set():
            break
        try:
            prompts[index] = read(index)
        except ValueError as error:
            refused[index] = error
            continue
        pixels = prompts[index][0].pixel_values
        size += 0 if pixels is None else pixels.nbytes
    return prompts, refused
