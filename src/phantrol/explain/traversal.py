"""Where traversal happens: the ratio w of every token in every layer that looks twice.

L layers that traverse, N tokens of the prompt, H x W the grid of one picture's tokens.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from phantrol.models.conversation import Chat
from phantrol.models.image_processing import load_picture
from phantrol.ops.images import best_tile_grid


@dataclasses.dataclass(frozen=True)
class PictureTokens:
    """One picture of the chat and where its tokens stand.

    positions  [H, W] index into the N tokens, laid out as the picture is; without the tokens of a thumbnail
    """

    picture: Image.Image
    positions: Tensor


@dataclasses.dataclass(frozen=True)
class Traversal:
    """What the gates said about one prompt.

    question  the text of its last message
    ratios    [L, N] w: the share of the second pass in a token, 0 to 1. Raw, not stretched. With more than two passes
              it is the share of all later ones
    layers    L indices of decoder layers
    tokens    N texts
    is_image  N flags
    """

    question: str
    ratios: Tensor
    layers: tuple[int, ...]
    tokens: tuple[str, ...]
    is_image: tuple[bool, ...]
    pictures: tuple[PictureTokens, ...]

    def of_picture(self, index: int) -> Tensor:
        """Return the ratios of one picture's tokens: [L, H, W]."""
        return self.ratios[:, self.pictures[index].positions]


def stretch_layers(ratios: Tensor) -> Tensor:
    """Return ratios with each layer stretched to 0 ... 1, as the figure released with TroL shows them: [L, N] → [L, N].

    It shows which tokens a layer prefers, and hides how much it traverses at all: w from 0.001 to 0.002 then looks like
    0 to 1. A layer that treats all tokens alike becomes 0.
    """
    low, high = ratios.amin(-1, keepdim=True), ratios.amax(-1, keepdim=True)
    return torch.where(high > low, (ratios - low) / (high - low).clamp(min=torch.finfo(ratios.dtype).tiny), 0.0)


def trace_traversal(model: Any, processor: Any, chat: Chat) -> Traversal:
    """Run the model once over a chat and return what its gates said.

    chat  as for `Engine`; where it ends with a question, the marker that opens the answer is part of the prompt
    Raises ValueError if no layer of the model traverses.
    """
    decoder = model.get_decoder()
    # with a shared gate the layers hold one module between them, which is called once for each
    gates = {index: getattr(layer, "traversal_gate", None) for index, layer in enumerate(decoder.layers)}
    gates = {index: gate for index, gate in gates.items() if gate is not None}
    if not gates:
        raise ValueError("no layer of this model traverses: graft TrolConfig() on its decoder")
    prompt = processor.encode(chat, add_generation_prompt=chat[-1]["role"] != "assistant")
    inputs = {"input_ids": torch.tensor([prompt.input_ids], device=model.device)}
    if prompt.pixel_values is not None:
        inputs["pixel_values"] = prompt.pixel_values.to(model.device)
    said: list[Tensor] = []
    hooks = [gate.register_forward_hook(_collect_in(said)) for gate in dict.fromkeys(gates.values())]
    try:
        with torch.inference_mode():
            model.eval()(**inputs, use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
    ratios = torch.stack(said).view(len(gates), -1, len(prompt.input_ids))[:, 0]
    is_image = tuple(token == processor.image_token_id for token in prompt.input_ids)
    return Traversal(
        question="".join(part["text"] for part in _parts_of(chat[-1]) if part["type"] == "text"),
        ratios=ratios.clone(),
        layers=tuple(gates),
        tokens=tuple(processor.tokenizer.decode([token]) for token in prompt.input_ids),
        is_image=is_image,
        pictures=tuple(_lay_out(processor, chat, torch.tensor(is_image).nonzero().flatten())),
    )


def _collect_in(said: list[Tensor]) -> Any:
    def collect(gate: nn.Module, args: Any, ratio: Tensor) -> None:
        said.append(ratio[0, :, 0].float().cpu())

    return collect


def _lay_out(processor: Any, chat: Chat, positions: Tensor) -> list[PictureTokens]:
    """Cut the positions of all image tokens into pictures, and join the tiles of each to one grid."""
    options = processor.image_processor
    side = processor.image_grid // processor.unshuffle
    found, start = [], 0
    for picture in _pictures_of(chat):
        picture = load_picture(picture, options.max_pixels)
        columns, rows = best_tile_grid(*picture.size, options.image_px, options.max_tiles)
        count = columns * rows * side * side
        grid = positions[start : start + count].view(rows, columns, side, side).transpose(1, 2)
        found.append(PictureTokens(picture, grid.reshape(rows * side, columns * side)))
        has_thumbnail = options.thumbnail and columns * rows > 1
        start += count + has_thumbnail * side * side
    assert start == len(positions)
    return found


def _pictures_of(chat: Chat) -> list[Any]:
    parts = [part for message in chat for part in _parts_of(message) if part["type"] == "image"]
    return [part.get("image", part.get("path")) for part in parts]


def _parts_of(message: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    content = message["content"]
    return [{"type": "text", "text": content}] if isinstance(content, str) else content
