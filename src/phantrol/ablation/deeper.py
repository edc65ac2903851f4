"""A plain decoder with more layers: what the compute of a method buys when it is spent on depth."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from phantrol.ablation.changing import model_of, num_layers
from phantrol.cached import written_once
from phantrol.losses.word_alignment import WordAlignment
from phantrol.models.packaged import PackagedDecoder, write_model
from phantrol.training.new_model import SavedModel
from phantrol.training.recipe import Recipe


@dataclass(frozen=True)
class DeeperDecoder(PackagedDecoder):
    """A packaged decoder with further layers on top, which say nothing at the start.

    layers  in all. The further layers are copies of as many at the top, with the last map of their attention and of
            their feed-forward network at zero: the residual stream passes through unchanged, until they learn
    """

    layers: int = 0

    def folder(self) -> Path:
        source = super().folder()
        return written_once(
            f"{source.name}-{self.layers}-layers", lambda folder: _write_deeper(source, folder, self.layers)
        )


def match_compute(recipe: Recipe, flops: float, count: Callable[[Recipe], float]) -> Recipe:
    """Return the recipe with as many layers as bring `count(recipe)` nearest to `flops`, and never fewer.

    Raises ValueError if layers cannot be added to the recipe's decoder.
    """
    layers = num_layers(model_of(recipe))
    own, one_more = count(recipe), count(with_layers(recipe, layers + 1))
    added = max(0, round((flops - own) / (one_more - own)))
    return with_layers(recipe, layers + added) if added else recipe


def with_layers(recipe: Recipe, layers: int) -> Recipe:
    """Return the recipe with a decoder of `layers` layers; of a pretrained one the further layers are trained whole.

    Raises ValueError for a decoder that is neither a configuration nor packaged, or has more layers already.
    """
    model = model_of(recipe)
    now = num_layers(model)
    if layers < now:
        raise ValueError(f"the decoder has {now} layers: got {layers}, expected no fewer")
    text = model.folder if isinstance(model, SavedModel) else model.text
    if isinstance(text, Mapping):
        return replace(recipe, model=replace(model, text={**text, "num_hidden_layers": layers}))
    if not isinstance(text, PackagedDecoder):
        raise ValueError(
            f"the decoder {text} cannot be made deeper: expected a configuration or a PackagedDecoder; leave the "
            "variants plain_deeper out"
        )
    deeper = DeeperDecoder(text.package, text.file, text.remedy, layers)
    new = tuple(f"language_model.model.layers.{index}.*" for index in range(now, layers))
    stages = tuple(
        stage
        if "*" in stage.train or isinstance(stage.loss, WordAlignment)
        else replace(stage, train=stage.train + new)
        for stage in recipe.stages
    )
    return replace(recipe, model=replace(model, text=deeper), stages=stages)


def _write_deeper(source: Path, folder: Path, layers: int) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    plain = AutoModelForCausalLM.from_pretrained(source)
    config = type(plain.config).from_pretrained(source)
    config.num_hidden_layers = layers
    if getattr(config, "layer_types", None):
        config.layer_types = [config.layer_types[-1]] * layers
    deeper: Any = AutoModelForCausalLM.from_config(config, dtype=plain.dtype)
    below = plain.config.num_hidden_layers
    added = layers - below
    with torch.no_grad():
        weights = plain.state_dict()
        deeper.load_state_dict(weights, strict=False)
        for index in range(below, layers):
            layer = deeper.get_decoder().layers[index]
            copied = below - min(added, below) + (index - below) % below
            layer.load_state_dict(plain.get_decoder().layers[copied].state_dict())
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
    write_model(deeper, folder)
    AutoTokenizer.from_pretrained(source).save_pretrained(folder)
