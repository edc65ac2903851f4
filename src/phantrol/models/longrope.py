"""`longrope`, whose rotary angles the longest row of a pass decides for all of its rows.

Up to `original_max_position_embeddings` tokens transformers takes the short factors, beyond them the long ones, and
looks at the whole batch for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def switch_lengths(config: Any) -> list[int]:
    """Return the lengths in tokens, shorter than what the model reads at most, beyond which its angles are others; one
    for each kind of layer that has such. Of most models there are none.

    config  of a model or of its decoder
    Of "dynamic" angles, which the longest row decides too, there are none either: they change beyond the most alone.
    """
    text = config.get_text_config(decoder=True)
    ropes = [each for each in rope_settings(text) if each.get("rope_type") == "longrope"]
    lengths = {each["original_max_position_embeddings"] for each in ropes}
    return sorted(length for length in lengths if length < text.max_position_embeddings)


def longest_undisturbed(config: Any) -> int | None:
    """Return how many tokens a row may have at most, so that no row beside it is rotated otherwise; None: any number.

    config  of a model or of its decoder
    """
    text = config.get_text_config(decoder=True)
    dynamic = any(each.get("rope_type") == "dynamic" for each in rope_settings(text))
    return min([*switch_lengths(text), *([text.max_position_embeddings] if dynamic else [])], default=None)


def rope_settings(text: Any) -> list[Any]:
    """Return the settings of a decoder's rotary angles: one for all, or one for each kind of layer."""
    rope = getattr(text, "rope_parameters", None) or {}
    return [rope, *(each for each in rope.values() if isinstance(each, Mapping))]
