"""How the batches of a stage are made: packed as far as the decoder's attention allows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from phantrol.data.collate import Collator
from phantrol.models.configuration import most_tokens
from phantrol.training.recipe import Stage


@dataclass(frozen=True)
class CountingCollator:
    """Adds `counts` to a batch, what it adds to the totals of a loss: on a device, counting would wait for that."""

    collate: Callable[[Sequence[int]], dict[str, Any]]
    count: Callable[[dict[str, Any]], dict[str, int]]

    def __call__(self, positions: Sequence[int]) -> dict[str, Any]:
        batch = self.collate(positions)
        return batch | {"counts": self.count(batch)}


def collator(model: nn.Module, processor: Any, stage: Stage) -> Collator:
    """Return the collator of a stage: it packs as far as the decoder's attention allows, and refuses longer rows than
    the decoder was made for.

    Raises ValueError if the stage is to be packed and the attention takes no additive mask.
    """
    text_config = model.config.get_text_config()
    attention = str(text_config._attn_implementation)
    if stage.pack and ("flash" in attention or "flex" in attention):
        raise ValueError(
            f"stage {stage.name!r}: got pack=True on {attention}, expected sdpa or eager attention, which take the "
            f"mask of packed rows; set stages.{stage.name}.pack=false"
        )
    window = getattr(text_config, "sliding_window", None) if getattr(text_config, "use_sliding_window", True) else None
    longest = most_tokens(model.config)
    return Collator(
        processor, stage.loss.needs_pairs, stage.pack, model.dtype, window, stage.padding_free, max_tokens=longest
    )
