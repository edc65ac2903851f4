"""What model a recipe trains: descriptions that load and draw nothing until `build` is called."""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from phantrol.cached import written_once
from phantrol.data.mixture import Mixture
from phantrol.models.building import build, check_folder, check_parts, load, wanted_config
from phantrol.models.configuration import PhantrolConfig
from phantrol.models.packaged import PackagedDecoder, PackagedTower
from phantrol.models.parts import part_configuration
from phantrol.models.quantised import backbone_linears, quantise_for_adapters
from phantrol.models.released.base_parts import BasePart
from phantrol.models.released.catalogue import release_named
from phantrol.models.tokenizer import train_tokenizer
from phantrol.modifiers.base import check_list, config_to_dict, modifier_of
from phantrol.modifiers.graft import graft, modifier_configs, same_modifiers
from phantrol.tables import first_line

Carried = PackagedDecoder | PackagedTower | BasePart  # what makes a folder of its own
Weights = Literal["int8", "nf4"] | None


@dataclass(frozen=True)
class TrainedTokenizer:
    """A tokenizer of its own, trained on what the first groups of a mixture say.

    data        the mixture;  groups  how many of its groups are read
    vocab_size  tokens, bytes and special tokens included

    Raises ValueError for fewer groups than one.
    """

    data: Mixture
    groups: int = 1000
    vocab_size: int = 512

    def __post_init__(self) -> None:
        if isinstance(self.groups, bool) or not isinstance(self.groups, int) or self.groups < 1:
            raise ValueError(f"TrainedTokenizer: got groups={self.groups!r}, expected at least 1, to learn from")

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

    rank, alpha  of W + alpha/rank·B·A;  dropout  of what goes into A
    targets      names of the linear layers, or ("all",): each one that the plain backbone has in its layers
    vision       adapters on the linear layers of the vision tower too

    Raises ValueError for a number out of range.
    """

    rank: int = 16
    alpha: int = 32
    dropout: float = 0.0
    targets: tuple[str, ...] = ("q_proj", "v_proj")
    vision: bool = False

    def __post_init__(self) -> None:
        whole = isinstance(self.rank, int) and _is_number(self.rank) and self.rank >= 1
        positive = _is_number(self.alpha) and 0 < self.alpha < math.inf
        share = _is_number(self.dropout) and 0 <= self.dropout < 1
        for name, holds, expected in (
            ("rank", whole, "a whole number, at least 1"),
            ("alpha", positive, "a positive number"),
            ("dropout", share, "a number in [0, 1)"),
        ):
            if not holds:
                raise ValueError(f"Lora: got {name}={getattr(self, name)!r}, expected {expected}")

    def put_on(self, model: Any) -> Any:
        """Return the model with adapters. Raises ValueError if PEFT is not installed."""
        try:
            from peft import LoraConfig, get_peft_model
        except ImportError:
            raise ValueError("LoRA needs PEFT, which is not installed: pip install 'phantrol[lora]'") from None
        where = self._where(model)
        config = LoraConfig(r=self.rank, lora_alpha=self.alpha, lora_dropout=self.dropout, target_modules=where)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", FutureWarning)  # it asks transformers 5.23 by an old name
                warnings.filterwarnings("ignore", "TorchaoLoraLinear was", UserWarning)  # merging.py merges
                return get_peft_model(model, config)
        except ValueError as error:
            raise ValueError(f"Lora: {first_line(error)}") from None

    def _where(self, model: Any) -> str:
        """Return a pattern of the names of the layers that are adapted: those of the backbone, since what modifiers
        bring (of a phantom, maps that are named alike) is trained itself."""
        linears = backbone_linears(model)
        found = {
            target: {name for name in linears if target == "all" or name.endswith(f".{target}")}
            for target in self.targets
        }
        unknown = [target for target, names in found.items() if not names]
        if unknown or not found:
            raise ValueError(
                f"Lora: Target modules {unknown} name no linear layer of the decoder: expected names such as "
                "q_proj, or ('all',)"
            )
        where = [re.escape(name) for name in sorted(set().union(*found.values()))]
        if self.vision:
            tower = (name for name, module in model.vision_tower.named_modules() if isinstance(module, nn.Linear))
            where += [re.escape(f"vision_tower.{name}") for name in tower]
        return "|".join(where)


@dataclass(frozen=True)
class NewModel:
    """A new model from two parts, each pretrained or drawn at random.

    text, vision  a folder or hub id, a part that a package carries or that the hub has in another form, or a
                  configuration as a mapping with its model_type
    modifiers     configurations of what is grafted on the decoder
    tokenizer     a folder or hub id, a TrainedTokenizer, or None: the one that comes with `text`
    options       further arguments of `phantrol.build`
    attention     the attention function to train with
    lora          adapters, or None
    weights       "int8" or "nf4": of the decoder's linear maps under the adapters, which alone are then trained of it;
                  what is saved in the end is merged into the full weights (see `merging.py`)

    Raises ValueError for quantised weights without adapters, and modifiers that are no list.
    """

    text: str | Carried | Mapping[str, Any]
    vision: str | Carried | Mapping[str, Any]
    modifiers: tuple[Any, ...] = ()
    tokenizer: str | TrainedTokenizer | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    attention: str = "sdpa"
    lora: Lora | None = None
    weights: Weights = None

    def __post_init__(self) -> None:
        _check_weights(self.weights, self.lora)
        check_list(self.modifiers)

    def with_full_weights(self) -> NewModel:
        """Return the same model, not quantised."""
        return replace(self, weights=None)

    def build(self) -> tuple[Any, Any]:
        """Return (model, processor). Raises ValueError as `phantrol.build` does."""
        parts = [part.folder() if isinstance(part, Carried) else part for part in (self.text, self.vision)]
        tokenizer = self.tokenizer.build() if isinstance(self.tokenizer, TrainedTokenizer) else self.tokenizer
        model, processor = build(*parts, self.modifiers, tokenizer=tokenizer, **self.options)
        model.set_attn_implementation(self.attention)
        return _adapted(model, self.lora, self.weights), processor

    def configuration(self) -> PhantrolConfig:
        """Return the configuration of the model that `build` makes; no weights are downloaded.

        Raises ValueError if the sizes of a part are not known here, or parts or modifiers do not fit together.
        """
        text, vision = (_configuration_of(name, getattr(self, name)) for name in ("text", "vision"))
        check_parts(text, vision, self.modifiers)
        return wanted_config(_with_modifiers(text, self.modifiers), vision, **self.options)


@dataclass(frozen=True)
class SavedModel:
    """A model that was trained before.

    folder  what `phantrol train` or `phantrol convert` wrote, a hub id of such, or the name of a release, such as
            Phantom-0.5B, which is then converted into the cache folder; a folder of that name goes before
    lora    adapters, or None;  weights  as of a NewModel
    modifiers  None: as it was saved. Else what is grafted on the decoder, if it was saved plain; one that was saved
               with the same keeps it
    attention  "sdpa", "eager" or "flash_attention_2"; None: what transformers chooses

    Raises ValueError for quantised weights without adapters, and modifiers that are no list.
    """

    folder: str
    lora: Lora | None = None
    weights: Weights = None
    modifiers: tuple[Any, ...] | None = None
    attention: str | None = None

    def __post_init__(self) -> None:
        _check_weights(self.weights, self.lora)
        if self.modifiers is not None:
            check_list(self.modifiers)

    def with_full_weights(self) -> SavedModel:
        """Return the same model, not quantised."""
        return replace(self, weights=None)

    def build(self) -> tuple[Any, Any]:
        """Return (model, processor), in float32 whatever it was saved in, which AdamW's small steps would be lost in.
        Raises ValueError as `phantrol.load`, `convert` and `graft` do, and for other modifiers than the folder has."""
        model, processor = load(self._opened(), dtype=torch.float32)
        if self._grafts(model.config):
            graft(model, self.modifiers)
        if self.attention is not None:
            model.set_attn_implementation(self.attention)
        return _adapted(model, self.lora, self.weights), processor

    def configuration(self) -> PhantrolConfig:
        """Return the configuration of the model that `build` makes; of a release nothing is downloaded.

        Raises ValueError if it is not here, or another model's, and as `build` does for modifiers.
        """
        if release := release_named(self.folder):
            from phantrol.models.released.layout import read_layout

            config = read_layout(release.config, {}).config
        else:
            if Path(self.folder).is_dir():  # transformers would make ours of any, with sizes by default
                check_folder(Path(self.folder))
            try:
                config = PhantrolConfig.from_pretrained(self.folder)
            except (OSError, TypeError) as error:
                raise ValueError(f"the sizes of {self.folder} are not here: {first_line(error)}") from None
        if self._grafts(config):
            _with_modifiers(config.text_config, self.modifiers)
        return config

    def _grafts(self, config: PhantrolConfig) -> bool:
        """Whether the modifiers are still to be grafted on what has this configuration."""
        saved = modifier_configs(config.text_config)
        for each in self.modifiers or ():
            modifier_of(each, config.text_config.num_hidden_layers)
        if self.modifiers is None or not saved:
            return bool(self.modifiers)
        if not same_modifiers(saved, self.modifiers):
            raise ValueError(
                f"{self.folder} was saved with {saved}: got modifiers={list(self.modifiers)}, expected the same, or "
                "None; only a plain model can be given others"
            )
        return False

    def _opened(self) -> str | Path:
        release = release_named(self.folder)
        if release is None:
            return self.folder
        from phantrol.models.released.convert import convert

        return written_once(release.name, lambda folder: convert(release.hub_id, folder))


def _check_weights(weights: Weights, lora: Lora | None) -> None:
    if weights is not None and lora is None:
        raise ValueError(f"got weights={weights!r} and no lora, expected adapters: quantised weights are not trained")


def _configuration_of(name: str, part: Any) -> Any:
    if isinstance(part, BasePart):
        return part.configuration()
    return part_configuration(name, part.folder() if isinstance(part, Carried) else part)


def _with_modifiers(config: Any, modifiers: Sequence[Any]) -> Any:
    """Write into a decoder's configuration what is grafted on it."""
    config.modifiers = [config_to_dict(each) for each in modifiers]
    return config


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _adapted(model: Any, lora: Lora | None, weights: Weights) -> Any:
    if weights is not None:
        quantise_for_adapters(model, weights)
    return model if lora is None else lora.put_on(model)
