"""transformers' Trainer for a model in shards: cut before the optimiser is made, gathered for each checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader
from transformers import Trainer, set_seed
from transformers.trainer import OPTIMIZER_NAME, SCHEDULER_NAME

from phantrol.training.sharding import Sharding, with_idle_picture
from phantrol.training.weights import saved_names


class ShardedTrainer(Trainer):
    """A Trainer that a `Sharding` may cut the model of; with `sharding = None` it is Trainer itself.

    Subclasses set `sharding` before they call `__init__`, and `patterns` and `reference` after it; and where DDP wraps
    the model, `behind_pictures`: the trained parameters that text alone never reaches.
    """

    sharding: Sharding | None = None
    patterns: tuple[str, ...] = ()
    behind_pictures: Sequence[nn.Parameter] = ()

    def _move_model_to_device(self, model: nn.Module, device: torch.device) -> None:
        if self.sharding is None:  # or else the whole model would have to fit
            super()._move_model_to_device(model, device)

    def _prepare_for_training(
        self, max_steps: int, train_dataloader: DataLoader, resume_from_checkpoint: str | None
    ) -> tuple[nn.Module, DataLoader]:
        if self.sharding is None:
            return super()._prepare_for_training(max_steps, train_dataloader, resume_from_checkpoint)
        self.sharding.cut(self)
        prepared = super()._prepare_for_training(max_steps, train_dataloader, None)
        self._load_optimizer_and_scheduler(resume_from_checkpoint)
        return prepared

    def _prepare_inputs(self, inputs: dict[str, Any]) -> dict[str, Any]:
        inputs = super()._prepare_inputs(inputs)
        needs_picture = self.sharding is not None or self.behind_pictures
        return with_idle_picture(inputs, self.model) if needs_picture else inputs

    def _clip_grad_norm(self, model: nn.Module) -> Any:
        if self.sharding is None:
            return super()._clip_grad_norm(model)
        return self.sharding.clip(model, self.args.max_grad_norm)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        if self.sharding is None:
            super().save_model(output_dir, _internal_call)
            return
        model = self.accelerator.unwrap_model(self.model)
        names = saved_names(model, self.patterns)
        state = self.sharding.weights(model, names.__contains__, self.args.should_save)
        if self.args.should_save:
            self._save(output_dir or self.args.output_dir, state)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if self.sharding is None:
            super()._save_optimizer_and_scheduler(output_dir)
            return
        state = self.sharding.optimiser_state(self.optimizer)
        if self.args.should_save:
            torch.save(state, Path(output_dir) / OPTIMIZER_NAME)
            torch.save(self.lr_scheduler.state_dict(), Path(output_dir) / SCHEDULER_NAME)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        """Differs: Trainer of transformers 5.17 asks for "cpu:0" where ranks have CPUs, which torch does not know."""
        if checkpoint is None:
            return
        state = torch.load(Path(checkpoint) / OPTIMIZER_NAME, map_location="cpu", weights_only=True, mmap=True)
        if self.sharding is None:
            self.optimizer.load_state_dict(state)
        else:
            self.sharding.load_optimiser(self.optimizer, state)
        self.lr_scheduler.load_state_dict(torch.load(Path(checkpoint) / SCHEDULER_NAME, weights_only=True))

    def _load_rng_state(self, checkpoint: str | None) -> None:
        """Go on drawing where each rank was, or, where there were fewer or more of them, from a new seed for each."""
        if checkpoint is None:
            return
        saved, ranks = len(list(Path(checkpoint).glob("rng_state*.pth"))), self.args.world_size
        if saved == ranks:
            super()._load_rng_state(checkpoint)
        else:
            set_seed((self.args.seed * 1_000_003 + self.state.global_step * 1009 + self.args.process_index) % 2**32)
