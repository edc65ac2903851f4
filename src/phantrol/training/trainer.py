"""The trainer of one stage: transformers' Trainer with its loss, the order of the data, and whole checkpoints."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from phantrol.data.collate import Collator
from phantrol.data.mixture import Groups
from phantrol.data.skipping import SkippingCollator
from phantrol.training.checkpoint import beside, keep_newest, stage_dir, written_beside
from phantrol.training.optimiser import build_optimiser, lr_factor
from phantrol.training.progress import Meters
from phantrol.training.recipe import Recipe, Stage
from phantrol.training.reference import Reference
from phantrol.training.skipped import FILE, SkippedRows
from phantrol.training.trainable import frozen_towers, train_only
from phantrol.training.weights import load_weights, save_weights

_METERS = "meters.json"


class StageTrainer(Trainer):
    """Trains `recipe.stages[number]`. Checkpoints go to `run_dir`/stages/NUMBER-NAME/.

    Raises ValueError if the stage cannot run: a pattern that matches nothing, packing on attention that takes no mask,
    a batch that the ranks cannot share. While training it raises ValueError for a loss or gradient that is not finite.
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
        self.stage, self.recipe, self.processor = stage, recipe, processor
        self.patterns = tuple(pattern for earlier in recipe.stages[: number + 1] for pattern in earlier.train)
        train_only(model, stage.train)
        set_gradient_checkpointing(model, stage.gradient_checkpointing)
        self.stop_signal, self.skipped = StopSignal(), SkippedRows(run_dir / FILE, stage.name)
        super().__init__(
            model=model,
            args=training_arguments(model, recipe, number, run_dir),
            data_collator=collator(model, processor, stage),
            train_dataset=Groups(stage.data, recipe.stage_seed(number), stage.max_steps * stage.batch_size),
            callbacks=[self.stop_signal, *(callbacks or [])],
        )
        self.remove_callback(PrinterCallback)
        self.model_accepts_loss_kwargs = self.loss_is_scaled_for_ga = True  # losses are divided by the totals of a step
        self.towers = frozen_towers(model)
        self.reference = Reference(model) if stage.loss.needs_reference else None
        self.meters, self.pictures, self.since_s = Meters(), 0, time.monotonic()
        self.share, self.example_ids = 1.0, []
        self.writing_to: Path | None = None

    def train(self, resume_from_checkpoint: Path | None = None) -> bool:
        """Train the stage to its end, from a checkpoint of it as if there had been no stop.

        Returns False if SIGTERM came: the step was finished, a checkpoint was written, and the rest is still to do.
        """
        if resume_from_checkpoint and self.accelerator.is_main_process:
            self.meters.load(resume_from_checkpoint / _METERS)
        self.since_s = time.monotonic()
        try:
            with self.stop_signal.watching():
                super().train(resume_from_checkpoint=str(resume_from_checkpoint) if resume_from_checkpoint else None)
        finally:
            for name in ("forward", "_original_forward"):  # accelerate's autocast would outlast the stage
                vars(self.model).pop(name, None)
        return self.state.global_step >= self.stage.max_steps and not self.stop_signal.received

    def get_train_dataloader(self) -> DataLoader:
        loader = DataLoader(
            range(len(self.train_dataset)),  # positions: the collator reads them, and past what cannot be read
            batch_size=self._train_batch_size,
            shuffle=False,  # the order is the mixture's
            collate_fn=SkippingCollator(self.train_dataset, self.data_collator),
            num_workers=self.recipe.workers,
            worker_init_fn=_leave_process_group,
            pin_memory=torch.cuda.is_available(),
            generator=torch.Generator(),  # or else beginning an epoch would draw from the generator of dropout
        )
        return self.accelerator.prepare(loader)

    def get_batch_samples(
        self, epoch_iterator: Iterator[dict[str, Any]], num_batches: int, device: torch.device
    ) -> tuple[list[dict[str, Any]], dict[str, int]]:
        """Return the micro-batches of one step, and the totals over them and over all ranks."""
        batches = [batch for _, batch in zip(range(num_batches), epoch_iterator, strict=False)]
        totals: Counter[str] = Counter()
        for batch in batches:
            self.skipped.add(batch.pop("skipped"), self.state.global_step + 1)
            totals.update(self.stage.loss.count(batch))
        if self.accelerator.num_processes > 1:
            totals["stop"] = int(self.stop_signal.received)  # so that all ranks stop after the same step
            counts = self.accelerator.reduce(torch.tensor([totals[name] for name in sorted(totals)], device=device))
            totals = Counter(dict(zip(sorted(totals), counts.tolist(), strict=True)))
            self.stop_signal.received = totals.pop("stop") > 0
        self.share, self.example_ids = 1 / (len(batches) * self.accelerator.num_processes), []
        return batches, dict(totals)

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: dict[str, int] | None = None,
    ) -> Tensor:
        """Return this micro-batch's share of the loss of the step; `num_items_in_batch` are the totals of the step."""
        if self.reference is not None:
            with self.accelerator.autocast():
                inputs["reference_logprobs"] = self.reference(model, inputs)
        for tower in self.towers:
            tower.eval()  # Trainer has just set the whole model to training
        output = self.stage.loss(model, inputs, num_items_in_batch)
        self.example_ids += inputs["example_ids"]
        self._check_finite("loss", output.loss.detach())
        self.meters.add("loss", output.loss, count=self.share)
        self.pictures += inputs["num_pictures"]
        for name, values in output.metrics.items():
            self.meters.add(name, values)
        loss = output.loss * self.accelerator.num_processes  # gradients of ranks are averaged, shares are to be added
        if not loss.requires_grad:  # nothing that is trained took part, as in text alone for the projector
            loss = loss + 0 * next(p for p in model.parameters() if p.requires_grad).sum()
        return loss

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        if self.optimizer is None:
            self.optimizer = build_optimiser(self.model if model is None else model, self.stage)
        return self.optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None) -> LambdaLR:
        if self.lr_scheduler is None:
            self.lr_scheduler = LambdaLR(optimizer or self.optimizer, lr_factor(self.stage))
            self._created_lr_scheduler = True
        return self.lr_scheduler

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        return 0  # nobody reads it, and Trainer would walk all parameters for it at each step

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs:
            seconds, self.since_s = time.monotonic() - self.since_s, time.monotonic()
            pictures = self.accelerator.reduce(torch.tensor(self.pictures, device=self.args.device))
            logs = logs | self.meters.take(self.accelerator) | {"pictures_per_s": round(int(pictures) / seconds, 1)}
            self.pictures = 0
        super().log(logs, start_time)

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> Any:
        norm = super()._get_grad_norm(model, grad_norm=grad_norm)
        self._check_finite("gradient norm", norm)
        return norm

    def _check_finite(self, what: str, value: Any) -> None:
        if value is not None and not torch.isfinite(torch.as_tensor(value)):
            raise ValueError(
                f"stage {self.stage.name!r}, step {self.state.global_step + 1}: got a {what} of {float(value)}, "
                f"expected a finite number; examples of the batch: {', '.join(self.example_ids)}; look at them, or "
                f"lower stages.{self.stage.name}.lr ({self.stage.lr}) in a new run"
            )

    def _save_checkpoint(self, model: nn.Module, trial: Any = None) -> None:
        folder = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
        meters = self.meters.gathered(self.accelerator)
        with written_beside(folder) if self.args.should_save else contextlib.nullcontext():
            self.accelerator.wait_for_everyone()
            self.writing_to = beside(folder)
            super()._save_checkpoint(model, trial)
            if self.args.should_save:
                meters.save(self.writing_to / _METERS)
            self.accelerator.wait_for_everyone()
        self.writing_to = None
        if self.args.should_save:
            keep_newest(folder.parent, self.recipe.keep_checkpoints)

    def _get_output_dir(self, trial: Any = None) -> str:
        return str(self.writing_to.parent if self.writing_to else self.args.output_dir)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Tensor] | None = None) -> None:
        if self.args.should_save:
            model = self.accelerator.unwrap_model(self.model)
            save_weights(model, self.processor, self.patterns, Path(output_dir), state_dict)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        if self.is_fsdp_enabled:
            super()._load_from_checkpoint(resume_from_checkpoint, model)
        else:
            load_weights(self.model if model is None else model, self.patterns, Path(resume_from_checkpoint))


