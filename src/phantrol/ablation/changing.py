"""Pure changes of a recipe: what is grafted, which loss a stage has, in what precision it computes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

import torch

from phantrol.data.sources.primer import PrimerSource
from phantrol.losses.phantom_optimization import PhantomOptimization
from phantrol.losses.sft import Sft
from phantrol.losses.word_alignment import WordAlignment
from phantrol.modifiers.phantom import PhantomConfig
from phantrol.modifiers.trol import TrolConfig
from phantrol.training.new_model import NewModel, SavedModel
from phantrol.training.precision import Precision, computing_dtype
from phantrol.training.recipe import Recipe, Stage

METHODS = {"trol": (TrolConfig, "*traversal_gate*"), "phantom": (PhantomConfig, "*.phantom.*")}
LOWER = {"lower half": 2, "lower quarter": 4}  # of so many equal parts of the layers, the first
PICTURES_OF_A_SEED = 10_000_000
Graftable = NewModel | SavedModel


def with_methods(recipe: Recipe, trol: Mapping[str, Any] | None, phantom: Mapping[str, Any] | None) -> Recipe:
    """Return the recipe with these methods grafted on its decoder and trained, and with no others.

    trol, phantom  None: without it. Else options that differ from the recipe's own configuration of it, or from the
                   defaults where it has none; `layers` may also be "lower half" or "lower quarter"

    Stages train the gates and the phantom dimension where the recipe trains either of them; where it has neither,
    in every stage that runs the decoder. Raises ValueError if the recipe's model takes no modifiers.
    """
    model = model_of(recipe)
    wanted = {name: options for name, options in (("trol", trol), ("phantom", phantom)) if options is not None}
    asked = model.modifiers or ()
    own = {type(config): config for config in asked}
    known = tuple(kind for kind, _ in METHODS.values())
    modifiers = [config for config in asked if not isinstance(config, known)]
    for name, options in wanted.items():
        kind = METHODS[name][0]
        modifiers.append(_configured(own.get(kind) or kind(), options, model))
    patterns = tuple(METHODS[name][1] for name in wanted)
    somewhere = any(_is_of_a_method(pattern) for stage in recipe.stages for pattern in stage.train)
    stages = tuple(_training(stage, patterns, somewhere) for stage in recipe.stages)
    return replace(recipe, model=replace(model, modifiers=tuple(modifiers)), stages=stages)


def with_preference(recipe: Recipe, wanted: bool) -> Recipe:
    """Return the recipe with or without Phantom Optimization, on the same data for as many steps.

    Without: the stages that have it imitate the right answers alone (SFT). With: they keep it; a recipe that has it
    nowhere gets it in the first stage that trains with SFT, which is the paper's step 1.
    Raises ValueError if it has no stage of either kind.
    """
    if not wanted:
        return replace(recipe, stages=tuple(_without(stage) for stage in recipe.stages))
    if any(isinstance(stage.loss, PhantomOptimization) for stage in recipe.stages):
        return recipe
    first = next((stage.name for stage in recipe.stages if isinstance(stage.loss, Sft)), None)
    if first is None:
        losses = ", ".join(f"{stage.name} ({type(stage.loss).__name__})" for stage in recipe.stages)
        raise ValueError(
            f"the recipe has no stage for Phantom Optimization: got {losses}, expected one with PhantomOptimization or "
            "Sft; leave the variants with _po out, or add such a stage"
        )
    stages = (replace(stage, loss=PhantomOptimization()) if stage.name == first else stage for stage in recipe.stages)
    return replace(recipe, stages=tuple(stages))


def with_precision(recipe: Recipe, precision: Precision | None) -> Recipe:
    """Return the recipe with every stage computing in `precision`; None: as they do."""
    if precision is None:
        return recipe
    return replace(recipe, stages=tuple(replace(stage, precision=precision) for stage in recipe.stages))


def with_settled_precision(recipe: Recipe, device: torch.device) -> Recipe:
    """Return the recipe with what "auto" means on a device written out, so that what computes alike trains once, and
    no seed of an experiment computes otherwise than another."""
    dtypes = (computing_dtype(stage.precision, device) for stage in recipe.stages)
    names = (str(dtype).removeprefix("torch.") for dtype in dtypes)
    stages = (replace(stage, precision=name) for stage, name in zip(recipe.stages, names, strict=True))
    return replace(recipe, stages=tuple(stages))


def with_seed(recipe: Recipe, number: int) -> Recipe:
    """Return the recipe for the seed so many after its own: other weights, and other data in another order.

    Primer is walked in its own order whatever the seed, so each seed begins at pictures of its own.
    """
    stages = []
    for stage in recipe.stages:
        parts = tuple((weight, _moved(source, number)) for weight, source in stage.data.parts)
        stages.append(replace(stage, data=replace(stage.data, parts=parts)))
    return replace(recipe, seed=recipe.seed + number, stages=tuple(stages))


def model_of(recipe: Recipe) -> Graftable:
    """Return the recipe's model. Raises ValueError if it is none that takes modifiers."""
    if not isinstance(recipe.model, Graftable):
        raise ValueError(
            f"the recipe's model is a {type(recipe.model).__name__}: expected a NewModel or a SavedModel, whose "
            "modifiers can change"
        )
    return recipe.model


def num_layers(model: Graftable) -> int:
    """Return how many layers the decoder has. Raises ValueError if its configuration does not say."""
    return model.configuration().text_config.num_hidden_layers


def _configured(config: Any, options: Mapping[str, Any], model: Graftable) -> Any:
    options = dict(options)
    unknown = sorted(set(options) - {field.name for field in fields(config)})
    if unknown:
        known = ", ".join(field.name for field in fields(config))
        raise ValueError(f"{type(config).__name__} has no option {', '.join(unknown)}: known are {known}")
    if options.get("layers") in LOWER:
        options["layers"] = tuple(range(max(1, num_layers(model) // LOWER[options["layers"]])))
    return replace(config, **options)


def _training(stage: Stage, patterns: Sequence[str], somewhere: bool) -> Stage:
    kept = tuple(pattern for pattern in stage.train if not _is_of_a_method(pattern))
    here = len(kept) < len(stage.train) if somewhere else not isinstance(stage.loss, WordAlignment)
    train = (*kept, *patterns) if here and "*" not in kept else kept
    if not train:
        raise ValueError(
            f"stage {stage.name!r} trains only {', '.join(stage.train)}, so that without the method nothing is left; "
            "let it train the projector too"
        )
    return replace(stage, train=train)


def _is_of_a_method(pattern: str) -> bool:
    return "traversal" in pattern or "phantom" in pattern


def _without(stage: Stage) -> Stage:
    return replace(stage, loss=Sft()) if isinstance(stage.loss, PhantomOptimization) else stage


def _moved(source: Any, number: int) -> Any:
    return (
        replace(source, start=source.start + number * PICTURES_OF_A_SEED)
        if isinstance(source, PrimerSource)
        else source
    )
