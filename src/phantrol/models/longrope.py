"""`longrope`, whose rotary angles the longest row of a pass decides for all of its rows.

Up to `original_max_position_embeddings` tokens transformers takes the short factors, beyond them the long ones, and
looks at the whole batch for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


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
