"""What transformers' Trainer is told of a stage."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn
from transformers import TrainingArguments

from phantrol.training.checkpoint import stage_dir
from phantrol.training.precision import computing_dtype
from phantrol.training.ranks import is_in_group, process_state
from phantrol.training.recipe import Recipe

PROJECT = "phantrol"  # that runs are reported to


def training_arguments(model: nn.Module, recipe: Recipe, number: int, run_dir: Path) -> TrainingArguments:
    """Return what transformers' Trainer needs to know of a stage; the rest is decided in StageTrainer."""
    stage, state = recipe.stages[number], process_state()
    args = TrainingArguments(
        output_dir=str(stage_dir(run_dir, number, stage.name)),
        per_device_train_batch_size=stage.batch_size // stage.accumulation // state.num_processes,
        gradient_accumulation_steps=stage.accumulation,
        max_steps=stage.max_steps,
        learning_rate=stage.lr,
        max_grad_norm=stage.max_grad_norm,
        bf16=computing_dtype(stage.precision, state.device) == torch.bfloat16,
        use_cpu=state.device.type == "cpu",
        logging_steps=recipe.log_every_steps,
        logging_nan_inf_filter=False,  # StageTrainer stops instead
        save_strategy="steps",
        save_steps=recipe.save_every_steps,
        seed=recipe.stage_seed(number),
        report_to=list(recipe.report_to) or "none",
        run_name=f"{run_dir.name}-{stage.name}",
        project=PROJECT,
        disable_tqdm=True,
        remove_unused_columns=False,
        use_cache=getattr(model.config, "use_cache", True),  # Trainer writes it into the configuration that is saved
        ddp_find_unused_parameters=is_in_group(),  # as an output head that word alignment never calls
    )
    if args.n_gpu > 1:
        args._n_gpu = 1  # without torchrun Trainer would split batches by torch's DataParallel, which cannot split ours
    return args
