"""What a recipe will take, estimated before anything is downloaded: memory by what it is for, and hours on named GPUs.

The model is made on shapes alone, with its adapters. One row goes forward and back through it as in training, with
every storage counted (as in models/memory.py) and every product of matrices (as in flops.py). What is not seen:
scratch memory inside of kernels, fragments, the communication of several GPUs, reading of data. So these are estimates.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from phantrol.data.mixture import Mixture
from phantrol.models.configuration import PhantrolConfig, num_image_tokens
from phantrol.models.memory import Watch
from phantrol.models.modeling import PhantrolForConditionalGeneration
from phantrol.models.output_head import output_head
from phantrol.models.quantised import backbone_linears
from phantrol.models.released.catalogue import release_named
from phantrol.ops.logprobs import chunk_rows, token_logprobs
from phantrol.training.flops import FlopCounter, named_peak
from phantrol.training.new_model import NewModel
from phantrol.training.optimiser import hidden_matrices
from phantrol.training.recipe import Recipe, Stage
from phantrol.training.recomputing import set_gradient_checkpointing
from phantrol.training.trainable import named_parameters, train_only

# name: (memory in 10^9 bytes, operations a second)
GPUS = {
    "A100 80GB": (80, named_peak("A100")),
    "H100 80GB": (80, named_peak("H100 SXM")),
    "H200 141GB": (141, named_peak("H200")),
    "RTX A6000 48GB": (48, named_peak("RTX A6000")),
    "RTX 4090 24GB": (24, named_peak("RTX 4090")),
    "RTX 3090 24GB": (24, named_peak("RTX 3090")),
}
UTILISATION = 0.3  # of those, in model FLOPs: what is computed again by checkpointing is not counted
BYTES_OF = {None: 4.0, "int8": 1.0, "nf4": 0.5 + 1 / 64 + 4 / (64 * 256)}  # of a weight; nf4 scales blocks of 64
FIXED_BYTES = 1.5e9  # of CUDA's context and PyTorch's kernels


@dataclass(frozen=True)
class RowShape:
    """What one row holds: `tiles` of its picture, tokens of its text, and of each of its answers."""

    tiles: int
    text_tokens: int = 256
    answer_tokens: int = 128


@dataclass(frozen=True)
class StageEstimate:
    """Bytes of one GPU that holds the whole model, and work of a stage.

    weights, gradients, optimiser  all rows share them;  activations  of one row, at the worst moment
    trained  parameters;  row_flops  forward and back;  rows  of the whole stage
    """

    name: str
    weights: float
    gradients: float
    optimiser: float
    activations: float
    trained: int
    row_flops: float
    rows: int

    @property
    def fixed_bytes(self) -> float:
        return FIXED_BYTES + self.weights + self.gradients + self.optimiser

    def hours(self, gpu: str, count: int = 8) -> float:
        """Return the hours on so many of a kind at UTILISATION."""
        return self.rows * self.row_flops / (GPUS[gpu][1] * count * UTILISATION) / 3600

    def rows_at_once(self, gpu: str) -> int:
        """Return how many rows fit on one GPU at a time; 0 if not even one does."""
        left = GPUS[gpu][0] * 1e9 - self.fixed_bytes
        return max(0, math.floor(left / self.activations))


def estimate(recipe: Recipe, row: RowShape | None = None) -> list[StageEstimate]:
    """Return what each stage takes. By default a row has as many tiles as the recipe cuts of one picture.

    Raises ValueError if the sizes of a part are not known here, naming it.
    """
    config = recipe_config(recipe)
    row = row or RowShape(most_tiles(recipe))
    return [_estimate(recipe, stage, config, row) for stage in recipe.stages]


def most_tiles(recipe: Recipe) -> int:
    """Return into how many tiles a picture may be cut, the thumbnail included."""
    if isinstance(recipe.model, NewModel):
        tiles = recipe.model.options.get("max_tiles", 1)
        return tiles + (tiles > 1 and recipe.model.options.get("thumbnail", True))
    release = release_named(recipe.model.folder)
    return release.max_tiles if release else 1


def recipe_config(recipe: Recipe) -> PhantrolConfig:
    """Return the configuration of the model that a recipe builds; nothing is downloaded.

    Raises ValueError as the model does, and for one that does not tell its configuration.
    """
    if not hasattr(recipe.model, "configuration"):
        raise ValueError(f"got a {type(recipe.model).__name__}, expected a NewModel or a SavedModel")
    return recipe.model.configuration()


def _estimate(recipe: Recipe, stage: Stage, config: PhantrolConfig, row: RowShape) -> StageEstimate:
    model, bare = _on_shapes(recipe, stage, config)
    linears = {f"{name}.weight" for name in backbone_linears(bare)}
    bits = BYTES_OF[getattr(recipe.model, "weights", None)]
    sizes = {
        id(p): (name.replace(".base_layer", ""), p.numel(), p.requires_grad) for name, p in named_parameters(model)
    }
    weights = sum(count * (bits if name in linears else 4.0) for name, count, _ in sizes.values())
    trained = sum(count for _, count, is_trained in sizes.values() if is_trained)
    matrices = hidden_matrices(bare) if stage.optimiser == "muon" else set()
    moments = sum(count * (4 if key in matrices else 8) for key, (_, count, of) in sizes.items() if of)
    activations, flops = measure_by_layers(recipe, stage, config, row)
    rows = round(stage.max_steps * stage.batch_size * _rows_of_a_group(stage.data))
    return StageEstimate(stage.name, weights, 4.0 * trained, float(moments), activations, trained, flops, rows)


def _rows_of_a_group(data: Mixture) -> float:
    """What rows of a group share is not taken off: so the hours are those of rows by themselves."""
    return sum(w * getattr(source, "together", 1) for w, source in data.parts) / sum(w for w, _ in data.parts)


def _on_shapes(recipe: Recipe, stage: Stage, config: PhantrolConfig) -> tuple[nn.Module, Any]:
    """Return the model with its adapters on the meta device, and the same without PEFT around it."""
    with torch.device("meta"):
        bare = PhantrolForConditionalGeneration(copy.deepcopy(config))
    model = bare if recipe.model.lora is None else recipe.model.lora.put_on(bare)
    train_only(model, stage.train)
    return model, bare


def measure_by_layers(recipe: Recipe, stage: Stage, config: PhantrolConfig, row: RowShape) -> tuple[float, float]:
    """As `measure`, of one layer and of two, of the decoder and of the tower, and so of all: they are alike."""
    depth = config.text_config.num_hidden_layers
    vision_depth = getattr(config.vision_config, "num_hidden_layers", 0)  # a convolutional tower has no such layers
    if any(modifier.get("layers", "all") != "all" for modifier in config.modifiers) or min(depth, vision_depth) < 2:
        return measure(recipe, stage, config, row)
    one, deeper, sees_deeper = (
        measure(recipe, stage, _cut(config, *layers), row) for layers in ((1, 1), (2, 1), (1, 2))
    )
    return tuple(
        a + (depth - 1) * (b - a) + (vision_depth - 1) * (c - a)
        for a, b, c in zip(one, deeper, sees_deeper, strict=True)
    )


def _cut(config: PhantrolConfig, depth: int, vision_depth: int) -> PhantrolConfig:
    config = copy.deepcopy(config)
    for part, layers in ((config.text_config, depth), (config.vision_config, vision_depth)):
        part.num_hidden_layers = layers
        if getattr(part, "layer_types", None):
            part.layer_types = part.layer_types[:layers]
    return config


def measure(recipe: Recipe, stage: Stage, config: PhantrolConfig, row: RowShape) -> tuple[float, float]:
    """Return the bytes that one row takes at the worst moment beside weights and gradients, and its operations."""
    model, bare = _on_shapes(recipe, stage, config)
    set_gradient_checkpointing(model, stage.gradient_checkpointing)
    image_tokens = num_image_tokens(config, row.tiles)
    with FakeTensorMode(allow_non_fake_inputs=True):
        bare.to_empty(device="cpu")
        model.train()
        for parameter in model.parameters():
            if parameter.requires_grad:  # gradients are counted apart: here each is gone as soon as it is there
                parameter.register_post_accumulate_grad_hook(lambda p: setattr(p, "grad", None))
        watch, counter = Watch(bare, image_tokens), FlopCounter()
        with watch, counter, _precision(stage):
            _step(bare, stage, row)
    return float(watch.take_peak()), float(counter.flops)


@contextmanager
def _precision(stage: Stage) -> Iterator[None]:
    with torch.autocast("cpu", torch.bfloat16, enabled=stage.precision != "float32"):
        yield


def _step(model: Any, stage: Stage, row: RowShape) -> None:
    """Forward and back, as in training: a picture, its question, an answer, and a wrong one behind it if wanted."""
    side, size = model.config.image_px, model.config.text_config.hidden_size
    answers = row.answer_tokens * (2 if stage.loss.needs_pairs else 1)
    features = model.get_image_features(torch.empty(row.tiles, 3, side, side)).flatten(0, 1)
    text = torch.empty(row.text_tokens + answers, size)
    embeddings = torch.cat([features.float(), text])[None]
    prompt = torch.empty(1, embeddings.shape[1], dtype=torch.bool)
    inputs = {"image_mask": prompt, "prompt_mask": prompt} if model.config.modifiers else {}
    inputs |= model.token_lookups(torch.empty(1, embeddings.shape[1], dtype=torch.long))
    hidden = model.get_decoder()(inputs_embeds=embeddings, use_cache=False, **inputs).last_hidden_state
    head, labels = output_head(model.language_model), torch.zeros(answers, dtype=torch.long)
    token_logprobs(
        hidden[0, -answers:], head, labels, chunk_rows(model.config.text_config.vocab_size)
    ).mean().backward()


def typical(recipe: Recipe) -> RowShape:
    """Return the row that hours are counted with: between the smallest and the largest number of tiles."""
    return RowShape(max(1, (1 + most_tiles(recipe)) // 2))
