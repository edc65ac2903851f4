"""A run as data: a Recipe is a model, stages one after another, and a seed. Nothing is loaded when one is made.

def recipe() -> Recipe:
    align = Stage("align", data=..., loss=PhantomOptimization(), train=("projector.*", "*phantom*"), ...)
    return Recipe(model=..., stages=(align, replace(align, name="tune", loss=Sft(), train=("*",))))
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, is_dataclass
from typing import Any, Literal, get_args

from phantrol.data.mixture import Mixture
from phantrol.find import find
from phantrol.losses.base import Loss

Schedule = Literal["cosine", "linear", "constant"]
Optimiser = Literal["adamw", "muon"]
Precision = Literal["float32", "bfloat16"]


@dataclass(frozen=True)
class Stage:
    """One stage: what is learnt from what, which parameters may change, and how fast.

    name           also the name of its folder
    data           a Mixture of sources
    loss           an instance of a class in `losses/`
    train          patterns (fnmatch) on parameter names: ("projector.*", "*traversal_gate*"), or ("*",) for all
    lr             highest learning rate
    max_steps      optimiser steps
    batch_size     groups a step, over all micro-batches and ranks
    accumulation   micro-batches that a step is cut into; changes memory and time, not the result
    schedule       of the learning rate after the warm-up: down to final_lr, or constant
    warmup_steps   steps in which the learning rate rises to lr; with fewer max_steps it does not get there
    weight_decay   of parameters with two dimensions or more
    max_grad_norm  gradients are scaled down to this norm
    optimiser      muon is torch's Muon for the decoder's matrices, and AdamW for the rest
    muon_lr        highest learning rate of the matrices that Muon has, whose steps are ten times AdamW's; None: 10·lr
    pack           sequences about one picture share one row (see data/packing.py)
    precision      bfloat16 computes under autocast; the weights stay as they are
    gradient_checkpointing  compute activations again in the backward pass, to save memory

    Raises ValueError for a field out of range.
    """

    name: str
    data: Mixture
    loss: Loss
    train: tuple[str, ...]
    lr: float
    max_steps: int
    batch_size: int
    accumulation: int = 1
    schedule: Schedule = "cosine"
    final_lr: float = 0.0
    warmup_steps: int = 0
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    optimiser: Optimiser = "adamw"
    muon_lr: float | None = None
    betas: tuple[float, float] = (0.9, 0.999)
    pack: bool = True
    precision: Precision = "float32"
    gradient_checkpointing: bool = False

    def __post_init__(self) -> None:
        where = f"stage {self.name!r}"
        if not (isinstance(self.name, str) and re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", self.name)):
            raise ValueError(f"stage name: got {self.name!r}, expected letters, digits, - and _ (it names a folder)")
        _expect(where, "data", self.data, isinstance(self.data, Mixture), "a Mixture(parts=((weight, source), ...))")
        _expect(where, "loss", self.loss, isinstance(self.loss, Loss), "an instance of a loss, such as Sft()")
        patterns = isinstance(self.train, tuple) and self.train and all(isinstance(p, str) and p for p in self.train)
        _expect(where, "train", self.train, patterns, 'a tuple of name patterns, such as ("projector.*",)')
        for name in ("max_steps", "batch_size", "accumulation"):
            _expect(where, name, getattr(self, name), _whole(getattr(self, name), 1), "a whole number, at least 1")
        _expect(where, "warmup_steps", self.warmup_steps, _whole(self.warmup_steps, 0), "a whole number, at least 0")
        _expect(where, "lr", self.lr, _number(self.lr) and self.lr > 0, "a positive number")
        muon = self.muon_lr
        _expect(where, "muon_lr", muon, muon is None or (_number(muon) and muon > 0), "a positive number or None")
        for name in ("final_lr", "weight_decay"):
            value = getattr(self, name)
            _expect(where, name, value, _number(value) and value >= 0, "a number, at least 0")
        norm = self.max_grad_norm
        _expect(where, "max_grad_norm", norm, _number(norm) and norm > 0, "a positive number")
        for name, kind in (("schedule", Schedule), ("optimiser", Optimiser), ("precision", Precision)):
            value = getattr(self, name)
            _expect(where, name, value, value in get_args(kind), f"one of {', '.join(get_args(kind))}")
        betas = (
            isinstance(self.betas, tuple)
            and len(self.betas) == 2
            and all(_number(b) and 0 <= b < 1 for b in self.betas)
        )
        _expect(where, "betas", self.betas, betas, "two numbers in [0, 1)")
        if self.final_lr > self.lr:
            raise ValueError(f"{where}: got final_lr={self.final_lr}, expected at most lr={self.lr}")
        if self.batch_size % self.accumulation:
            raise ValueError(
                f"{where}: got batch_size={self.batch_size}, expected a multiple of accumulation={self.accumulation}"
            )


@dataclass(frozen=True)
class Recipe:
    """A whole run.

    model              a frozen dataclass with `build() -> (model, processor)`
    stages             one after another, each starting from the weights of the one before
    seed               of weights, dropout and the order of the data
    log_every_steps    a line in metrics.jsonl is the mean over so many steps
    save_every_steps   a checkpoint after so many steps, and one at the end of each stage
    keep_checkpoints   of each stage, the newest so many
    workers            processes that prepare batches; 0 prepares them between steps
    report_to          integrations of transformers, such as ("tensorboard",); none by default

    Raises ValueError for a field out of range.
    """

    model: Any
    stages: tuple[Stage, ...]
    seed: int = 0
    log_every_steps: int = 10
    save_every_steps: int = 500
    keep_checkpoints: int = 2
    workers: int = 0
    report_to: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        describes = is_dataclass(self.model) and callable(getattr(self.model, "build", None))
        _expect("recipe", "model", self.model, describes, "a frozen dataclass with build() -> (model, processor)")
        stages = isinstance(self.stages, tuple) and self.stages and all(isinstance(s, Stage) for s in self.stages)
        _expect("recipe", "stages", self.stages, stages, "a tuple of at least one Stage")
        names = [stage.name for stage in self.stages]
        _expect("recipe", "stages", names, len(set(names)) == len(names), "names that differ")
        _expect("recipe", "seed", self.seed, _whole(self.seed, 0) and self.seed < 2**20, "0 to 1048575")
        for name, least in (("log_every_steps", 1), ("save_every_steps", 1), ("keep_checkpoints", 1), ("workers", 0)):
            value = getattr(self, name)
            _expect("recipe", name, value, _whole(value, least), f"a whole number, at least {least}")

    def stage_seed(self, number: int) -> int:
        """Return the seed of stage `number`: it draws dropout and the order of the data."""
        return self.seed * 1000 + number


def load_recipe(name: str, overrides: Sequence[str] = ()) -> Recipe:
    """Return the recipe called `name`, or that of a user's .py file, with overrides such as `stages.0.lr=1e-4` applied.

    Raises ValueError for an unknown name, a file without `recipe`, or an override that does not fit.
    """
    from phantrol.training.overrides import override

    recipe = find("recipes", name)()
    if not isinstance(recipe, Recipe):
        raise ValueError(f"{name}: recipe() returned {type(recipe).__name__}, expected a Recipe")
    return override(recipe, overrides)


def _expect(where: str, name: str, value: Any, holds: Any, expected: str) -> None:
    if not holds:
        raise ValueError(f"{where}: got {name}={value!r}, expected {expected}")


def _whole(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
