"""A tiny model whose six layers all traverse: what `scripts/measure_budget.py` takes passes away from.

    phantrol train scripts/budget_recipe.py --out runs/budget

`primer_tiny` with twice the layers, gates that begin half open, no Phantom, and the tasks that are learnt early.
"""

from __future__ import annotations

from dataclasses import replace

from phantrol.modifiers.trol import TrolConfig
from phantrol.recipes.primer_tiny import recipe as tiny
from phantrol.training.recipe import Recipe

LATE = "left_right"


def recipe() -> Recipe:
    base = tiny()
    align, tune, _ = base.stages
    parts = tuple(
        (weight, replace(source, tasks={name: share for name, share in dict(source.tasks).items() if name != LATE}))
        for weight, source in tune.data.parts
    )
    model = replace(base.model, text=base.model.text | {"num_hidden_layers": 6}, modifiers=(TrolConfig(gate_bias=0.0),))
    return Recipe(model, (align, replace(tune, data=replace(tune.data, parts=parts), max_steps=450)), seed=base.seed)
