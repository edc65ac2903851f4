"""What model a recipe trains: descriptions that load and draw nothing until `build` is called."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from phantrol.data.mixture import Mixture
from phantrol.models.building import build, load
from phantrol.models.packaged import PackagedDecoder
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
class Lora:
    """Low-rank adapters on linear layers of the decoder, through PEFT; merged into the model when training ends.

    rank, alpha  of W + alpha/rank·B·A;  dropout  of what goes into A;  targets  names of the linear layers
    """

    rank: int = 16
    alpha: int = 32
    dropout: float = 0.0
    targets: tuple[str, ...] = ("q_proj", "v_proj")

    def put_on(self, model: Any) -> Any:
        """Return the model with adapters. Raises ValueError if PEFT is not installed."""
        try:
            from peft import LoraConfig, get_peft_model
        except ImportError:
            raise ValueError("LoRA needs PEFT, which is not installed: pip install 'phantrol[lora]'") from None
        names = "|".join(re.escape(name) for name in self.targets)
        where = rf"language_model\..*\.({names})"
        config = LoraConfig(r=self.rank, lora_alpha=self.alpha, lora_dropout=self.dropout, target_modules=where)
        try:
            return get_peft_model(model, config)
        except ValueError as error:
            raise ValueError(f"Lora: {str(error).splitlines()[0]}") from None


@dataclass(frozen=True)
class NewModel:
    """A new model from two parts, each pretrained or drawn at random.

    text, vision  a folder or hub id, a part that a package carries, or a configuration as a mapping with its model_type
    modifiers     configurations of what is grafted on the decoder
    tokenizer     a folder or hub id, a TrainedTokenizer, or None: the one that comes with `text`
    options       further arguments of `phantrol.build`
    attention     the attention function to train with
    lora          adapters on the decoder, or None
    """

    text: str | PackagedDecoder | Mapping[str, Any]
    vision: str | Mapping[str, Any]
    modifiers: tuple[Any, ...] = ()
    tokenizer: str | TrainedTokenizer | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    attention: str = "sdpa"
    lora: Lora | None = None

    def build(self) -> tuple[Any, Any]:
        """Return (model, processor). Raises ValueError as `phantrol.build` does."""
        from transformers import AutoConfig, AutoTokenizer

        def part_of(part: str | PackagedDecoder | Mapping[str, Any]) -> Any:
            if isinstance(part, PackagedDecoder):
                return part.folder()
            return part if isinstance(part, str) else AutoConfig.for_model(**part)

        parts = [part_of(part) for part in (self.text, self.vision)]
        tokenizer = self.tokenizer
        if isinstance(tokenizer, TrainedTokenizer):
            tokenizer = tokenizer.build()
        elif isinstance(tokenizer, str):
            tokenizer = AutoTokenizer.from_pretrained(tokenizer)
        model, processor = build(*parts, self.modifiers, tokenizer=tokenizer, **self.options)
        model.set_attn_implementation(self.attention)
        return model if self.lora is None else self.lora.put_on(model), processor


@dataclass(frozen=True)
class SavedModel:
    """A model that was trained before: `folder` is what `phantrol train` wrote, or a hub id."""

    folder: str

    def build(self) -> tuple[Any, Any]:
        """Return (model, processor). Raises ValueError as `phantrol.load` does."""
        return load(self.folder)
