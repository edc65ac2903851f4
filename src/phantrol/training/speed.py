"""How fast a stage trains: tokens, pictures and steps a second, and how much of the machine that is."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from accelerate import Accelerator

from phantrol.training.flops import FlopCounter, peak_flops

COUNTED_BATCHES = 16  # micro-batches since the start whose operations are counted; the others are taken to be alike


class Speed:
    """Counts between two lines of the log.

    dtype  in which the model computes: what the device can do at most depends on it
    """

    def __init__(self, dtype: torch.dtype):
        self.dtype, self.flops, self.counted_tokens, self.counted_batches = dtype, 0, 0, 0
        self.begin()

    def begin(self) -> None:
        """Begin again, now."""
        self.tokens = self.pictures = self.steps = 0
        self.since_s, self.waited_s = time.monotonic(), 0.0

    @contextmanager
    def training_on(self, batch: dict[str, Any]) -> Iterator[None]:
        """Count a micro-batch that is computed, forward and backward, inside the block."""
        tokens = sum(batch["row_tokens"])
        self.tokens, self.pictures = self.tokens + tokens, self.pictures + batch["num_pictures"]
        if self.counted_batches >= COUNTED_BATCHES:
            yield
            return
        with FlopCounter() as counter:
            yield
        self.flops, self.counted_tokens = self.flops + counter.flops, self.counted_tokens + tokens
        self.counted_batches += 1

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Count the time of the block as waiting for data."""
        began_s = time.monotonic()
        yield
        self.waited_s += time.monotonic() - began_s

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leave out the time of something else than training."""
        began_s = time.monotonic()
        yield
        self.since_s += time.monotonic() - began_s

    def take(self, accelerator: Accelerator) -> dict[str, float]:
        """Return the numbers of all ranks together, and begin again.

        waited          share of the time that went by until batches were there, the mean of all ranks
        tokens_per_s    of the rows as they are computed, image tokens among them, padding not
        tflops          10^12 operations a second, by what the first micro-batches took for a token
        mfu             their share of what all devices could do at most
        """
        seconds, steps = max(time.monotonic() - self.since_s, 1e-9), max(self.steps, 1)
        counts = torch.tensor([self.tokens, self.pictures, self.waited_s], device=accelerator.device)
        tokens, pictures, waited_s = accelerator.reduce(counts).tolist()
        per_s = tokens / seconds * self.flops / max(self.counted_tokens, 1)
        ranks = accelerator.num_processes
        peak = ranks * peak_flops(accelerator.device, self.dtype, per_s / ranks)
        self.begin()
        return {
            "step_s": round(seconds / steps, 4),
            "waited": round(waited_s / seconds / ranks, 4),
            "tokens_per_s": round(tokens / seconds, 1),
            "pictures_per_s": round(pictures / seconds, 1),
            "tflops": round(per_s / 1e12, 6),
            "mfu": round(per_s / peak, 4),
        }
