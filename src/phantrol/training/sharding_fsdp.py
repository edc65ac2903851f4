"""Torch's FSDP2: parameters, gradients and optimiser states in shards, each layer gathered just before it runs.

On GPUs and on CPUs alike it is `fully_shard` itself, not accelerate's plugin, which does nothing on CPU ranks.
"""

from __future__ import annotations

import functools
import warnings
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.utils._pytree import tree_map

from phantrol.training.sharding import Sharding, borrowed, units


class FullyShard(Sharding):
    """Parameters keep their dtype when they are gathered, so that the result is that of one rank.

    Quantised weights, which are frozen, stay whole on each rank: they are small, and no DTensor can hold them.
    """

    def cut(self, trainer: Any) -> None:
        # our outputs are read and never written to
        warnings.filterwarnings("ignore", message=".*returned a view tensor", category=UserWarning)
        device = trainer.args.device
        mesh = init_device_mesh(device.type, (trainer.accelerator.num_processes,))
        models = [trainer.model]
        if trainer.reference is not None and trainer.reference.copy is not None:
            models.append(trainer.reference.copy)
        for model in models:
            shard(model, mesh, device)
        # accelerate would wrap the model for DDP; what is left of its work, autocast, is wanted
        accelerator = trainer.accelerator
        accelerator.prepare_model = functools.partial(
            accelerator.prepare_model, device_placement=False, evaluation_mode=True
        )

    def clip(self, model: nn.Module, max_norm: float) -> Tensor:
        return self.whole(nn.utils.clip_grad_norm_(model.parameters(), max_norm))

    def whole(self, tensor: Tensor) -> Tensor:
        return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor

    def optimiser_state(self, optimiser: Any) -> dict[str, Any]:
        def gathered(value: Any) -> Any:
            return self.whole(value).cpu() if isinstance(value, Tensor) else value

        return tree_map(gathered, optimiser.state_dict(), is_leaf=lambda value: isinstance(value, Tensor))

    def load_optimiser(self, optimiser: Any, state: dict[str, Any]) -> None:
        parameters = [parameter for group in optimiser.param_groups for parameter in group["params"]]
        shards = {
            index: {name: _as_sharded(value, parameters[index]) for name, value in values.items()}
            for index, values in state["state"].items()
        }
        optimiser.load_state_dict({**state, "state": shards})


def shard(model: nn.Module, mesh: DeviceMesh, device: torch.device) -> None:
    """Cut a model in place: each unit for itself, and the rest, with the embeddings, as one."""
    quantised = {p for p in model.parameters() if not p.requires_grad and type(p.data) is not Tensor}
    quantised |= {p for p in model.parameters() if not p.is_floating_point()}
    for parameter in quantised:
        parameter.data = parameter.data.to(device)
    cut = functools.partial(_cut, mesh=mesh, ignored_params=quantised)
    found = list(units(model))
    for module in [lent for unit in found for lent in borrowed(unit)] + found + [model]:
        cut(module)


def _cut(module: nn.Module, **options: Any) -> None:
    if not isinstance(module, FSDPModule):
        fully_shard(module, **options)


def _as_sharded(value: Any, parameter: Tensor) -> Any:
    """Return this rank's part of a state that has the shape of its parameter; a count of steps is everybody's."""
    if not isinstance(value, Tensor) or value.shape != parameter.shape or not isinstance(parameter, DTensor):
        return value
    return distribute_tensor(value.to(parameter.device), parameter.device_mesh, parameter.placements)
