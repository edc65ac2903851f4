"""The optimisers of a stage, and the course of its learning rate."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.optim import AdamW, Optimizer

from phantrol.training.muon import build_muon
from phantrol.training.recipe import Stage
from phantrol.training.trainable import matches, named_parameters, parameter_groups

MUON_TO_ADAMW = 10  # a Muon step has a spectral norm, not an element, of the size of the learning rate


def build_optimiser(model: nn.Module, stage: Stage) -> Optimizer:
    """Return the optimiser of a stage for the parameters of `model` that gradients reach.

    Raises ValueError for a pattern of `stage.lrs` that matches none of them.
    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if stage.optimiser == "adamw":
        return _adamw(trained, stage, _own_rates(model, stage))
    hidden = hidden_matrices(model)
    matrices = [parameter for parameter in trained if id(parameter) in hidden]
    others = [parameter for parameter in trained if id(parameter) not in hidden]
    return MuonAndAdamW(matrices, others, stage)


def hidden_matrices(model: nn.Module) -> set[int]:
    """Return the ids of the parameters that Muon is for: matrices of decoder layers, which map states to states.

    Embeddings and the head map tokens, and a matrix with a single row or column has nothing to orthogonalise.
    """
    layers = model.get_decoder().layers
    return {id(p) for p in layers.parameters() if p.ndim == 2 and min(p.shape) > 1}


def lr_factor(stage: Stage) -> Callable[[int], float]:
    """Return what the learning rate is multiplied by at each step, counted from 0."""
    floor = stage.final_lr / stage.lr

    def factor(step: int) -> float:
        if step < stage.warmup_steps:
            return (step + 1) / (stage.warmup_steps + 1)
        progress = min(1.0, (step - stage.warmup_steps) / max(1, stage.max_steps - stage.warmup_steps))
        if stage.schedule == "cosine":
            return floor + (1 - floor) * (1 + math.cos(math.pi * progress)) / 2
        return 1.0 if stage.schedule == "constant" else 1 - (1 - floor) * progress

    return factor


class MuonAndAdamW(Optimizer):
    """Muon for the decoder's matrices and AdamW for the rest, as one optimiser with two learning rates."""

    def __init__(self, matrices: Sequence[nn.Parameter], others: Sequence[nn.Parameter], stage: Stage):
        self.parts: list[Optimizer] = []
        if matrices:
            muon_lr = MUON_TO_ADAMW * stage.lr if stage.muon_lr is None else stage.muon_lr
            self.parts.append(build_muon(matrices, muon_lr, stage.weight_decay))
        if others:
            self.parts.append(_adamw(others, stage))
        super().__init__([group for part in self.parts for group in part.param_groups], {})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = None if closure is None else torch.enable_grad()(closure)()
        for part in self.parts:
            part.step()
        return loss

    def state_dict(self) -> dict[str, Any]:
        return {"parts": [part.state_dict() for part in self.parts]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        for part, state in zip(self.parts, state_dict["parts"], strict=True):
            part.load_state_dict(state)
        # loading gives a part new groups, and a scheduler writes the learning rate into ours: they must be the same
        self.param_groups = [group for part in self.parts for group in part.param_groups]


def _own_rates(model: nn.Module, stage: Stage) -> dict[int, float]:
    """Return the highest learning rates of the parameters that have one of their own, by the parameters' ids."""
    rates: dict[int, float] = {}
    trained = [(name, parameter) for name, parameter in named_parameters(model) if parameter.requires_grad]
    for pattern, lr in stage.lrs:
        found = [parameter for name, parameter in trained if matches(name, (pattern,))]
        if not found:
            raise ValueError(
                f"stage {stage.name!r}: got lrs with {pattern!r}, which matches no trained parameter; expected one "
                f"of what {', '.join(stage.train)} trains"
            )
        for parameter in found:
            rates.setdefault(id(parameter), lr)
    return rates


def _adamw(parameters: Sequence[nn.Parameter], stage: Stage, own_rates: Mapping[int, float] | None = None) -> AdamW:
    fused = all(parameter.device.type in ("cpu", "cuda") for parameter in parameters)
    rates = {id(parameter): stage.lr for parameter in parameters} | dict(own_rates or {})
    groups = []
    for lr in dict.fromkeys(rates.values()):
        equal = [parameter for parameter in parameters if rates[id(parameter)] == lr]
        groups += [group | {"lr": lr} for group in parameter_groups(equal, stage.weight_decay)]
    return AdamW(groups, lr=stage.lr, betas=stage.betas, fused=fused)
