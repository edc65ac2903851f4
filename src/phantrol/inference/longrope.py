"""`longrope`, whose rotary angles the longest row of a pass decides for all of its rows.

Up to `original_max_position_embeddings` tokens transformers takes the short factors, beyond them the long ones, and
looks at the whole batch for it: a row would change with its company. So only rows of the same factors share one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from phantrol.models.processing import Encoding


def switch_lengths(model: Any) -> list[int]:
    """Return the lengths in tokens, shorter than what the model reads at most, beyond which its angles are others; one
    for each kind of layer that has such. Of most models there are none.

    Of "dynamic" angles, which the longest row decides too, there are none either: they change beyond the most alone.
    """
    config = model.config.get_text_config(decoder=True)
    rope = getattr(config, "rope_parameters", None) or {}
    kinds = [rope, *(each for each in rope.values() if isinstance(each, Mapping))]
    lengths = {each["original_max_position_embeddings"] for each in kinds if each.get("rope_type") == "longrope"}
    return sorted(length for length in lengths if length < config.max_position_embeddings)


def alike(model: Any, rows: Sequence[Encoding], num_new_tokens: int = 0) -> list[list[Encoding]]:
    """Cut rows, in their order, where neighbours cannot share a batch while each is answered with up to so many tokens.

    Rows share one if all stay before a switch, if all begin beyond it, or if they are equally long and come to it
    together.
    """
    switches = switch_lengths(model)

    def kind(row: Encoding) -> list[int]:
        return [min(max(len(row.input_ids), switch - num_new_tokens), switch + 1) for switch in switches]

    return [list(group) for _, group in groupby(rows, kind)]
