"""One prompt run once through a model, with ears at some of its modules: what every map is made from.

N tokens of the prompt, H x W the grid of one picture's tokens.
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from phantrol.models.configuration import most_tokens
from phantrol.models.conversation import Chat, parts_of, pictures_of
from phantrol.models.image_processing import load_picture
from phantrol.ops.images import best_tile_grid

Hook = Callable[[nn.Module, Any, Any], None]


@dataclasses.dataclass(frozen=True)
class PictureTokens:
    """One picture of the chat and where its tokens stand.

    positions  [H, W] index into the N tokens, laid out as the picture is; without the tokens of a thumbnail
    """

    picture: Image.Image
    positions: Tensor


@dataclasses.dataclass(frozen=True)
class TracedPrompt:
    """The prompt of a chat, as a model reads it.

    question  the text of its last message
    tokens    N texts
    is_image  N flags
    inputs    input_ids [1, N], and pixel_values where there are pictures
    """

    question: str
    tokens: tuple[str, ...]
    is_image: tuple[bool, ...]
    pictures: tuple[PictureTokens, ...]
    inputs: dict[str, Tensor]

    def run(self, model: Any, hooks: Sequence[tuple[nn.Module, Hook]]) -> None:
        """Run the model once, without a cache; `hooks` are called as forward hooks, by this run alone.

        Other threads may use the model meanwhile: what they compute is not heard.
        """
        own = threading.get_ident()

        def only_here(hook: Hook) -> Hook:
            return lambda *said: hook(*said) if threading.get_ident() == own else None

        handles = [module.register_forward_hook(only_here(hook)) for module, hook in hooks]
        try:
            with torch.inference_mode():
                # nobody looks at the logits: those of one token are the fewest that can be asked for
                model.eval()(**self.inputs, use_cache=False, logits_to_keep=1)
        finally:
            for handle in handles:
                handle.remove()


def read_prompt(model: Any, processor: Any, chat: Chat) -> TracedPrompt:
    """Return the prompt of a chat; where it ends with a question, with the marker that opens the answer.

    Raises ValueError for a chat that the processor refuses, or one longer than what the model can read.
    """
    prompt = processor.encode(chat, add_generation_prompt=chat[-1]["role"] != "assistant")
    limit = most_tokens(model.config)
    if limit is not None and len(prompt.input_ids) > limit:
        raise ValueError(
            f"the prompt has {len(prompt.input_ids)} tokens, but the model reads at most {limit}: "
            "shorten the chat or show fewer pictures"
        )
    inputs = {"input_ids": torch.tensor([prompt.input_ids], device=model.device)}
    if prompt.pixel_values is not None:
        inputs["pixel_values"] = prompt.pixel_values.to(model.device)
    is_image = tuple(token == processor.image_token_id for token in prompt.input_ids)
    return TracedPrompt(
        question="".join(part["text"] for part in parts_of(chat[-1]) if part["type"] == "text"),
        tokens=tuple(processor.tokenizer.decode([token]) for token in prompt.input_ids),
        is_image=is_image,
        pictures=tuple(_lay_out(processor, chat, torch.tensor(is_image).nonzero().flatten())),
        inputs=inputs,
    )


def _lay_out(processor: Any, chat: Chat, positions: Tensor) -> list[PictureTokens]:
    """Cut the positions of all image tokens into pictures, and join the tiles of each to one grid."""
    options = processor.image_processor
    side = processor.image_grid // processor.unshuffle
    found, start = [], 0
    for picture in pictures_of(chat):
        picture = load_picture(picture, options.max_pixels)
        columns, rows = best_tile_grid(*picture.size, options.image_px, options.max_tiles)
        count = columns * rows * side * side
        grid = positions[start : start + count].view(rows, columns, side, side).transpose(1, 2)
        found.append(PictureTokens(picture, grid.reshape(rows * side, columns * side)))
        has_thumbnail = options.thumbnail and columns * rows > 1
        start += count + has_thumbnail * side * side
    assert start == len(positions)
    return found
