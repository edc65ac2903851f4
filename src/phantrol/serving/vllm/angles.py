"""Rotary angles that the length of a text decides, held as they are for all lengths that are served.

Where a batch's longest row is asked for, vLLM cannot compile: "dynamic" it then leaves uncompiled, at "longrope" it
ends. `refuse_settings` lets no text grow to where they change, so there is nothing to ask.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from phantrol.models.longrope import rope_settings


def hold_dynamic(text_config: Any) -> None:
    """Call dynamic angles what they are up to `max_position_embeddings`, the default ones, before a decoder is made."""
    for rope in rope_settings(text_config):
        if rope.get("rope_type") == "dynamic":
            rope["rope_type"] = "default"


def hold_longrope(decoder: nn.Module) -> None:
    """Keep the short factors, with which a decoder is made: transformers asks only those that are called longrope."""
    for module in decoder.modules():
        kind = getattr(module, "rope_type", None)
        if kind == "longrope":
            module.rope_type = "default"
        elif isinstance(kind, dict):  # one for each kind of layer
            module.rope_type = {layer: "default" if each == "longrope" else each for layer, each in kind.items()}
