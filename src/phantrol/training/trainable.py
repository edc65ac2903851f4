"""Which parameters a stage trains, by patterns on their names, and what that amounts to."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from torch import nn

from phantrol.models.quantised import is_quantised

_WRAPPERS = ("module.", "base_model.model.")  # of a distributed model, of a PEFT model

_ADDED = ("*traversal_gate*", "*.phantom.*", "*lora_*")
# what text alone never reaches; the last two are a partial LoRA's: PEFT's have an adapter's name in between
_BEHIND_PICTURES = ("vision_tower.*", "projector.*", "positions.*", "*.lora_A.weight", "*.lora_B.weight")


@dataclass(frozen=True)
class PartRow:
    """One part of the model in the table: how many parameters it has, and how many of them are trained."""

    part: str
    parameters: int
    trained: int


def named_parameters(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Yield every parameter by the name it has in the bare model; a tied one by each of its names."""
    for name, parameter in model.named_parameters(remove_duplicate=False):
        yield bare_name(name), parameter


def bare_name(name: str) -> str:
    """Return a parameter's name without the prefixes of wrappers, so that patterns hold with and without PEFT."""
    for prefix in _WRAPPERS:
        name = name.removeprefix(prefix)
    return name


def train_only(model: nn.Module, patterns: Sequence[str]) -> None:
    """Let gradients reach the parameters whose names match one of the patterns, and no others.

    Raises ValueError for a pattern that matches nothing, and for one that matches a quantised parameter.
    """
    names = [name for name, _ in named_parameters(model)]
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            parts = ", ".join(dict.fromkeys(_part(name) for name in names))
            raise ValueError(
                f"train: got pattern {pattern!r}, which matches no parameter; expected e.g. one of {parts}"
            )
    model.requires_grad_(False)
    for name, parameter in named_parameters(model):
        if matches(name, patterns):
            if is_quantised(parameter):
                raise ValueError(f"train: got a pattern for {name}, which is quantised; expected adapters ('*lora_*')")
            parameter.requires_grad = True


def matches(name: str, patterns: Sequence[str]) -> bool:
    """Return whether a bare parameter name matches one of the patterns."""
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def trained_behind_pictures(model: nn.Module) -> list[nn.Parameter]:
    """Return the parameters that gradients reach, and only from rows with pictures."""
    return [p for name, p in named_parameters(model) if p.requires_grad and matches(name, _BEHIND_PICTURES)]


def vision_towers(model: nn.Module) -> list[nn.Module]:
    return [module for name, module in model.named_modules() if name.split(".")[-1] == "vision_tower"]


def frozen_towers(model: nn.Module) -> list[nn.Module]:
    """Return the vision towers of which nothing is trained. They are to be in eval mode: batch norms stand still."""
    return [tower for tower in vision_towers(model) if not any(p.requires_grad for p in tower.parameters())]


def parameter_groups(parameters: Sequence[nn.Parameter], weight_decay: float) -> list[dict[str, Any]]:
    """Return the groups of an optimiser: weight decay for matrices, none for norms, biases and single numbers."""
    decayed = [parameter for parameter in parameters if parameter.ndim >= 2]
    others = [parameter for parameter in parameters if parameter.ndim < 2]
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def trainable_table(model: nn.Module) -> list[PartRow]:
    """Return a row for each part of the model, in the order of its parameters, and one for the whole."""
    counts: dict[str, list[int]] = {}
    for name, parameter in model.named_parameters():
        row = counts.setdefault(_part(bare_name(name)), [0, 0])
        row[0] += parameter.numel()
        row[1] += parameter.numel() * parameter.requires_grad
    rows = [PartRow(part, *row) for part, row in counts.items()]
    return [*rows, PartRow("whole model", sum(r.parameters for r in rows), sum(r.trained for r in rows))]


def is_added(name: str) -> bool:
    """Return whether a bare parameter name is of what a modifier or an adapter added to the backbone."""
    return matches(name, _ADDED)


def _part(name: str) -> str:
    """Return the part a parameter belongs to, as a pattern: what a modifier added apart from what it was added to."""
    added = (pattern for pattern in _ADDED if fnmatchcase(name, pattern))
    return next(added, f"{name.split('.')[0]}.*")
