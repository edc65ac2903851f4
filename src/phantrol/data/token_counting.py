"""How many tokens a row takes and how many of them the model must say, without decoding a single picture."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from phantrol.data.messages import Message
from phantrol.models.text_encoding import TextEncoder
from phantrol.ops.images import best_tile_grid

Size = tuple[int, int]  # width and height in pixels


@dataclass(frozen=True)
class Count:
    """num_tokens of the whole row, num_said: those that the model must say."""

    num_tokens: int
    num_said: int


class TokenCounter:
    """Counts as training will: by the processor itself, with pictures that have a size and no pixels.

    max_tokens  what the decoder was made for, or None if its configuration does not say
    """

    def __init__(self, processor: Any, max_tokens: int | None = None):
        self.processor, self.max_tokens = copy.copy(processor), max_tokens
        self.processor.image_processor = _TileCounter(processor.image_processor)
        if getattr(processor.tokenizer, "is_fast", False):
            self.processor._text = _QuickEncoder(processor.tokenizer)

    @classmethod
    def open(cls, model: str) -> TokenCounter:
        """Return the counter of a saved model, without loading its weights.

        Raises ValueError if its processor or its configuration cannot be loaded.
        """
        from transformers import AutoConfig

        from phantrol.models.processing import PhantrolProcessor

        try:
            processor = PhantrolProcessor.from_pretrained(model)
            config = AutoConfig.from_pretrained(model)
        except Exception as error:  # a missing file, a broken one, a hub out of reach: each has its own kind
            reason = " ".join(str(error).split())[:200]
            raise ValueError(f"no processor in {model}: expected a model that phantrol saved; {reason}") from error
        return cls(processor, getattr(config.get_text_config(), "max_position_embeddings", None))

    def __call__(self, messages: Sequence[Message], sizes: Sequence[Size]) -> Count:
        """Return the counts of a conversation.

        sizes  of its pictures, in their order. Raises ValueError for what the processor refuses.
        """
        left = iter(sizes)
        chat = [{"role": m.role, "content": [_part(part, left) for part in m.parts]} for m in messages]
        encoding = self.processor.encode(chat)
        return Count(len(encoding.input_ids), sum(encoding.answer_mask[1:]))


def _part(part: Any, sizes: Any) -> dict[str, Any]:
    return {"type": "text", "text": part} if isinstance(part, str) else {"type": "image", "image": _Sized(*next(sizes))}


@dataclass(frozen=True, eq=False)
class _Sized:
    width: int
    height: int


class _TileCounter:
    """In the place of the image processor: as many tiles, without pixels."""

    def __init__(self, image_processor: Any):
        self.of = image_processor

    def __call__(self, pictures: Sequence[_Sized]) -> dict[str, Any]:
        counts = [self._num_tiles(picture) for picture in pictures]
        return {"pixel_values": torch.empty(sum(counts), 0), "num_tiles": counts}

    def _num_tiles(self, picture: _Sized) -> int:
        columns, rows = best_tile_grid(picture.width, picture.height, self.of.image_px, self.of.max_tiles)
        return columns * rows + (self.of.thumbnail and columns * rows > 1)


class _QuickEncoder(TextEncoder):
    """The same ids, without what transformers wraps around them at each call: half of the time."""

    def __init__(self, tokenizer: Any):
        super().__init__(tokenizer)
        self._backend = copy.deepcopy(tokenizer.backend_tokenizer)
        self._backend.no_truncation()
        self._backend.no_padding()
        self._backend.encode_special_tokens = False

    def _plain(self, text: str) -> list[int]:
        return self._backend.encode_batch_fast([text], add_special_tokens=False)[0].ids if text else []
