"""Models of several variants that start alike: what they have in common has the same weights under the same seed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch

from phantrol.ablation.changing import Graftable, model_of
from phantrol.training.new_model import Lora, Weights
from phantrol.training.recipe import Recipe


@dataclass(frozen=True)
class AlikeModel:
    """A model whose weights start as those of the plain one, wherever both have a tensor of one name and shape.

    What a modifier draws would otherwise move every number that is drawn after it, adapters included.
    """

    model: Graftable
    plain: Graftable

    @property
    def lora(self) -> Lora | None:
        return self.model.lora

    @property
    def weights(self) -> Weights:
        return self.model.weights

    def with_full_weights(self) -> AlikeModel:
        return AlikeModel(self.model.with_full_weights(), self.plain.with_full_weights())

    def build(self) -> tuple[Any, Any]:
        """Return (model, processor). Raises ValueError as the parts do."""
        generator = torch.get_rng_state()
        plain = self.plain.build()[0].state_dict()
        after = torch.get_rng_state()
        torch.set_rng_state(generator)
        model, processor = self.model.build()
        with torch.no_grad():
            for name, tensor in model.state_dict().items():
                if name in plain and plain[name].shape == tensor.shape:
                    tensor.copy_(plain[name])
        torch.set_rng_state(after)
        return model, processor


def started_alike(recipe: Recipe, plain: Recipe) -> Recipe:
    """Return the recipe with a model that starts as that of `plain`."""
    return replace(recipe, model=AlikeModel(model_of(recipe), model_of(plain)))
