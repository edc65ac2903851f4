"""What a recipe costs: parameters, and the FLOPs of its training and of an answer, counted while the model computes.

Counted are matrix products, attention and convolutions (`torch.utils.flop_counter`); a multiply and an add are two.
The optimiser's own work is left out.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from functools import cache
from pathlib import Path
from typing import Any

from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from phantrol.data.mixture import Group, Groups
from phantrol.data.skipping import read_groups
from phantrol.evals.fingerprints import prompt_sha256
from phantrol.inference.engine import Engine
from phantrol.training.merging import merged
from phantrol.training.recipe import Recipe, Stage
from phantrol.training.recipe_json import recipe_from_json, recipe_to_json
from phantrol.training.recomputing import set_gradient_checkpointing
from phantrol.training.reference import Reference
from phantrol.training.stage_collator import collator
from phantrol.training.trainable import train_only
from phantrol.whole_files import write_text

COUNTED_GROUPS = 2  # of a batch; the rest is taken to cost as much
ANSWER_TOKENS = 4


def training_flops(recipe: Recipe) -> float:
    """Return the FLOPs of forward and backward passes over all stages, from groups of each stage's first batch."""
    return _training_flops(recipe_to_json(_counted(recipe)))


def answering_costs(recipe: Recipe, chats: Sequence[Any]) -> dict[str, float]:
    """Return the parameters of the model as it answers, adapters merged, and the FLOPs of an answer.

    answer_flops  mean over the chats, for ANSWER_TOKENS tokens, with the cache
    """
    recipe = _plainly_built(recipe)
    model, processor = recipe.model.build()
    engine = Engine(merged(model, recipe, ()), processor)
    with FlopCounterMode(display=False) as counter:
        for chat in chats:
            engine.answer(chat, max_new_tokens=ANSWER_TOKENS, min_new_tokens=ANSWER_TOKENS)
    parameters = sum(parameter.numel() for parameter in engine.model.parameters())
    return {"parameters": parameters, "answer_flops": counter.get_total_flops() / len(chats)}


class CostBook:
    """Costs that were counted, kept in a file, so that a leg of the experiment does not count again.

    path  a JSON file, which may not be there yet; None keeps nothing
    """

    def __init__(self, path: Path | None = None):
        self.path = path
        self._known: dict[str, Any] = json.loads(path.read_text("utf-8")) if path and path.is_file() else {}

    def training_flops(self, recipe: Recipe) -> float:
        return self._look_up(f"training {digest(_counted(recipe))}", lambda: training_flops(recipe))

    def answering_costs(self, recipe: Recipe, chats: Sequence[Any]) -> dict[str, float]:
        asked = _digest(" ".join(map(prompt_sha256, chats)))  # a longer chat costs more
        return self._look_up(f"answering {_digest_of_model(recipe)} {asked}", lambda: answering_costs(recipe, chats))

    def _look_up(self, key: str, count: Callable[[], Any]) -> Any:
        if key not in self._known:
            self._known[key] = count()
            if self.path is not None:
                write_text(self.path, json.dumps(self._known, indent=1))
        return self._known[key]


def digest(recipe: Recipe) -> str:
    """Return what tells recipes apart, in 16 letters."""
    return _digest(recipe_to_json(recipe))


def _digest_of_model(recipe: Recipe) -> str:
    """What tells models apart: an answer costs as much however its model was trained."""
    return _digest(json.dumps(json.loads(recipe_to_json(recipe))["model"]))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _counted(recipe: Recipe) -> Recipe:
    """The recipe without what makes no difference to a count: the seed, and in what precision is computed."""
    stages = tuple(replace(stage, precision="float32") for stage in recipe.stages)
    return replace(recipe, seed=0, stages=stages)


@cache
def _training_flops(text: str) -> float:
    recipe = _plainly_built(recipe_from_json(text))
    model, processor = recipe.model.build()
    return sum(_stage_flops(model, processor, recipe, number) for number in range(len(recipe.stages)))


def _stage_flops(model: nn.Module, processor: Any, recipe: Recipe, number: int) -> float:
    stage = recipe.stages[number]
    train_only(model, stage.train)
    set_gradient_checkpointing(model, stage.gradient_checkpointing)
    batch = collator(model, processor, stage)(_counted_groups(stage, recipe.stage_seed(number)))
    reference = Reference(model) if stage.loss.needs_reference else None
    model.train()
    with FlopCounterMode(display=False) as counter:
        if reference is not None:
            batch["reference_logprobs"] = reference(model, batch)
        loss = stage.loss(model, batch, stage.loss.count(batch)).loss
        if loss.requires_grad:  # or else nothing that is trained took part, as in text alone for the projector
            loss.backward()
    model.zero_grad()
    return counter.get_total_flops() * stage.batch_size / COUNTED_GROUPS * stage.max_steps


def _counted_groups(stage: Stage, seed: int) -> list[Group]:
    """The first groups. If they are text alone, the last gives its place to the next with a picture in the first batch:
    text would leave out the tower, and what is trained behind pictures alone."""
    groups = Groups(stage.data, seed, max(stage.batch_size, COUNTED_GROUPS))
    counted = read_groups(groups, range(COUNTED_GROUPS))
    if not any(map(_has_picture, counted)):
        later = (read_groups(groups, [index])[0] for index in range(COUNTED_GROUPS, len(groups)))
        counted[-1] = next(filter(_has_picture, later), counted[-1])
    return counted


def _has_picture(group: Group) -> bool:
    return any(message.pictures for example in group for message in example.messages)


def _plainly_built(recipe: Recipe) -> Recipe:
    """The recipe with attention as products of matrices, which are counted alike on every machine, and full weights:
    quantised ones multiply the same matrices, and adapters on them cannot be merged."""
    wanted = {"attention": "eager", "weights": None}
    known = {field.name for field in fields(recipe.model)}
    return replace(recipe, model=replace(recipe.model, **{k: v for k, v in wanted.items() if k in known}))
