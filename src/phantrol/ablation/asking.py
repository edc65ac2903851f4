"""Asking a trained model as its variant says: other tokens traverse, a method is taken out, another precision."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers.utils import logging

from phantrol.ablation.variants import Variant
from phantrol.data.primer.tasks import TASKS
from phantrol.data.sources.primer import PrimerSource
from phantrol.evals.benchmark import Benchmark
from phantrol.evals.benchmarks.primer import PrimerBenchmark
from phantrol.explain.traversal import trace_traversal
from phantrol.find import find
from phantrol.inference.engine import Engine
from phantrol.models.building import load
from phantrol.models.configuration import PhantrolConfig
from phantrol.models.modeling import PhantrolForConditionalGeneration
from phantrol.models.processing import PhantrolProcessor
from phantrol.modifiers.base import config_to_dict
from phantrol.modifiers.graft import modifier_configs
from phantrol.modifiers.trol import traversing_gates
from phantrol.training.precision import computing_dtype
from phantrol.training.ranks import process_state
from phantrol.training.recipe import Recipe

SPLITS = ("val", "test_comp", "test_style", "test_para")
METHODS_OWN = ("traversal_gate", ".phantom.")


def open_as_asked(folder: Path, variant: Variant) -> Engine:
    """Return an engine of a trained model with the modifiers and the precision that its variant is asked with.

    Raises ValueError if the folder is no whole model.
    """
    logging.disable_progress_bar()
    device = process_state().device
    options = {} if variant.precision is None else {"dtype": computing_dtype(variant.precision, device)}
    trained = modifier_configs(PhantrolConfig.from_pretrained(folder).text_config)
    asked = variant.modifiers_asked(trained)
    if asked == tuple(trained):
        model, processor = load(folder, **options)
    else:
        model, processor = _load_with(folder, asked, options), PhantrolProcessor.from_pretrained(folder)
    return Engine(model.to(device), processor)


def recipe_as_asked(recipe: Recipe, variant: Variant) -> Recipe:
    """Return the recipe with the modifiers that its model is asked with: what an answer costs."""
    trained = recipe.model.modifiers
    asked = None if trained is None else variant.modifiers_asked(trained)  # None: as the model was saved
    return replace(recipe, model=replace(recipe.model, modifiers=asked))


def observe(engine: Engine, chats: Sequence[Any]) -> dict[str, float]:
    """Return what became of the methods in a trained model: the ratio w over the prompts of some chats, and η."""
    found: dict[str, float] = {}
    if traversing_gates(engine.model.get_decoder()):
        ratios = torch.cat([trace_traversal(engine.model, engine.processor, chat).ratios.flatten() for chat in chats])
        found |= {"mean_w": float(ratios.mean()), "largest_w": float(ratios.max())}
    # its size: of either sign, seeds would cancel
    trained = engine.model.named_parameters()
    etas = [tensor.abs().item() for name, tensor in trained if name.endswith(".phantom.eta")]
    if etas:
        found |= {"mean_eta": sum(etas) / len(etas), "largest_eta": max(etas)}
    return found


def benchmark_for(recipe: Recipe, split: str, name: str | None = None) -> Benchmark:
    """Return what is asked in a split: what the recipe's last stage taught, on pictures of the kind that it drew.

    name  another benchmark, as for `find("benchmarks", ...)`
    Raises ValueError if the recipe does not train on Primer and no benchmark is named.
    """
    if name is not None:
        return find("benchmarks", name)()
    sources = primer_sources(recipe)
    if not sources:
        raise ValueError("the recipe's last stage does not train on Primer: name what to ask, with --benchmark")
    scenes = tuple(dict.fromkeys(scene for source in sources for scene in source.scenes))
    everything = PrimerBenchmark(size_px=sources[0].size_px, scenes=scenes, sprites=sources[0].sprites)
    taught = {task for source in sources for task, _ in source.tasks or ((task, 1.0) for task in TASKS)}
    if any(source.captions for source in sources):
        taught.add("captions")
    tasks = tuple(task for task in everything.tasks_of(split) if task in taught)
    if not tasks:
        raise ValueError(f"split {split} of Primer has none of the tasks that the recipe trains: choose other splits")
    return replace(everything, tasks=tasks)


def primer_sources(recipe: Recipe) -> list[PrimerSource]:
    """Return the sources of Primer that the recipe's last stage trains on."""
    return [source for _, source in recipe.stages[-1].data.parts if isinstance(source, PrimerSource)]


def family_of(task: str) -> str:
    """Return the family that a task belongs to; a task of another benchmark is one by itself."""
    return TASKS[task].family if task in TASKS else task


def _load_with(folder: Path, modifiers: Sequence[Any], options: dict[str, Any]) -> PhantrolForConditionalGeneration:
    config = PhantrolConfig.from_pretrained(folder)
    config.text_config.modifiers = [config_to_dict(modifier) for modifier in modifiers]
    loud = logging.get_verbosity()
    logging.set_verbosity_error()  # of tensors that are left over: they are meant to be
    try:
        model, report = PhantrolForConditionalGeneration.from_pretrained(
            folder, config=config, output_loading_info=True, **options
        )
    finally:
        logging.set_verbosity(loud)
    left = [key for key in report["unexpected_keys"] if not any(part in key for part in METHODS_OWN)]
    wrong = sorted([*left, *report["missing_keys"], *report["mismatched_keys"]])
    if wrong:
        raise ValueError(f"{folder} cannot be asked with {list(modifiers)}: {wrong[:3]} do not fit; train it again")
    return model.eval()