class StopSignal(TrainerCallback):
    """On SIGTERM: the step is finished, a checkpoint is written, and training stops."""

    def __init__(self) -> None:
        self.received = False

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():  # only there can a signal be handled
            yield
            return
        before = signal.signal(signal.SIGTERM, self._note)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, before)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.received:
            control.should_save = control.should_training_stop = True

    def _note(self, *_: Any) -> None:
        self.received = True


def process_state() -> PartialState:
    """Return which rank this process is; without an accelerator several ranks are found only if told so."""
    return PartialState(cpu=torch.accelerator.current_accelerator() is None)


def training_arguments(model: nn.Module, recipe: Recipe, number: int, run_dir: Path) -> TrainingArguments:
    """Return what transformers' Trainer needs to know of a stage; the rest is decided in StageTrainer."""
    stage, state = recipe.stages[number], process_state()
    ranks = state.num_processes
    if stage.batch_size % (stage.accumulation * ranks):
        raise ValueError(
            f"stage {stage.name!r}: got batch_size={stage.batch_size}, expected a multiple of accumulation × ranks = "
            f"{stage.accumulation} × {ranks}"
        )
    args = TrainingArguments(
        output_dir=str(stage_dir(run_dir, number, stage.name)),
        per_device_train_batch_size=stage.batch_size // stage.accumulation // ranks,
        gradient_accumulation_steps=stage.accumulation,
        max_steps=stage.max_steps,
        learning_rate=stage.lr,
        max_grad_norm=stage.max_grad_norm,
        bf16=stage.precision == "bfloat16",
        use_cpu=state.device.type == "cpu",
        logging_steps=recipe.log_every_steps,
        logging_nan_inf_filter=False,  # StageTrainer stops instead
        save_strategy="steps",
        save_steps=recipe.save_every_steps,
        seed=recipe.stage_seed(number),
        report_to=list(recipe.report_to) or "none",
        disable_tqdm=True,
        remove_unused_columns=False,
        use_cache=getattr(model.config, "use_cache", True),  # Trainer writes it into the configuration that is saved
        ddp_find_unused_parameters=ranks > 1,  # a rank whose batch has no picture uses no projector
    )
    if args.n_gpu > 1:
        args._n_gpu = 1  # without torchrun Trainer would split batches by torch's DataParallel, which cannot split ours
    return args


def set_gradient_checkpointing(model: nn.Module, wanted: bool) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # transformers 5.23 has a new name for it, 5.17 only this one
        if wanted:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        elif model.is_gradient_checkpointing:
            model.gradient_checkpointing_disable()


def collator(model: nn.Module, processor: Any, stage: Stage) -> Collator:
    """Return the collator of a stage, which packs as far as the decoder's attention allows.

    Raises ValueError if the stage is to be packed and the attention takes no additive mask.
    """
    text_config = model.config.get_text_config()
    attention = str(text_config._attn_implementation)
    if stage.pack and ("flash" in attention or "flex" in attention):
        raise ValueError(
            f"stage {stage.name!r}: got pack=True on {attention}, expected sdpa or eager attention, which take the "
            f"mask of packed rows; set stages.{stage.name}.pack=false"
        )
    window = getattr(text_config, "sliding_window", None) if getattr(text_config, "use_sliding_window", True) else None
    return Collator(processor, stage.loss.needs_pairs, stage.pack, model.dtype, window)


def _leave_process_group(worker: int) -> None:
    """Keep a SIGTERM to the whole process group away from the workers: training still needs them to finish its step."""
    os.setpgid(0, 0)
