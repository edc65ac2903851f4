"""What stands between `generate`, in a thread of its own, and who reads its answer token by token."""

from __future__ import annotations

import threading
from queue import SimpleQueue
from typing import Any

import torch
from torch import Tensor
from transformers import StoppingCriteria
from transformers.generation.streamers import BaseStreamer


class TokenQueue(BaseStreamer):
    """Takes what `generate` reports, first the prompt and then token after token, and queues the new tokens.

    transformers' own text streamers decode line by line, and what they send is not always what the whole decodes to.
    """

    def __init__(self) -> None:
        self.queue: SimpleQueue[Any] = SimpleQueue()
        self._prompt_seen = False

    def put(self, value: Tensor) -> None:
        if self._prompt_seen:
            self.queue.put(value.reshape(-1).tolist())
        self._prompt_seen = True

    def end(self) -> None:
        """The Answer that follows is the end."""


class StopWhenAsked(StoppingCriteria):
    """Ends an answer once somebody has set `asked`."""

    def __init__(self) -> None:
        self.asked = threading.Event()

    def __call__(self, input_ids: Tensor, scores: Tensor, **kwargs: Any) -> Tensor:
        return torch.full((input_ids.shape[0],), self.asked.is_set(), dtype=torch.bool, device=input_ids.device)
