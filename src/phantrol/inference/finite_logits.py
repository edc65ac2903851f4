"""A model whose numbers overflow, or whose weights hold NaN, gives no answer rather than an empty one.

B rows, V vocabulary.
"""

from __future__ import annotations

from torch import Tensor
from transformers import LogitsProcessor

NOT_FINITE = (
    "the model's logits are not finite: its weights hold NaN, or its numbers overflow; copy or convert it again, or "
    "load it as bfloat16 or float32 (--weights)"
)


class FiniteLogits(LogitsProcessor):
    """Notes on the device whether logits [B, V] of a row were not finite at some step; `check` asks it once."""

    def __init__(self) -> None:
        self._broken: Tensor | None = None

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        broken = ~scores.amax(dim=-1, keepdim=True).isfinite()
        self._broken = broken.any() if self._broken is None else self._broken | broken.any()
        return scores.masked_fill(broken, 0.0)  # no token can be drawn of such a row, nor of the others beside it

    def check(self) -> None:
        """Raise ValueError if some row's were not."""
        if self._broken is not None and bool(self._broken):
            raise ValueError(NOT_FINITE)
