"""A model that sees already goes on, with both methods grafted on it: the second stage of `primer_smollm2`, shorter.

    phantrol ablate primer_smollm2 plain stages.align.max_steps=800 stages.tune.max_steps=300 --seeds 1 --out SEEING
    phantrol ablate primer_continued model=SEEING/runs/plain/seed-0/final plain both --out runs/continued

When a model that begins with nothing wakes is chance, and after a short training says more than any method does. From
one that is awake all variants start with the same weights, as do the papers' models, whose towers were taught before.
A fresh gate lets w = .12 of the second pass through, so that a method has a say from the first step on.

model  a folder of a plain model whose decoder is SmolLM2-135M-Instruct
"""

from __future__ import annotations

from dataclasses import replace

from phantrol.recipes import primer_smollm2
from phantrol.training.new_model import SavedModel
from phantrol.training.recipe import Recipe

FRESH = 5_000_000  # from here on Primer draws what the model has not been taught


def recipe(model: str) -> Recipe:
    new = primer_smollm2.recipe()
    tune = new.stages[-1]
    parts = tuple((weight, replace(source, start=FRESH)) for weight, source in tune.data.parts)
    tune = replace(tune, data=replace(tune.data, parts=parts), warmup_steps=20, max_steps=200)
    return Recipe(SavedModel(model, lora=new.model.lora, modifiers=new.model.modifiers), (tune,), seed=0)
