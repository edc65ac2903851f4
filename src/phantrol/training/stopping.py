"""SIGTERM and Ctrl-C while a stage trains: the step is finished, a checkpoint is written, and training stops."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

import torch
from accelerate.utils import reduce
from transformers import TrainerCallback


class StopSignal(TrainerCallback):
    """Notes a signal and stops training after the step. A second Ctrl-C stops at once, without a checkpoint.

    number  which came, or SIGTERM if it came to another rank;  since_s  seconds since it came
    """

    def __init__(self, ranks: int) -> None:
        self.ranks, self.came, self.agreed = ranks, False, False
        self.number, self._came_s = int(signal.SIGTERM), 0.0

    @property
    def received(self) -> bool:
        """Whether one came. Several ranks say the same, that of their last `agree`, so that none waits for another."""
        return self.came if self.ranks == 1 else self.agreed

    def agree(self, device: torch.device) -> None:
        """Let all ranks know whether a signal came to one of them; all must ask."""
        if self.ranks > 1:
            self.agreed = bool(reduce(torch.tensor(int(self.came), device=device), "sum"))

    @property
    def since_s(self) -> float:
        return time.monotonic() - self._came_s if self._came_s else 0.0

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():  # only there can a signal be handled
            yield
            return
        before = {number: signal.signal(number, self._note) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.agree(args.device)
        if self.received:
            control.should_save = control.should_training_stop = True

    def _note(self, number: int, frame: Any) -> None:
        if number == signal.SIGINT and self.came:
            raise KeyboardInterrupt
        self.came, self.number, self._came_s = True, number, time.monotonic()


def leave_process_group(worker: int) -> None:
    """Keep a signal to the whole process group away from a worker: training still needs it to finish its step."""
    if hasattr(os, "setpgid"):  # not on Windows
        os.setpgid(0, 0)
