"""DeepSpeed's ZeRO: stage 2 shards gradients and optimiser states, stage 3 the parameters too.

The engine is DeepSpeed's own. Accelerate's plugin for it is left out: it does not know CPU ranks, and its checkpoints
go on with as many ranks as wrote them.
"""

from __future__ import annotations

import contextlib
import os
from typing import Any

import torch
import torch.nn.functional as F
from accelerate.utils import DeepSpeedOptimizerWrapper
from torch import Tensor, nn

from phantrol.training.sharding import Sharding, borrowed

_MOMENTS = ("exp_avg", "exp_avg_sq")  # of AdamW


class Zero(Sharding):
    """level  2 or 3."""

    def __init__(self, level: int):
        self.level = level
        self.parameters: list[nn.Parameter] = []  # of the optimiser, in its order
        self.sizes: list[int] = []  # of its groups

    def cut(self, trainer: Any) -> None:
        _init_distributed()
        import deepspeed

        if self.level == 3:
            _gather_as_one(trainer.model)
        if trainer.reference is not None and trainer.reference.copy is not None:
            trainer.reference.copy.to(trainer.args.device)  # each rank has a whole one
        base = trainer.create_optimizer()
        self.parameters = [parameter for group in base.param_groups for parameter in group["params"]]
        self.sizes = [len(group["params"]) for group in base.param_groups]
        scheduler = trainer.create_scheduler(trainer.args.max_steps, base)
        # autocast is accelerate's: under that of DeepSpeed gradients would travel in bfloat16
        model = trainer.accelerator.prepare_model(trainer.model, device_placement=False, evaluation_mode=True)
        engine, optimiser, _, _ = deepspeed.initialize(model=model, optimizer=base, config=self._config(trainer.args))
        self._make_states(optimiser)
        trainer.model_wrapped, trainer.optimizer = engine, DeepSpeedOptimizerWrapper(optimiser)
        trainer.optimizer._is_accelerate_prepared = True
        trainer.lr_scheduler, trainer._created_lr_scheduler = scheduler, False  # Trainer would make it again
        _step_through(engine, trainer.accelerator)

    def _config(self, args: Any) -> dict[str, Any]:
        return {
            "train_micro_batch_size_per_gpu": args.per_device_train_batch_size,
            "gradient_accumulation_steps": args.gradient_accumulation_steps,
            "gradient_clipping": args.max_grad_norm,
            "zero_optimization": {"stage": self.level, "stage3_param_persistence_threshold": 0},
            "zero_allow_untested_optimizer": True,
        }

    def _set_state(self, parameter: nn.Parameter, name: str, value: Tensor) -> None:
        from deepspeed.utils import safe_set_full_optimizer_state, safe_set_local_optimizer_state

        if self.level == 2:
            safe_set_full_optimizer_state(parameter, value, name)
            return
        size = parameter.partition_numel()  # DeepSpeed would read past the end of what does not divide by the ranks
        padded = F.pad(value.flatten(), (0, size * torch.distributed.get_world_size() - value.numel()))
        part = padded.narrow(0, size * torch.distributed.get_rank(), size)
        safe_set_local_optimizer_state(parameter, part, name)

    def _make_states(self, zero: Any) -> None:
        """Make what AdamW would make in its first step.

        Where a parameter's state lies is noted when the first group takes its first step, too early for the others.
        """
        base = zero.optimizer
        is_fused = any(group["fused"] for group in base.param_groups)
        partitions = zero.fp32_partitioned_groups_flat if self.level == 3 else zero.single_partition_of_fp32_groups
        for partition in partitions:
            step = torch.zeros((), device=partition.device if is_fused else "cpu")
            base.state[partition] = {"step": step, **{name: torch.zeros_like(partition) for name in _MOMENTS}}
        if self.level == 2:
            zero._lazy_init_hp_params_optimizer_state()

    def clip(self, model: Any, max_norm: float) -> Any:
        return model.get_global_grad_norm()  # of the step that the engine has just taken

    def whole(self, tensor: Tensor) -> Tensor:
        from deepspeed.runtime.zero import GatheredParameters

        if self.level < 3 or not hasattr(tensor, "ds_id"):
            return tensor
        with GatheredParameters([tensor]):
            return tensor.detach().clone()

    def optimiser_state(self, optimiser: Any) -> dict[str, Any]:
        from deepspeed.utils import safe_get_full_optimizer_state

        base = optimiser.optimizer.optimizer  # of accelerate's wrapper, of DeepSpeed's
        steps = next(float(values["step"]) for values in base.state.values())
        state = {}
        for index, parameter in enumerate(self.parameters):
            moments = {name: safe_get_full_optimizer_state(parameter, name).cpu() for name in _MOMENTS}
            state[index] = {"step": torch.tensor(steps), **moments}
        groups, first = [], 0
        for group, size in zip(base.param_groups, self.sizes, strict=True):
            options = {name: value for name, value in group.items() if name != "params"}
            groups.append(options | {"params": list(range(first, first + size))})
            first += size
        return {"state": state, "param_groups": groups}

    def load_optimiser(self, optimiser: Any, state: dict[str, Any]) -> None:
        base = optimiser.optimizer.optimizer
        # without shards each parameter counts the steps in which it had a gradient, and has no state before the first
        steps = max((float(values["step"]) for values in state["state"].values()), default=0.0)
        for values in base.state.values():
            values["step"].fill_(steps)
        for index, parameter in enumerate(self.parameters):
            for name, moment in state["state"].get(index, {}).items():
                if name in _MOMENTS:
                    self._set_state(parameter, name, moment.to(parameter.device))
        for group, saved in zip(base.param_groups, state["param_groups"], strict=True):
            group.update({name: value for name, value in saved.items() if name != "params"})


def _init_distributed() -> None:
    """Let DeepSpeed use the ranks that are there."""
    if torch.accelerator.current_accelerator(check_available=True) is None:
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
        from deepspeed.ops import __compatible_ops__

        __compatible_ops__["deepspeed_shm_comm"] = False  # it would be compiled now, and gloo does the same
    import deepspeed

    deepspeed.init_distributed(torch.distributed.get_backend(), auto_mpi_discovery=False, verbose=False)


def _gather_as_one(model: nn.Module) -> None:
    """Let DeepSpeed gather a decoder layer as a whole, since modifiers read the weights of linears they never call.

    The same holds for torch's own attention, which some vision towers end with.
    """
    from deepspeed.runtime.zero import register_external_parameter
    from deepspeed.utils import set_z3_leaf_module

    layers = model.get_decoder().layers
    for module in [*layers, *(m for m in model.modules() if isinstance(m, nn.MultiheadAttention))]:
        set_z3_leaf_module(module, True)
    for layer in layers:
        for lent in borrowed(layer):
            for parameter in lent.parameters():
                register_external_parameter(layer, parameter)
    # the gradients of such a layer are collected when its input has one
    model.get_input_embeddings().register_forward_hook(_require_gradient)


def _require_gradient(module: nn.Module, inputs: Any, output: Tensor) -> None:
    if torch.is_grad_enabled():
        output.requires_grad_()


def _step_through(engine: Any, accelerator: Any) -> None:
    """Let the engine go backward, and take the step with the last micro-batch: it alone can."""

    def backward(loss: Tensor, **kwargs: Any) -> None:
        engine.set_gradient_accumulation_boundary(is_boundary=accelerator.sync_gradients)
        engine.backward(loss, scale_wrt_gas=False)
        if accelerator.sync_gradients:
            engine.step()

    accelerator.backward = backward
    accelerator.no_sync = lambda model: contextlib.nullcontext()  # the engine adds up gradients by itself
