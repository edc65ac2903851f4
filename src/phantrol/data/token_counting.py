"""How many tokens a row takes and how many of them the model must say, without decoding a single picture."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from phantrol.data.messages import Message
from phantrol.data.quick_encoding import QuickEncoder
from phantrol.models.configuration import most_tokens, num_image_tokens
from phantrol.models.conversation import Turn, number_parts
from phantrol.models.text_encoding import MAX_REMEMBERED
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
        self._turns = lru_cache(MAX_REMEMBERED)(self._render)
        self._image_tokens = lru_cache(MAX_REMEMBERED)(self._count_image_tokens)
        if getattr(processor.tokenizer, "is_fast", False):
            self.processor._text = QuickEncoder(processor.tokenizer)

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
        return cls(processor, most_tokens(config))

    def __call__(self, messages: Sequence[Message], sizes: Sequence[Size]) -> Count:
        """Return the counts of a conversation.

        sizes  of its pictures, in their order. Raises ValueError for what the processor refuses.
        """
        shape = tuple((m.role, "".join("t" if isinstance(part, str) else "i" for part in m.parts)) for m in messages)
        texts = [(m.role, part) for m in messages for part in m.parts if isinstance(part, str)]
        num_tokens = num_said = 0
        for turn in self._turns(shape, tuple(m.role == "user" and not m.text.strip() for m in messages)):
            read, said, ends_turn = self.processor.read_and_said(turn, texts)
            num_read, pictures = len(read), [int(number) for kind, number in turn.prompt if kind == "image"]
            if pictures:
                tokens = [self._image_tokens(*sizes[number]) for number in pictures]
                num_read += sum(tokens) - len(pictures)
                if read.count(self.processor.image_token_id) != len(pictures):
                    self.processor._with_features(read, tokens)  # says what is wrong
            first_counts = num_tokens > 0 or num_read > 0  # nothing comes before the first token to predict it
            num_tokens += num_read + len(said)
            num_said += ends_turn + len(said) - (bool(said) and not first_counts)
        return Count(num_tokens, num_said)

    def _render(self, shape: tuple[tuple[str, str], ...], without_text: tuple[bool, ...]) -> list[Turn]:
        """Return the turns of a conversation of such roles and parts ("t" a text, "i" a picture): what it says does not
        matter to them."""
        parts = {"t": {"type": "text", "text": "a"}, "i": {"type": "image", "image": "a"}}
        silent = {"t": {"type": "text", "text": ""}, "i": parts["i"]}
        chat = [
            {"role": role, "content": [(silent if is_silent else parts)[kind] for kind in kinds]}
            for (role, kinds), is_silent in zip(shape, without_text, strict=True)
        ]
        messages, texts, _ = number_parts(chat)
        return self.processor._turns(messages, texts, False)

    def _count_image_tokens(self, width: int, height: int) -> int:
        cut = self.processor.image_processor
        columns, rows = best_tile_grid(width, height, cut.image_px, cut.max_tiles)
        return num_image_tokens(self.processor, columns * rows + (cut.thumbnail and columns * rows > 1))
