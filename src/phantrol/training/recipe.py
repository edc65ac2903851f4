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
from phantrol.training.overrides import arguments, override
from phantrol.training.precision import Precision

Schedule = Literal["cosine", "linear", "constant"]
Optimiser = Literal["adamw", "muon"]
Sharding = Literal["none", "fsdp", "zero2", "zero3"]


@dataclass(frozen=True)
class HeldOut:
    """Data that a stage does not learn from: their loss is measured at each checkpoint, and the best one is kept too.

    data    a Mixture, the same for every seed
    groups  so many of it, from its first on
    take    what the next stage and the final model go on from: the "last" weights, or those of the "best" checkpoint

    Raises ValueError for a field out of range.
    """

    data: Mixture
    groups: int = 64
    take: Literal["last", "best"] = "last"

    def __post_init__(self) -> None:
        _expect(
            "held_out", "data", self.data, isinstance(self.data, Mixture), "a Mixture(parts=((weight, source), ...))"
        )
        _expect("held_out", "groups", self.groups, _whole(self.groups, 1), "a whole number, at least 1")
        _expect("held_out", "take", self.take, self.take in ("last", "best"), "last or best")


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
    accumulation   micro-batches that a step is cut into; changes memory and time, not the result (but for
                   WordAlignment, which compares the rows of a micro-batch)
    schedule       of the learning rate after the warm-up: down to final_lr, or constant
    warmup_steps   steps in which the learning rate rises to lr; with fewer max_steps it does not get there
    weight_decay   of parameters with two dimensions or more
    max_grad_norm  gradients are scaled down to this norm
    optimiser      muon is Muon for the decoder's matrices, and AdamW for the rest
    lrs            (pattern, highest learning rate) for some of the trained parameters in place of lr; the first pattern
                   that a name matches counts. Their course is that of lr. Of adamw
    muon_lr        highest learning rate of the matrices that Muon has, whose steps are ten times AdamW's; None: 10·lr
    betas          of AdamW
    pack           sequences about one picture share one row (see data/packing.py)
    padding_free   a micro-batch is one row without padding, and its rows do not see each other: worth it where they
                   differ in length
    precision      bfloat16 computes under autocast, and the weights stay as they are; auto is bfloat16 where the device
                   multiplies it, and float32 elsewhere (see precision.py)
    gradient_checkpointing  compute activations again in the backward pass, to save memory
    feature_cache  a folder for the features of the vision tower, which must be frozen: a picture that comes again, in
                   this run or another, is not sent through it (see models/feature_cache.py)
    feature_cache_gb        what that folder may grow to
    held_out       data to measure the loss on at each checkpoint; None: the newest checkpoints are kept and no other

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
    lrs: tuple[tuple[str, float], ...] = ()
    betas: tuple[float, float] = (0.9, 0.999)
    pack: bool = True
    padding_free: bool = False
    precision: Precision = "float32"
    gradient_checkpointing: bool = False
    feature_cache: str | None = None
    feature_cache_gb: float = 50.0
    held_out: HeldOut | None = None

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
        for name in ("pack", "padding_free", "gradient_checkpointing"):
            _expect(where, name, getattr(self, name), isinstance(getattr(self, name), bool), "True or False")
        muon = self.muon_lr
        _expect(where, "muon_lr", muon, muon is None or (_number(muon) and muon > 0), "a positive number or None")
        pairs = isinstance(self.lrs, tuple) and all(_is_rate(pair) for pair in self.lrs)
        _expect(
            where, "lrs", self.lrs, pairs, 'pairs of a name pattern and a positive number, (("projector.*", 1e-3),)'
        )
        if self.lrs and self.optimiser == "muon":
            raise ValueError(f"{where}: got lrs with optimiser='muon', expected adamw; muon takes lr and muon_lr")
        for name in ("final_lr", "weight_decay", "feature_cache_gb"):
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
        if self.padding_free and self.loss.reads_rows:
            raise ValueError(
                f"{where}: got padding_free=True with {type(self.loss).__name__}, which takes a row for one picture; "
                "leave it out, there is no decoder to run"
            )
        _expect(where, "held_out", self.held_out, isinstance(self.held_out, HeldOut | None), "a HeldOut or None")
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
    keep_checkpoints   of each stage, the newest so many, and the best one where a stage has held-out data
    workers            processes that prepare batches, of each rank; 0 prepares them between steps; None: what the
                       machine has room for (training/workers.py). They change nothing but time
    report_to          integrations of transformers, such as ("tensorboard",); none by default. Trackio's project, and
                       W&B's unless WANDB_PROJECT names one, is phantrol; a stage is a run of its own there
    sharding           of several ranks: none holds the whole model on each; fsdp is torch's FSDP2, zero2 and zero3 are
                       DeepSpeed's. It changes memory and time, not the result (docs/scale.md)

    Raises ValueError for a field out of range.
    """

    model: Any
    stages: tuple[Stage, ...]
    seed: int = 0
    log_every_steps: int = 10
    save_every_steps: int = 500
    keep_checkpoints: int = 2
    workers: int | None = None
    report_to: tuple[str, ...] = ()
    sharding: Sharding = "none"

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
            is_open = name == "workers" and value is None
            _expect("recipe", name, value, is_open or _whole(value, least), f"a whole number, at least {least}")
        reports = isinstance(self.report_to, tuple) and all(isinstance(each, str) for each in self.report_to)
        _expect("recipe", "report_to", self.report_to, reports, 'a tuple of names, such as ("tensorboard",)')
        known = get_args(Sharding)
        _expect("recipe", "sharding", self.sharding, self.sharding in known, f"one of {', '.join(known)}")

    def patterns_until(self, number: int) -> tuple[str, ...]:
        """Return the patterns of the parameters that stages have trained when stage `number` has ended."""
        return tuple(pattern for stage in self.stages[: number + 1] for pattern in stage.train)

    def stage_seed(self, number: int) -> int:
        """Return the seed of stage `number`: it draws dropout and the order of the data."""
        return self.seed * 1000 + number


def load_recipe(name: str, overrides: Sequence[str] = ()) -> Recipe:
    """Return the recipe called `name`, or that of a user's .py file, with overrides such as `stages.0.lr=1e-4` applied.

    A key that is the name of an argument of `recipe()`, such as `root=pictures`, is passed to it as that.
    Raises ValueError for an unknown name, a file without `recipe`, an argument that is missing, or an override that
    does not fit.
    """
    function = find("recipes", name)
    given, others = arguments(function, overrides)
    recipe = function(**given)
    if not isinstance(recipe, Recipe):
        raise ValueError(f"{name}: recipe() returned {type(recipe).__name__}, expected a Recipe")
    return override(recipe, others)


def _expect(where: str, name: str, value: Any, holds: Any, expected: str) -> None:
    if not holds:
        raise ValueError(f"{where}: got {name}={value!r}, expected {expected}")


def _is_rate(pair: Any) -> bool:
    if not (isinstance(pair, tuple) and len(pair) == 2):
        return False
    pattern, lr = pair
    return isinstance(pattern, str) and pattern != "" and _number(lr) and lr > 0


def _whole(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
