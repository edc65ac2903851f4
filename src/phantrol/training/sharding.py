"""How a model lies over ranks: whole on each (`none`), or in shards by torch's FSDP2 or by DeepSpeed's ZeRO.

What is sharded is gathered whenever it is to be kept, so a checkpoint looks as if one rank had written it, and goes on
with any number of ranks and any sharding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from phantrol.training.recipe import Stage


class Sharding:
    """What a trainer asks of an engine that cuts a model into shards. One object serves one stage."""

    def check(self, model: nn.Module, stage: Stage) -> None:
        """Raise ValueError if what this stage trains of a model cannot be in shards."""
        for name, module in model.named_modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm) and any(
                p.requires_grad for p in module.parameters()
            ):
                raise ValueError(
                    f"stage {stage.name!r}: {name} is a batch norm that is trained, whose statistics would be each "
                    "rank's own; expected a frozen one with sharding: leave it out of `train`, or set sharding=none"
                )

    def cut(self, trainer: Any) -> None:
        """Cut the trainer's model, which is whole so far, and see to it that an optimiser of its shards is made."""
        raise NotImplementedError

    def clip(self, model: nn.Module, max_norm: float) -> Any:
        """Scale gradients down to `max_norm`, and return the norm that they had, over all ranks."""
        raise NotImplementedError

    def whole(self, tensor: Tensor) -> Tensor:
        """Return a tensor of the model, gathered from all ranks; all of them must ask."""
        raise NotImplementedError

    def optimiser_state(self, optimiser: Any) -> dict[str, Any]:
        """Return the optimiser's state as an unsharded one would give it; all ranks must ask, the first gets it."""
        raise NotImplementedError

    def load_optimiser(self, optimiser: Any, state: dict[str, Any]) -> None:
        """Give each rank its part of such a state."""
        raise NotImplementedError

    def weights(self, model: nn.Module, wanted: Callable[[str], bool], is_main: bool) -> dict[str, Tensor]:
        """Return the gathered tensors of a model by name, on the main rank's CPU; other ranks get none."""
        gathered: dict[int, Tensor] = {}
        state = {}
        for name, tensor in model.state_dict(keep_vars=True).items():
            if not wanted(name):
                continue
            if id(tensor) not in gathered:  # a tied one has several names
                whole = self.whole(tensor)
                gathered[id(tensor)] = whole.detach().cpu() if is_main else tensor
            state[name] = gathered[id(tensor)]
        return state if is_main else {}


def units(model: nn.Module) -> Iterator[nn.Module]:
    """Yield the modules that are gathered as one: the layers that transformers says not to split, the innermost first.

    A whole layer, because a modifier reads the weights of linears that it never calls, and because which parts of a
    layer run may depend on the batch: ranks that gather different parts wait for each other forever.
    """
    names = {name for m in model.modules() for name in getattr(m, "_no_split_modules", None) or ()}
    yield from (module for module in reversed(list(model.modules())) if type(module).__name__ in names)


def borrowed(unit: nn.Module) -> Iterator[nn.Module]:
    """Yield modules that a unit uses without owning them: the gate that layers share, of a layer that has none."""
    if getattr(unit, "gate_owner", None) is not None:  # a unit itself, of which the gate alone is lent
        yield unit.traversal_gate


def with_idle_picture(batch: dict[str, Any], model: nn.Module) -> dict[str, Any]:
    """Return the batch with a picture that no token shows, if it has none.

    Ranks that share the vision tower must all run it, or those with pictures wait forever for those without; and under
    DDP a backward pass that reaches nothing of what is trained leaves the others waiting. The gradients that come back
    through the picture are exactly 0.
    Differs: where no rank has a picture in a whole step, AdamW counts a step with gradient 0 for tower and projector,
    which it leaves alone without shards.
    """
    if "pixel_values" in batch:
        return batch
    side = model.config.image_px
    pixels = torch.zeros(1, 3, side, side, device=batch["input_ids"].device)
    return batch | {"pixel_values": pixels, "tile_order": batch["input_ids"].new_empty(0)}


def is_idle(batch: dict[str, Any]) -> bool:
    """Return whether the picture of a batch is one that no token shows."""
    return "tile_order" in batch and not batch["tile_order"].numel()
