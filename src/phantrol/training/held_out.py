"""The loss of held-out data: measured at each checkpoint that is due, and what it says about which checkpoint is best.

The losses are lines of Trainer's own history, and so a part of every checkpoint.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from phantrol.data.mixture import Groups
from phantrol.data.skipping import SkippingCollator
from phantrol.training.checkpoint import Checkpoint, check_whole, checkpoint_at, replace_text

_STATE = "trainer_state.json"  # Trainer's own


class HeldOutLoss(TrainerCallback):
    """Measures the stage's own loss on `stage.held_out`, without touching what training depends on.

    trainer  a StageTrainer;  where its loss compares the rows of a micro-batch, the number of groups is rounded up to
             micro-batches that are full on all ranks
    """

    def __init__(self, trainer: Any):
        self.trainer, self.totals = trainer, {}

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Measure what a signal kept from being measured when the checkpoint was written."""
        measured = {line["step"] for line in state.log_history if "eval_loss" in line}
        if state.global_step and self._is_due(state.global_step) and state.global_step not in measured:
            found = self.trainer.evaluate()
            control.should_training_stop = False  # Trainer would stop between two micro-batches; a step is taken
            if found and state.global_step >= self.trainer.stage.max_steps:  # no other checkpoint will be written
                self._add_to_checkpoint(state)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        control.should_evaluate = self._is_due(state.global_step)

    def evaluate(self) -> dict[str, float]:
        """Measure the loss and write it to the log, unless a signal came. The time that it takes is not training's."""
        self.trainer.control.should_evaluate = False  # Trainer asks once more when its data end
        with self.trainer.speed.paused():
            loss = self.measure()
            if loss is None:  # a checkpoint is written now, and not after one more step
                self.trainer.control.should_save = self.trainer.control.should_training_stop = True
                return {}
            self.trainer.example_ids = ["the held-out ones"]
            self.trainer.check_finite("held-out loss", loss)
            self.trainer.log({"eval_loss": loss})
        return {"eval_loss": loss}

    def measure(self) -> float | None:
        """Return the loss per token or pair, as training defines it; None if a signal to stop came."""
        trainer = self.trainer
        model = trainer.model if trainer.sharding is None else trainer.model_wrapped
        trainer.accelerator.wait_for_everyone()
        totals = self.totals or self._count()
        loss = torch.zeros((), dtype=torch.float64, device="cpu")
        model.eval()
        with torch.no_grad(), torch.random.fork_rng(_devices()):
            for batch, weight in self._batches():
                batch = trainer._prepare_inputs(batch)
                trainer.add_reference(model, batch)
                model.eval()  # a reference leaves it in training mode
                loss += weight * trainer.stage.loss(model, batch, totals).loss.double().cpu()
        if trainer.stop_signal.received:
            return None
        self.totals = totals
        total = trainer.accelerator.reduce(loss.float().to(trainer.args.device))
        return float(total)

    def _add_to_checkpoint(self, state: Any) -> None:
        if self.trainer.args.should_save:
            folder = Path(self.trainer.args.output_dir) / f"checkpoint-{state.global_step}"
            saved = json.loads((folder / _STATE).read_text("utf-8")) | {"log_history": state.log_history}
            replace_text(folder, _STATE, json.dumps(saved, indent=2, sort_keys=True) + "\n")
        self.trainer.accelerator.wait_for_everyone()

    def _is_due(self, step: int) -> bool:
        return step % self.trainer.recipe.save_every_steps == 0 or step == self.trainer.stage.max_steps

    def _batches(self) -> Any:
        """Yield this rank's micro-batches, each with its weight, until a signal comes to any rank.

        They are as many on each: ranks may wait for each other in a forward pass. One that has no group left is given
        the first group with weight 0.
        """
        trainer, held_out = self.trainer, self.trainer.stage.held_out
        size, ranks = trainer.args.per_device_train_batch_size, trainer.accelerator.num_processes
        rounds = math.ceil(held_out.groups / (size * ranks))
        compares = trainer.stage.loss.fewest_groups() > 1  # the rows of a micro-batch, so that none is cut short
        groups = rounds * size * ranks if compares else held_out.groups
        collate = SkippingCollator(Groups(held_out.data, 0, groups), trainer.data_collator)
        for number in range(rounds):
            trainer.stop_signal.agree(trainer.args.device)
            if trainer.stop_signal.received:
                return
            first = (number * ranks + trainer.accelerator.process_index) * size
            mine = range(first, min(first + size, groups))
            batch = collate(mine or range(1))
            trainer.skipped.add(batch.pop("skipped"), trainer.state.global_step)
            yield batch, int(len(mine) > 0)

    def _count(self) -> dict[str, int]:
        totals: Counter[str] = Counter()
        for batch, weight in self._batches():
            totals.update({name: weight * count for name, count in self.trainer.stage.loss.count(batch).items()})
        names = sorted(totals)
        counts = torch.tensor([totals[name] for name in names], device=self.trainer.args.device)
        return dict(zip(names, self.trainer.accelerator.reduce(counts).tolist(), strict=True))


def best_step(history: Sequence[Mapping[str, Any]], folder: Path) -> int | None:
    """Return the step with the least held-out loss among those whose checkpoint is in `folder`; the first of equals."""
    losses = {line["step"]: line["eval_loss"] for line in history if "eval_loss" in line}
    there = [step for step in losses if (folder / f"checkpoint-{step}").is_dir()]
    return min(there, key=lambda step: (losses[step], step), default=None)


def best_checkpoint(folder: Path) -> Checkpoint:
    """Return the best checkpoint of a stage that has ended.

    Raises ValueError if there is none, or it is not whole.
    """
    newest = max(filter(None, map(checkpoint_at, folder.glob("checkpoint-*"))), default=None)
    step = best_step(read_history(newest.path), folder) if newest else None
    if step is None:
        raise ValueError(f"{folder}: got no checkpoint with a held-out loss, expected one; set held_out.take=last")
    best = checkpoint_at(folder / f"checkpoint-{step}")
    check_whole(best.path)
    return best


def is_measured(checkpoint: Checkpoint) -> bool:
    """Return whether the held-out loss of a checkpoint is known; a signal may have kept it from being measured."""
    return any(line["step"] == checkpoint.step for line in read_history(checkpoint.path) if "eval_loss" in line)


def read_history(checkpoint: Path) -> list[dict[str, Any]]:
    """Return the lines of the log up to a checkpoint, as Trainer keeps them."""
    return json.loads((checkpoint / _STATE).read_text("utf-8"))["log_history"]


def _devices() -> list[int]:
    return [torch.cuda.current_device()] if torch.cuda.is_available() else []
