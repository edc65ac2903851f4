"""Which layers keep their second pass within a budget: `phantrol calibrate` listens to a trained model on some data.

A layer whose second pass moves tokens little is left out: it runs once, and has no slot in the cache. How far it moves
a token is ‖y - h1‖ / ‖h1‖, h1 its first pass and y what it returns: w·‖h2 - h1‖ / ‖h1‖ where there are two. That is not
what the pass is worth, so the loss of the answers is told for what is kept, for all and for none.

B rows, N tokens of a row, L layers with a gate, T real tokens of all rows (those of prompts, if only prompts traverse).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from math import ceil, inf, isfinite
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from phantrol.data.collate import Collator
from phantrol.inference.finite_logits import NOT_FINITE
from phantrol.losses.base import token_logprobs
from phantrol.models.configuration import most_tokens
from phantrol.models.longrope import switch_lengths
from phantrol.modifiers.trol import skip_traversal, traversal_of

USUAL_BUDGET = 1.3


@dataclasses.dataclass(frozen=True)
class Recording:
    """What the gates said, and what came of it.

    layers  L indices of decoder layers, all that have a gate
    ratios  [L, T]  w of each layer and token;  moved  [L, T]  ‖y - h1‖ / ‖h1‖
    loss    mean cross entropy of the tokens of the answers
    """

    layers: tuple[int, ...]
    ratios: Tensor
    moved: Tensor
    loss: float


@dataclasses.dataclass(frozen=True)
class Calibration:
    """What was recorded with every layer traversing, and what is left out.

    skip       layers that run once from now on;  cost  passes of all layers, the plain decoder being 1
    loss       of the answers with them left out
    loss_none  with every second pass left out
    """

    recording: Recording
    skip: tuple[int, ...]
    cost: float
    loss: float
    loss_none: float

    def as_dict(self) -> dict[str, Any]:
        said = self.recording
        layers = [
            {
                "layer": layer,
                "traverses": layer not in self.skip,
                "moved": float(moved.mean()),
                "ratio": float(ratio.mean()),
                "ratio_quantiles": np.quantile(ratio.numpy(), [0.05, 0.25, 0.5, 0.75, 0.95]).tolist(),
                "over_half": float((ratio > 0.5).float().mean()),
            }
            for layer, ratio, moved in zip(said.layers, said.ratios, said.moved, strict=True)
        ]
        return {
            "cost": self.cost, "skip": list(self.skip), "tokens": said.ratios.shape[1], "loss_all": said.loss,
            "loss": self.loss, "loss_none": self.loss_none, "layers": layers,
        }  # fmt: skip


def calibrate(
    model: Any, processor: Any, groups: Iterable[Any], budget: float | None, batch_size: int = 8
) -> Calibration:
    """Choose the layers that traverse within a budget, set the model so, in place, and return what was found.

    groups   of examples, as a source gives them
    budget   of passes, the plain decoder being 1; None: USUAL_BUDGET, or what one layer costs where that is more
    Raises ValueError if no layer has a gate, there are no examples, one is too long, the budget is none of its, or a
    number that the model gives is none.
    """
    trol = traversal_of(model.get_decoder())
    batches = list(_batches(processor, groups, batch_size, model))
    most = passes_within(budget, trol.num_layers, trol.config.passes)
    skip_traversal(model.get_decoder(), ())
    recording = record(model, batches)
    if not (isfinite(recording.loss) and recording.moved.isfinite().all()):
        raise ValueError(NOT_FINITE)
    order = recording.moved.mean(dim=1).argsort(descending=True, stable=True).tolist()
    skip = tuple(sorted(recording.layers[i] for i in order[most:]))
    skip_traversal(model.get_decoder(), recording.layers)
    loss_none = answer_loss(model, batches)
    skip_traversal(model.get_decoder(), skip)
    cost = 1 + (len(recording.layers) - len(skip)) * (trol.config.passes - 1) / trol.num_layers
    return Calibration(recording, skip, cost, answer_loss(model, batches), loss_none)


def passes_within(budget: float | None, num_layers: int, passes: int) -> int:
    """Return how many of a decoder's layers may traverse; for the budget see `calibrate`.

    Raises ValueError for a budget below 1, one that is no finite number, and one above 1 that no layer fits in.
    """
    step = (passes - 1) / num_layers
    budget = max(USUAL_BUDGET, 1 + step) if budget is None else budget
    most = int(min((budget - 1) / step + 1e-6, num_layers)) if 1 <= budget < inf else 0
    if most == 0 and budget != 1:
        raise ValueError(
            f"a budget of {budget:g}: expected 1 (no layer traverses), or {ceil(100 * (1 + step) - 1e-6) / 100:g} and "
            f"more, what one of {num_layers} layers costs"
        )
    return most


def record(model: Any, batches: Sequence[dict[str, Any]]) -> Recording:
    """Run the model over batches and return what its gates said; layers that are skipped say nothing and are left out.

    batches  as a Collator makes them
    """
    prompt_only = traversal_of(model.get_decoder()).prompt_only
    heard: dict[int, list[tuple[Tensor, Tensor]]] = {}
    total, count = 0.0, 0
    for batch in batches:
        said: dict[int, tuple[Tensor, Tensor]] = {}
        with _listening(model.get_decoder().layers, said), torch.inference_mode():
            logprobs = token_logprobs(model, batch)
        real = batch["attention_mask"].bool()
        if prompt_only:
            real &= batch["labels"] == -100
        for index, (ratio, moved) in said.items():
            heard.setdefault(index, []).append((ratio[real].float().cpu(), moved[real].float().cpu()))
        total, count = total - float(logprobs.sum()), count + len(logprobs)
    ratios, moved = (torch.stack([torch.cat([pair[k] for pair in heard[i]]) for i in heard]) for k in (0, 1))
    return Recording(tuple(heard), ratios, moved, total / count)


def answer_loss(model: Any, batches: Sequence[dict[str, Any]]) -> float:
    """Return the mean cross entropy of the tokens of the answers."""
    with torch.inference_mode():
        logprobs = torch.cat([token_logprobs(model, batch) for batch in batches])
    return -float(logprobs.mean())


def _batches(processor: Any, groups: Iterable[Any], batch_size: int, model: Any) -> Iterator[dict[str, Any]]:
    longest = most_tokens(model.config)
    groups, collate = list(groups), Collator(processor, pairs=False, pack=False, max_tokens=longest)
    if not groups:
        raise ValueError("there are no examples to calibrate on: expected at least one")
    if switch_lengths(model.config):  # where the longest row of a batch decides the angles of all
        groups, batch_size = [[example] for group in groups for example in group], 1
    for start in range(0, len(groups), batch_size):
        batch = collate(groups[start : start + batch_size])
        yield {k: v.to(model.device) if isinstance(v, Tensor) else v for k, v in batch.items()}


@contextmanager
def _listening(layers: Sequence[nn.Module], said: dict[int, tuple[Tensor, Tensor]]) -> Iterator[None]:
    """Put (w, ‖y - h1‖ / ‖h1‖) of each layer that traverses into `said`: [B, N] each."""
    waiting: list[tuple[Tensor, Tensor]] = []

    def of_gate(gate: nn.Module, args: Any, ratio: Tensor) -> None:
        waiting.append((args[0], ratio))

    def of_layer(index: int) -> Callable[..., None]:
        def hear(layer: nn.Module, args: Any, output: Any) -> None:
            if waiting:  # of more than two passes the first gate decides whether a token goes on at all
                (first, ratio), mixed = waiting[0], output[0] if isinstance(output, tuple) else output
                size = first.float().norm(dim=-1).clamp(min=1e-30)
                said[index] = ratio[..., 0], (mixed - first).float().norm(dim=-1) / size
                waiting.clear()

        return hear

    gates = {id(layer.traversal_gate): layer.traversal_gate for layer in layers if hasattr(layer, "traversal_gate")}
    hooks = [gate.register_forward_hook(of_gate) for gate in gates.values()]
    hooks += [layer.register_forward_hook(of_layer(index)) for index, layer in enumerate(layers)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
