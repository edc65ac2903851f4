"""The weights of a checkpoint: saved so that `phantrol.load` can open it, and read back tensor by tensor."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from phantrol.models.quantised import is_quantised
from phantrol.training.trainable import bare_name, matches

_TRAINED = "trained.safetensors"


def is_peft(model: nn.Module) -> bool:
    return hasattr(model, "peft_config") and hasattr(model, "disable_adapter")


def in_float32(model: nn.Module) -> None:
    """Widen what was saved in 16 bits, in place; quantised weights stay as they are.

    In float16 AdamW's second moments underflow, so that steps are thousands of times too large; in bfloat16 most steps
    are rounded away. What is frozen goes along: where a stage computes in float32, the dtypes of neighbours must agree.
    """
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.dtype in (torch.float16, torch.bfloat16) and not is_quantised(tensor):
            tensor.data = tensor.data.float()


def save_weights(
    model: nn.Module,
    processor: Any,
    patterns: Collection[str],
    folder: Path,
    state_dict: dict[str, Tensor] | None = None,
) -> None:
    """Save a model and its processor into `folder`.

    patterns    of the parameters that any stage so far has trained. Under PEFT these alone are saved, since the rest is
                what the recipe builds (perhaps quantised); otherwise the whole model is, and `phantrol.load` opens it
    state_dict  the `saved_names` of a model that is spread over ranks, gathered
    """
    if is_peft(model):
        folder.mkdir(parents=True, exist_ok=True)
        trained = trained_tensors(model, patterns) if state_dict is None else state_dict
        save_file({name: tensor.contiguous() for name, tensor in trained.items()}, folder / _TRAINED)
    else:
        # in the names that the parameters have in memory: some families are stored under others
        model.save_pretrained(folder, state_dict=state_dict, save_original_format=False)
        processor.save_pretrained(folder)


def load_weights(model: nn.Module, patterns: Collection[str], folder: Path) -> None:
    """Read back what `save_weights` saved from this very model.

    Raises ValueError if a tensor is missing or left over.
    """
    saved: dict[str, Tensor] = {}
    for path in sorted(folder.glob("*.safetensors")):
        saved |= load_file(path)
    expected = saved_names(model, patterns)
    tied = {name for name in expected - set(saved) if _is_tied(model, name, saved)}
    missing, left_over = sorted(expected - set(saved) - tied), sorted(set(saved) - expected)
    if missing or left_over:
        raise ValueError(
            f"{folder} does not fit the recipe's model: missing {missing[:3]} ({len(missing)}), left over "
            f"{left_over[:3]} ({len(left_over)}); start a new run, or go back to the recipe that it was made with"
        )
    model.load_state_dict(saved, strict=False)


def saved_names(model: nn.Module, patterns: Collection[str]) -> set[str]:
    """Return the names of the tensors that `save_weights` saves."""
    return set(trained_tensors(model, patterns) if is_peft(model) else model.state_dict())


def trained_tensors(model: nn.Module, patterns: Collection[str]) -> dict[str, Tensor]:
    """Return the parameters that stages have trained, a tied one by the first of its names that matches, and all
    buffers: a batch norm's move without gradients."""
    names: dict[int, str] = {}
    others = set()
    for name, parameter in model.named_parameters(remove_duplicate=False):
        is_first = matches(bare_name(name), tuple(patterns)) and names.setdefault(id(parameter), name) == name
        if not is_first:
            others.add(name)
    return {name: tensor for name, tensor in model.state_dict().items() if name not in others}


def _is_tied(model: nn.Module, name: str, saved: Collection[str]) -> bool:
    """Return whether a parameter that was not saved is the same tensor as one that was."""
    parameters = dict(model.named_parameters(remove_duplicate=False))
    return name in parameters and any(parameters[name] is parameters.get(other) for other in saved)
