"""What model a recipe trains: descriptions that load and draw nothing until `build` is called."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from phantrol.data.mixture import Mixture
from phantrol.models.building import build, load
from phantrol.models.tokenizer import train_tokenizer


@dataclass(frozen=True)
class TrainedTokenizer:
    """A tokenizer of its own, trained on what the first groups of a mixture say.

    data        the mixture;  groups  how many of its groups are read
    vocab_size  tokens, bytes and special tokens included
    """

    data: Mixture
    groups: int = 1000
    vocab_size: int = 512

    def build(self) -> Any:
        return train_tokenizer(self._texts(), self.vocab_size)

    def _texts(self) -> Iterator[str]:
        for index in range(self.groups):
            for example in self.data.group(index):
                yield from (message.text for message in example.messages)
                yield from (rejected.text for rejected in example.rejected)


@dataclass(frozen=True)
class NewModel:
    """A new model from two parts, each pretrained or drawn at random.

    text, vision  a folder or hub id, or a configuration as a mapping with its model_type
    modifiers     configurations of what is grafted on the decoder
    tokenizer     a folder or hub id, a TrainedTokenizer, or None: the one that comes with `text`
    options       further arguments of `phantrol.build`
    attention     the attention function to train with
    """

    text: str | Mapping[str, Any]
    vision: str | Mapping[str, Any]
    modifiers: tuple[Any, ...] = ()
    tokenizer: str | TrainedTokenizer | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    attention: str = "sdpa"

    def build(self) -> tuple[Any, Any]:
        """Return (model, processor). Raises ValueError as `phantrol.build` does."""
        from transformers import AutoConfig, AutoTokenizer

        parts = [part if isinstance(part, str) else AutoConfig.for_model(**part) for part in (self.text, self.vision)]
        tokenizer = self.tokenizer
        if isinstance(tokenizer, TrainedTokenizer):
            tokenizer = tokenizer.build()
        elif isinstance(tokenizer, str):
            tokenizer = AutoTokenizer.from_pretrained(tokenizer)
        model, processor = build(*parts, self.modifiers, tokenizer=tokenizer, **self.options)
        model.set_attn_implementation(self.attention)
        return model, processor


@dataclass(frozen=True)
class SavedModel:
    """A model that was trained before: `folder` is what `phantrol train` wrote, or a hub id."""

    folder: str

    def build(self) -> tuple[Any, Any]:
        """Return (model, processor). Raises ValueError as `phantrol.load` does."""
        return load(self.folder)
