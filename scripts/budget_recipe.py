"""A tiny model whose second passes cannot be closed: what `scripts/measure_budget.py` takes them away from.

    phantrol train scripts/budget_recipe.py --out runs/budget

`primer_tiny` with twice the layers, all of which traverse, no Phantom, and the tasks that are learnt early. The gates
stay half open, as they begin; `model.modifiers.0.gate_bias=10` opens them wholly. Where they learn too, they close.
"""

from __future__ import annotations

from dataclasses import replace

from phantrol.modifiers.trol import TrolConfig
from phantrol.recipes.primer_tiny import recipe as tiny
from phantrol.training.recipe import Recipe

LATE = "left_right"
ALL_BUT_GATES = ("vision_tower.*", "projector.*", "positions.*", "*embed_tokens*", "*norm.*", "*self_attn.*", "*mlp.*")


def recipe() -> Recipe:
    base = tiny()
    align, tune, _ = base.stages
    parts = tuple(
        (weight, replace(source, tasks={name: share for name, share in dict(source.tasks).items() if name != LATE}))
        for weight, source in tune.data.parts
    )
    model = replace(base.model, text=base.model.text | {"num_hidden_layers": 6}, modifiers=(TrolConfig(gate_bias=0.0),))
    tune = replace(tune, data=replace(tune.data, parts=parts), train=ALL_BUT_GATES, max_steps=450)
    return Recipe(model, (align, tune), seed=base.seed)
