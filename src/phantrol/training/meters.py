"""Means of named values between two lines of the log."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor

from phantrol.whole_files import write_text


class Meters:
    """Means of named values since the last line of the log. They are part of a checkpoint, so that a run that was
    stopped between two lines writes the same next line."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor | float] = {}
        self.counts: dict[str, float] = {}

    def add(self, name: str, values: Tensor | float, count: float | None = None) -> None:
        """Add a value, or a vector of them; nothing waits for the device here."""
        values = torch.as_tensor(values).detach().float().reshape(-1)
        self.sums[name] = self.sums.get(name, 0.0) + values.sum()
        self.counts[name] = self.counts.get(name, 0.0) + (values.numel() if count is None else count)

    def take(self, accelerator: Accelerator) -> dict[str, float]:
        """Return the means over all ranks, and begin again."""
        total = self.gathered(accelerator)
        means = {name: float(value) / total.counts[name] for name, value in total.sums.items() if total.counts[name]}
        self.sums, self.counts = {}, {}
        return means

    def gathered(self, accelerator: Accelerator) -> Meters:
        """Return the sums and counts over all ranks."""
        if accelerator.num_processes == 1:
            return self
        names, gathered = sorted(self.sums), Meters()
        values = torch.tensor(
            [[float(self.sums[name]), self.counts[name]] for name in names], device=accelerator.device
        )
        for name, (value, count) in zip(names, accelerator.reduce(values).tolist(), strict=True):
            gathered.sums[name], gathered.counts[name] = value, count
        return gathered

    def save(self, path: Path) -> None:
        sums = {name: float(value) for name, value in self.sums.items()}
        write_text(path, json.dumps({"sums": sums, "counts": self.counts}))

    def load(self, path: Path) -> None:
        state = json.loads(path.read_text("utf-8"))
        self.sums, self.counts = state["sums"], state["counts"]
