"""Which options of `generate` an engine takes: all but those that it sets itself, and those that yield no Answer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_PROMPT = "leave it out, since the prompt is made from the chat"
REFUSED = {  # and what to do instead
    **dict.fromkeys(("inputs", "input_ids", "inputs_embeds", "attention_mask", "pixel_values"), _PROMPT),
    "num_return_sequences": "ask as often, with do_sample=True",
    "return_dict_in_generate": "call engine.model.generate",
    "eos_token_id": "set it in model.generation_config before the engine is made, or pass stop_strings",
    "pad_token_id": "set the tokenizer's pad_token",
    "streamer": "call engine.stream",
    "stopping_criteria": "pass stop_strings, or call engine.model.generate",
}


def check_options(options: Mapping[str, Any]) -> None:
    """Raise ValueError, with the remedy, if one of the options is REFUSED."""
    for name in options:
        if name in REFUSED:
            raise ValueError(f"got the option {name}, expected others of `generate`: {REFUSED[name]}")
