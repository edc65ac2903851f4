"""What a loss is: a frozen dataclass in `losses/NAME.py`, bound to the constant `LOSS`.

A loss sees one micro-batch at a time and is a sum over its tokens and pairs divided by `totals`, the numbers of tokens
and pairs in the whole optimiser step (all micro-batches, all ranks). So four micro-batches of one group add up to the
very loss of one batch of four. A loss that compares the rows of its micro-batch does not (`WordAlignment`), and says
how few groups are too few for it.

M labelled tokens, S sequences, P preference pairs. A batch is what `data.collate.Collator` returns.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from math import isfinite
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

Batch = dict[str, Any]

_TEXT_INPUTS = ("input_ids", "attention_mask", "position_ids", "labels", "prompt_mask", "blocks")
_MODEL_INPUTS = (*_TEXT_INPUTS, "pixel_values", "tile_order")


@dataclass(frozen=True)
class LossOutput:
    """The loss of a micro-batch, and what to log.

    loss     scalar; over the micro-batches of a step the losses are added
    metrics  name -> a number, or a vector of the values it is the mean of (empty: nothing to report); the log shows
             the mean over all values since its last line
    """

    loss: Tensor
    metrics: dict[str, float | Tensor] = field(default_factory=dict)


class Loss:
    """Base of all losses. A subclass is a frozen dataclass that writes `__call__` and, if need be, `count`."""

    needs_pairs: ClassVar[bool] = False  # the collator leaves rejected answers out otherwise
    needs_reference: ClassVar[bool] = False  # the batch then carries `reference_logprobs` [M]
    reads_rows: ClassVar[bool] = False  # takes a row for what is said about one picture: a row must not hold several

    def __post_init__(self) -> None:
        for each in fields(self):
            value = getattr(self, each.name)
            is_number = isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value)
            if each.type in (float, "float") and not is_number:
                raise ValueError(f"{type(self).__name__}.{each.name} is {value!r}: expected a finite number")

    def __call__(self, model: nn.Module, batch: Batch, totals: dict[str, int]) -> LossOutput:
        """Return the loss of `batch`, divided by the counts of the whole step."""
        raise NotImplementedError

    def fewest_groups(self) -> int:
        """Return how many groups a micro-batch must have for anything to be learnt from it."""
        return 1

    def count(self, batch: Batch) -> dict[str, int]:
        """Return what this batch adds to the totals: tokens (those of rejected answers left out) and pairs."""
        return {"tokens": int(supervised(batch).sum()), "pairs": len(batch["chosen"])}


def model_inputs(batch: Batch) -> Batch:
    """Return the part of a batch that the model takes."""
    return {name: batch[name] for name in _MODEL_INPUTS if name in batch}


def token_logprobs(model: nn.Module, batch: Batch) -> Tensor:
    """Return log p of each labelled token, `[M]`, in the order of `sequence_ids`."""
    return model(**model_inputs(batch), use_cache=False).token_logprobs


def supervised(batch: Batch) -> Tensor:
    """Return which labelled tokens are to be imitated, `[M]` bool: all but those of rejected answers."""
    return ~torch.isin(batch["sequence_ids"], batch["rejected"])
