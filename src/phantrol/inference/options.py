"""Which options of `generate` an engine takes: all but those that it sets itself, and those that yield no Answer."""

from __future__ import annotations

from collections.abc import Mapping
from math import inf
from numbers import Integral, Real
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
NUMBERS = {  # kind, what they must be, and the same in words
    "num_beams": (Integral, lambda value: value >= 1, "a whole number, 1 or more"),
    "temperature": (Real, lambda value: 0 < value < inf, "a number above 0, or neither it nor do_sample"),
    "top_p": (Real, lambda value: 0 <= value <= 1, "a number from 0 to 1"),
    "top_k": (Integral, lambda value: value >= 0, "a whole number, 0 or more"),
}
OF_CHANCE = ("temperature", "top_p", "top_k")


def check_options(options: Mapping[str, Any]) -> None:
    """Raise ValueError, with the remedy, if one of the options is REFUSED, is none of its NUMBERS, or one of OF_CHANCE
    without do_sample=True, which would not be looked at."""
    for name in options:
        if name in REFUSED:
            raise ValueError(f"got the option {name}, expected others of `generate`: {REFUSED[name]}")
        if options[name] is not None and name in NUMBERS:
            kind, is_right, expected = NUMBERS[name]
            if isinstance(options[name], bool) or not isinstance(options[name], kind) or not is_right(options[name]):
                raise ValueError(f"{name} is {options[name]!r}: expected {expected}")
            if name in OF_CHANCE and not options.get("do_sample"):
                remedy = "add it, or leave this out for the most likely token"
                raise ValueError(f"got {name}={options[name]} without do_sample=True: {remedy}")
