"""Both maps of one prompt, and the same as plain numbers for a program that draws them itself.

L layers that traverse, R rows of the phantom, H heads, N tokens of the prompt.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from torch import Tensor

from phantrol.explain.colours import heat_colour
from phantrol.explain.phantom import PhantomTerm, trace_phantom
from phantrol.explain.prompt import PictureTokens
from phantrol.explain.traversal import Traversal, trace_traversal
from phantrol.models.conversation import Chat
from phantrol.modifiers.trol import traversing_gates

COLOURS = 33  # of the scale, evenly spaced; who draws mixes the two nearest


@dataclasses.dataclass(frozen=True)
class Maps:
    """What can be seen of one prompt. `notes` says in one line each what a model has not got."""

    traversal: Traversal | None
    phantom: PhantomTerm | None
    notes: tuple[str, ...]

    @property
    def prompt(self) -> Traversal | PhantomTerm:
        """Whichever is there; both know the question, the tokens and the pictures."""
        return self.traversal or self.phantom

    @property
    def pictures(self) -> tuple[PictureTokens, ...]:
        return self.prompt.pictures


def trace_maps(model: Any, processor: Any, chat: Chat) -> Maps:
    """Return the maps of whichever methods the model has.

    Raises ValueError if it has neither, or the processor refuses the chat.
    """
    layers = model.get_decoder().layers
    traverses = bool(traversing_gates(model.get_decoder()))
    enlarges = any(getattr(getattr(layer, "self_attn", None), "phantom", None) is not None for layer in layers)
    if not traverses and not enlarges:
        raise ValueError("there is nothing to map: this model has neither TroL nor Phantom, it is a plain decoder")
    notes = []
    if not traverses:
        notes.append("This model has no TroL: no layer of it looks twice.")
    if not enlarges:
        notes.append("This model has no Phantom: nothing is added inside its attention.")
    return Maps(
        trace_traversal(model, processor, chat) if traverses else None,
        trace_phantom(model, processor, chat) if enlarges else None,
        tuple(notes),
    )


def maps_as_json(engine: Any, chat: Chat) -> dict[str, Any]:
    """Return the maps of a chat's prompt as JSON can hold them, with four significant digits.

    question, tokens [N], is_image [N]
    pictures   one {"width_px", "height_px", "positions" [rows][columns]} each, of indices into the tokens
    traversal  {"layers" [L], "ratios" [L][N]}, or None
    phantom    {"rows" [R] of {"layer", "pass"}, "by_token" [R][N], "by_head" [R][H]}, or None
    notes      what the model has not got, in words
    colours    the scale from 0 to 1, as "#rrggbb"
    Raises ValueError as `trace_maps` does.
    """
    maps = trace_maps(engine.model, engine.processor, chat)
    prompt = maps.prompt
    return {
        "object": "phantrol.explanation",
        "question": prompt.question,
        "tokens": list(prompt.tokens),
        "is_image": list(prompt.is_image),
        "pictures": [_picture(found) for found in maps.pictures],
        "traversal": maps.traversal
        and {"layers": list(maps.traversal.layers), "ratios": _numbers(maps.traversal.ratios)},
        "phantom": maps.phantom
        and {
            "rows": [{"layer": layer, "pass": number + 1} for layer, number in maps.phantom.rows],
            "by_token": _numbers(maps.phantom.by_token()),
            "by_head": _numbers(maps.phantom.by_head()),
        },
        "notes": list(maps.notes),
        "colours": [_hex(index / (COLOURS - 1)) for index in range(COLOURS)],
    }


def _picture(found: PictureTokens) -> dict[str, Any]:
    width, height = found.picture.size
    return {"width_px": width, "height_px": height, "positions": found.positions.tolist()}


def _numbers(values: Tensor) -> list[list[float]]:
    return [[float(f"{value:.4g}") for value in row] for row in values.tolist()]


def _hex(share: float) -> str:
    return "#{:02x}{:02x}{:02x}".format(*heat_colour(share))
