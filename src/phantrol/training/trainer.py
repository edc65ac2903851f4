"""The trainer of one stage: transformers' Trainer with its loss, the order of the data, and whole checkpoints."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader
from transformers import PrinterCallback, TrainerCallback

from phantrol.data.mixture import Groups
from phantrol.data.skipping import SkippingCollator
from phantrol.models.quantised import is_quantised
from phantrol.training.arguments import training_arguments
from phantrol.training.checkpoint import beside, keep, where_to_resume, written_beside
from phantrol.training.faults import RunFault, naming_lost_processes
from phantrol.training.frozen_weights import held_in
from phantrol.training.gate_statistics import GateStatistics
from phantrol.training.held_out import HeldOutLoss, best_step
from phantrol.training.meters import Meters
from phantrol.training.optimiser import build_optimiser, lr_factor
from phantrol.training.precision import computing_dtype
from phantrol.training.ranks import is_in_group, process_state, sharding_of
from phantrol.training.recipe import Recipe
from phantrol.training.recomputing import set_gradient_checkpointing
from phantrol.training.reference import Reference
from phantrol.training.sharded_trainer import ShardedTrainer
from phantrol.training.sharding import is_idle
from phantrol.training.skipped import FILE, SkippedRows
from phantrol.training.speed import Speed
from phantrol.training.stage_collator import CountingCollator, collator
from phantrol.training.stage_features import give_feature_cache
from phantrol.training.stopping import StopSignal, leave_process_group
from phantrol.training.trainable import frozen_towers, train_only, trained_behind_pictures
from phantrol.training.weights import is_peft, load_weights, save_weights
from phantrol.training.workers import workers_for

_METERS = "meters.json"
_SHOWN = "micro-batches with pictures"


class StageTrainer(ShardedTrainer):
    """Trains `recipe.stages[number]`. Checkpoints go to `run_dir`/stages/NUMBER-NAME/.

    Raises ValueError if the stage cannot run: a pattern that matches nothing, packing on attention that takes no mask,
    a batch norm in shards. While training it raises RunFault for a loss or gradient that is not finite, and for a rank
    or a worker that is gone.
    """

    def __init__(
        self,
        model: nn.Module,
        processor: Any,
        recipe: Recipe,
        number: int,
        run_dir: Path,
        callbacks: list[TrainerCallback] | None = None,
    ):
        stage = recipe.stages[number]
        self.stage, self.recipe, self.processor, self.run_dir = stage, recipe, processor, run_dir
        self.patterns = recipe.patterns_until(number)
        self.sharding = sharding_of(recipe.sharding, process_state().num_processes)
        train_only(model, stage.train)
        self.behind_pictures = trained_behind_pictures(model) if is_in_group() and self.sharding is None else []
        if self.sharding is not None:
            self.sharding.check(model, stage)
        set_gradient_checkpointing(model, stage.gradient_checkpointing)
        # DDP's broadcast fails on int8 and rounds nf4 once more; all ranks have made the same ones
        quantised = [name for name, parameter in model.named_parameters() if is_quantised(parameter)]
        model._ddp_params_and_buffers_to_ignore = quantised
        self.stop_signal = StopSignal(process_state().num_processes)
        self.skipped = SkippedRows(run_dir / FILE, stage.name)
        self.held_out = HeldOutLoss(self) if stage.held_out else None
        super().__init__(
            model=model,
            args=training_arguments(model, recipe, number, run_dir),
            data_collator=collator(model, processor, stage),
            train_dataset=Groups(stage.data, recipe.stage_seed(number), stage.max_steps * stage.batch_size),
            callbacks=[self.stop_signal, *([self.held_out] if self.held_out else []), *(callbacks or [])],
        )
        self.remove_callback(PrinterCallback)
        self.model_accepts_loss_kwargs = self.loss_is_scaled_for_ga = True  # losses are divided by the totals of a step
        self.towers = frozen_towers(model)
        give_feature_cache(model, stage)
        self.reference = Reference(model) if stage.loss.needs_reference else None
        self.meters, self.speed = Meters(), Speed(computing_dtype(stage.precision, self.args.device))
        self.gates = GateStatistics(model, recipe.log_every_steps, stage.max_steps)
        self.share, self.example_ids, self.step_loss, self.has_pictures = 1.0, [], 0.0, True
        self.writing_to: Path | None = None

    def train(self, resume_from_checkpoint: Path | None = None) -> bool:
        """Train the stage to its end, from a checkpoint of it as if there had been no stop.

        Returns False if SIGTERM or Ctrl-C came: the step was finished, a checkpoint written, the rest is still to do.
        """
        if resume_from_checkpoint and self.accelerator.is_main_process:
            self.meters.load(resume_from_checkpoint / _METERS)
        self.speed.begin()
        try:
            lost = naming_lost_processes(lambda: where_to_resume(self.run_dir))
            with lost, self.stop_signal.watching(), self.frozen_weights_held():
                super().train(resume_from_checkpoint=str(resume_from_checkpoint) if resume_from_checkpoint else None)
                self.stop_signal.agree(self.args.device)  # one may have come after the last step
        finally:
            # or else accelerate's autocast would outlast the stage, and the next stage would be given none
            for name in ("forward", "_original_forward", "_is_accelerate_prepared"):
                vars(self.model).pop(name, None)
        return self.state.global_step >= self.stage.max_steps and not self.stop_signal.received

    def frozen_weights_held(self) -> contextlib.AbstractContextManager:
        """Return the block that holds frozen weights in bfloat16; a checkpoint without adapters would hold them so."""
        is_worth_it = self.args.bf16 and is_peft(self.model) and self.sharding is None
        return held_in(self.model, torch.bfloat16) if is_worth_it else contextlib.nullcontext()

    def get_train_dataloader(self) -> DataLoader:
        collate = SkippingCollator(self.train_dataset, self.data_collator)
        loader = DataLoader(
            range(len(self.train_dataset)),  # positions: the collator reads them, and past what cannot be read
            batch_size=self._train_batch_size,
            shuffle=False,  # the order is the mixture's
            collate_fn=CountingCollator(collate, self.stage.loss.count),
            num_workers=workers_for(self.recipe.workers, torch.cuda.is_available()),
            worker_init_fn=leave_process_group,
            pin_memory=torch.cuda.is_available(),
            generator=torch.Generator(),  # or else beginning an epoch would draw from the generator of dropout
        )
        return self.accelerator.prepare(loader)

    def get_batch_samples(
        self, epoch_iterator: Iterator[dict[str, Any]], num_batches: int, device: torch.device
    ) -> tuple[list[dict[str, Any]], dict[str, int]]:
        """Return the micro-batches of one step, and the totals over them and over all ranks."""
        with self.speed.waiting():
            batches = [batch for _, batch in zip(range(num_batches), epoch_iterator, strict=False)]
        totals: Counter[str] = Counter()
        for batch in batches:
            self.skipped.add(batch.pop("skipped"), self.state.global_step + 1)
            totals.update(batch.pop("counts") | {_SHOWN: int("pixel_values" in batch)})
        if self.accelerator.num_processes > 1:
            counts = self.accelerator.reduce(torch.tensor([totals[name] for name in sorted(totals)], device=device))
            totals = Counter(dict(zip(sorted(totals), counts.tolist(), strict=True)))
        self.has_pictures = bool(totals.pop(_SHOWN))
        self.share = 1 / (len(batches) * self.accelerator.num_processes)
        self.example_ids, self.step_loss = [], 0.0
        self.speed.steps += 1
        return batches, dict(totals)

    def training_step(self, model: nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Tensor:
        with self.speed.training_on(inputs):
            loss = super().training_step(model, inputs, *args, **kwargs)
        if not self.has_pictures:  # idle ones alone: what stands behind them stays where it is, as with one rank
            for parameter in self.behind_pictures:
                parameter.grad = None
        return loss

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: dict[str, int] | None = None,
    ) -> Tensor:
        """Return this micro-batch's share of the loss of the step; `num_items_in_batch` are the totals of the step."""
        self.add_reference(model, inputs)
        for tower in self.towers:
            tower.eval()  # Trainer has just set the whole model to training
        if is_idle(inputs):  # its picture is nobody's, and no part of the statistics of those that are shown
            for module in filter(lambda module: isinstance(module, _BatchNorm), model.modules()):
                module.eval()
        with self.gates.listening(self.meters, inputs, self.state.global_step + 1):
            output = self.stage.loss(model, inputs, num_items_in_batch)
        self.example_ids += inputs["example_ids"]
        self.step_loss = self.step_loss + output.loss.detach()  # looked at once a step: whoever looks waits
        if self.accelerator.num_processes > 1:  # or else its gradient would be blamed on the examples of all ranks
            self.check_finite("loss", self.step_loss)
        self.meters.add("loss", output.loss, count=self.share)
        for name, values in output.metrics.items():
            self.meters.add(name, values)
        loss = output.loss * self.accelerator.num_processes  # gradients of ranks are averaged, shares are to be added
        if not loss.requires_grad:  # nothing that is trained took part, as in text alone for the projector
            loss = loss.detach().requires_grad_()  # touched here, a parameter would be reduced behind DDP's back
        return loss

    def add_reference(self, model: nn.Module, batch: dict[str, Any]) -> None:
        """Put into a batch what the reference model says of it, if the loss asks for that."""
        if self.reference is not None:
            with self.accelerator.autocast():
                batch["reference_logprobs"] = self.reference(model, batch)

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        return self.held_out.evaluate()

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        if self.optimizer is None:
            self.optimizer = build_optimiser(self.model if model is None else model, self.stage)
        return self.optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None) -> LambdaLR:
        if self.lr_scheduler is None:
            self.lr_scheduler = LambdaLR(optimizer or self.optimizer, lr_factor(self.stage))
            self._created_lr_scheduler = True
        return self.lr_scheduler

    def _get_learning_rate(self) -> float:  # of the first group Trainer would say, which may have one of its own
        return self.stage.lr * lr_factor(self.stage)(self.lr_scheduler.last_epoch)

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        return 0  # nobody reads it, and Trainer would walk all parameters for it at each step

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs:
            logs = logs | self.meters.take(self.accelerator) | self.speed.take(self.accelerator)
        super().log(logs, start_time)

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> Any:
        self.check_finite("loss", self.step_loss)
        norm = super()._get_grad_norm(model, grad_norm=grad_norm)
        self.check_finite("gradient norm", norm)
        return norm

    def check_finite(self, what: str, value: Any) -> None:
        """Raise RunFault for a number that is not finite, with the examples of the step up to it and what to do."""
        if value is not None and not torch.isfinite(torch.as_tensor(value)):
            raise RunFault(
                f"stage {self.stage.name!r}, step {self.state.global_step + 1}: got a {what} of {float(value)}, "
                f"expected a finite number; examples of the batch: {', '.join(self.example_ids)}",
                f"{where_to_resume(self.run_dir)}: mend what is wrong with these examples and go on with --resume, or "
                f"lower stages.{self.stage.name}.lr ({self.stage.lr}) in a new run",
            )

    def _save_checkpoint(self, model: nn.Module, trial: Any = None) -> None:
        folder = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
        meters = self.meters.gathered(self.accelerator)
        with written_beside(folder, of_run=True) if self.args.should_save else contextlib.nullcontext():
            self.accelerator.wait_for_everyone()
            self.writing_to = beside(folder)
            super()._save_checkpoint(model, trial)
            if self.args.should_save:
                meters.save(self.writing_to / _METERS)
            self.accelerator.wait_for_everyone()
        self.writing_to = None
        if self.args.should_save:
            keep(folder.parent, self.recipe.keep_checkpoints, best_step(self.state.log_history, folder.parent))

    def _get_output_dir(self, trial: Any = None) -> str:
        return str(self.writing_to.parent if self.writing_to else self.args.output_dir)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Tensor] | None = None) -> None:
        if self.args.should_save:
            model = self.accelerator.unwrap_model(self.model)
            save_weights(model, self.processor, self.patterns, Path(output_dir), state_dict)

    def _init_training_state(self, max_steps: int, *args: Any) -> tuple[int, int]:
        begun = super()._init_training_state(max_steps, *args)
        self.state.compute_steps(self.args, max_steps)  # a checkpoint brings back those that it was written with
        return begun

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        load_weights(self.model if model is None else model, self.patterns, Path(resume_from_checkpoint))
