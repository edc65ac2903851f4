"""What several ranks do together: who cuts a model into shards for them, and what they cannot share."""

from __future__ import annotations

import os
from datetime import timedelta
from importlib.util import find_spec

import torch
from accelerate import PartialState

from phantrol.training.recipe import Recipe
from phantrol.training.sharding import Sharding

ACCELERATE_SWITCHES = {"ACCELERATE_USE_FSDP": "fsdp", "ACCELERATE_USE_DEEPSPEED": "zero2 or sharding=zero3"}
# so long ranks wait for one that merges, checks checkpoints or downloads; torch gives them 10 minutes under NCCL
RANKS_WAIT = timedelta(hours=4)


def sharding_of(name: str, ranks: int) -> Sharding | None:
    """Return what `Recipe.sharding` names; None where each rank holds the whole model, as a single rank always does.

    Raises ValueError if it needs a package that is not there.
    """
    if name == "none" or ranks == 1:
        return None
    if name == "fsdp":
        from phantrol.training.sharding_fsdp import FullyShard

        return FullyShard()
    if find_spec("deepspeed") is None:
        raise ValueError(f"sharding={name}: got no package deepspeed, expected it; pip install 'phantrol[deepspeed]'")
    from phantrol.training.sharding_zero import Zero

    return Zero(int(name.removeprefix("zero")))


def check_ranks(recipe: Recipe, ranks: int) -> None:
    """Raise ValueError if a stage of a recipe cannot be shared by so many ranks and micro-batches."""
    is_sharded = sharding_of(recipe.sharding, ranks) is not None
    weights = getattr(recipe.model, "weights", None)
    if is_sharded and weights is not None and recipe.sharding != "fsdp":
        raise ValueError(
            f"got weights={weights!r} with sharding={recipe.sharding}, expected none or fsdp: DeepSpeed cannot hold "
            "quantised weights"
        )
    for stage in recipe.stages:
        where = f"stage {stage.name!r}"
        if stage.batch_size % (stage.accumulation * ranks):
            raise ValueError(
                f"{where}: got batch_size={stage.batch_size}, expected a multiple of accumulation × ranks = "
                f"{stage.accumulation} × {ranks}"
            )
        groups, fewest = stage.batch_size // (stage.accumulation * ranks), stage.loss.fewest_groups()
        if groups < fewest:
            raise ValueError(
                f"{where}: got {groups} of batch_size={stage.batch_size} in a micro-batch, expected at least {fewest}, "
                f"since {type(stage.loss).__name__} compares its rows; raise batch_size, or lower accumulation"
            )
        if is_sharded and stage.optimiser == "muon":
            raise ValueError(
                f"{where}: got optimiser='muon' with sharding, expected adamw, since Muon needs whole matrices; set "
                "sharding=none, or stages.*.optimiser=adamw"
            )
        if is_sharded and stage.feature_cache:
            raise ValueError(f"{where}: got feature_cache and sharding, expected one of them")


def check_launch() -> None:
    """Raise ValueError if accelerate was told to shard by itself.

    Its FSDP does nothing, and says nothing, on CPU ranks; and what it and its DeepSpeed save needs as many ranks again.
    """
    for switch, name in ACCELERATE_SWITCHES.items():
        if os.environ.get(switch, "").lower() in ("true", "1"):
            raise ValueError(
                f"got {switch}={os.environ[switch]} from `accelerate launch`, whose own sharding does nothing on CPU "
                f"ranks and ties checkpoints to the number of ranks; expected the recipe to choose: leave out "
                f"--use_{switch.rpartition('_')[2].lower()} and add sharding={name}"
            )


def is_in_group() -> bool:
    """Return whether Trainer wraps models for DDP: torchrun makes a group of one rank too."""
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def process_state() -> PartialState:
    """Return which rank this process is; without an accelerator several ranks are found only if told so."""
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    return PartialState(cpu=accelerator is None, timeout=RANKS_WAIT)
