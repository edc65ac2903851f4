"""Adapters merged into the weights they adapt: what is left is a plain phantrol model that `phantrol.load` opens.

Adapters that were trained on quantised weights are merged into the full ones that these were made from: a low-rank
update rounded to 4 bits would be lost. The merged model so differs from the one that was trained by what quantising
costs, and by nothing else.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

from torch import nn
from transformers import set_seed

from phantrol.models.building import load
from phantrol.modifiers.partial_lora import PartlyAdapted
from phantrol.training.checkpoint import (
    RECIPE,
    Checkpoint,
    check_whole,
    checkpoint_at,
    last_whole_checkpoint,
    written_beside,
)
from phantrol.training.recipe import Recipe
from phantrol.training.recipe_json import recipe_from_json, recipe_text, recipe_to_json
from phantrol.training.weights import is_peft, load_weights, trained_tensors
from phantrol.whole_files import write_text

_ADAPTER = "adapter_config.json"
# kinds of PEFT that add to what a linear says, and do no more
_ADDING = {"LORA", "ADALORA", "LOHA", "LOKR", "VERA", "FOURIERFT", "HIRA", "RANDLORA", "VBLORA", "C3A"}


def merge(folder: str | Path, out: str | Path) -> Path:
    """Write a plain model of a run with adapters, or of one of its checkpoints, or of a folder that PEFT saved.

    folder  of a run the last whole checkpoint is taken; for another one, such as the best, name its folder
    out     a folder that does not exist yet
    Raises ValueError if there is nothing to merge, `out` exists, a checkpoint is not whole, or the adapters are of a
    kind that cannot be merged.
    """
    folder, out = Path(folder), Path(out)
    if out.exists():
        raise ValueError(f"{out} exists: choose another folder, or remove it")
    if (folder / _ADAPTER).is_file():
        model, processor, recipe = *_opened(folder), None
    else:
        model, processor, recipe = _restored(folder)
    merged = _merged(model).eval()
    with written_beside(out) as writing:
        merged.save_pretrained(writing)
        processor.save_pretrained(writing)
        if recipe is not None:
            write_text(writing / RECIPE, recipe_to_json(recipe))
    return out


def merged(model: Any, recipe: Recipe, patterns: Collection[str]) -> Any:
    """Return a model that was trained, without adapters: merged in place, or into full weights if it is quantised.

    patterns  of the parameters that the stages have trained
    """
    if not is_peft(model):
        return model
    if getattr(recipe.model, "weights", None) is not None:
        trained = trained_tensors(model, patterns)
        model, _ = _built(recipe)
        model.load_state_dict(trained, strict=False)
    return _merged(model)


def _merged(model: Any) -> Any:
    """Merge in place. Where the head is the weight of the word embeddings and only one of them has adapters, it becomes
    a weight of its own first: what is merged into the one would else be in the other too."""
    _check_partial(model)
    parts = model.get_output_embeddings(), model.get_input_embeddings()
    head, embeddings = (getattr(part, "base_layer", getattr(part, "original_module", part)) for part in parts)
    if head.weight is embeddings.weight and (head, embeddings) != parts:
        head.weight = nn.Parameter(head.weight.detach().clone())
    try:
        model = model.merge_and_unload()
    except Exception as error:  # PEFT and torch each have their own kind
        raise ValueError(f"these adapters cannot be merged: {_reason(error)}; use them unmerged, with PEFT") from error
    if model.get_output_embeddings().weight is not model.get_input_embeddings().weight:
        model.config.tie_word_embeddings = model.config.text_config.tie_word_embeddings = False
    return model


def _check_partial(model: Any) -> None:
    """Raise ValueError where adapters do more than add to what a linear with a partial LoRA says: PEFT would merge them
    into its weight, and not into what the partial LoRA adds for image tokens."""
    for name, layer in model.named_modules():
        if isinstance(getattr(layer, "base_layer", None), PartlyAdapted):
            variants = getattr(layer, "lora_variant", {}).values()  # of LoRA: DoRA and others
            kinds = {model.peft_config[adapter].peft_type.value for adapter in layer.active_adapters}
            kinds |= {type(variant).__name__.removesuffix("LinearVariant") for variant in variants}
            if others := sorted(kinds - _ADDING):
                raise ValueError(
                    f"{name}: got adapters of the kind {others[0]} on a linear with a partial LoRA, expected a kind "
                    "that adds to what it says and does no more, as plain LoRA; use these unmerged, with PEFT"
                )


def _restored(folder: Path) -> tuple[Any, Any, Recipe]:
    """Return (model with adapters on full weights, processor, recipe) as a checkpoint of a run holds them."""
    checkpoint = checkpoint_at(folder)
    run_dir = folder.absolute().parents[2] if checkpoint else folder
    if not (run_dir / RECIPE).is_file():
        raise ValueError(
            f"{folder}: got no {RECIPE} and no {_ADAPTER}, expected the folder of a run, one of its checkpoints, or "
            "what PEFT saved: there is nothing to merge"
        )
    recipe = recipe_from_json(recipe_text(run_dir / RECIPE))
    checkpoint = checkpoint or (last_whole_checkpoint(folder) if (folder / "stages").is_dir() else None)
    if getattr(recipe.model, "lora", None) is None or checkpoint is None:
        raise ValueError(
            f"{folder} has nothing to merge: expected a run with adapters and a checkpoint; a model that "
            "`phantrol train` has finished, RUN/final, is merged already"
        )
    return *_at(recipe, checkpoint), recipe


def _at(recipe: Recipe, checkpoint: Checkpoint) -> tuple[Any, Any]:
    check_whole(checkpoint.path)
    model, processor = _built(recipe)
    load_weights(model, recipe.patterns_until(checkpoint.stage), checkpoint.path)
    return model, processor


def _built(recipe: Recipe) -> tuple[Any, Any]:
    """Return the recipe's model as a run begins with it, but with full weights."""
    described = recipe.model.with_full_weights() if hasattr(recipe.model, "with_full_weights") else recipe.model
    set_seed(recipe.seed)
    return described.build()


def _opened(folder: Path) -> tuple[Any, Any]:
    """Return (model with adapters, processor) of a folder that PEFT saved beside or apart from its base."""
    try:
        from peft import PeftModel
    except ModuleNotFoundError:
        raise ValueError("merging adapters needs PEFT, which is not installed: pip install 'phantrol[lora]'") from None
    try:
        described = json.loads((folder / _ADAPTER).read_text("utf-8"))
    except ValueError as error:
        raise ValueError(f"{folder / _ADAPTER} is broken: {error}; copy it again") from None
    base = described.get("base_model_name_or_path") if isinstance(described, dict) else None
    if not isinstance(base, str) or not base:
        raise ValueError(f"{folder / _ADAPTER} names no base_model_name_or_path: write the folder of the base there")
    model, processor = load(base)
    try:
        return PeftModel.from_pretrained(model, str(folder)), processor
    except Exception as error:  # safetensors, PEFT and torch each have their own kind
        raise ValueError(
            f"{folder}: its adapters do not fit {base}, or are broken: {_reason(error)}; copy the folder again"
        ) from error


def _reason(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:200].rstrip(".")
