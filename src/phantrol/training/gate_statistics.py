"""What the gates of the modifiers say while a model trains: how much of each layer is used.

gates/layer_03/ratio      mean of w, the share of the second pass, over the tokens that traverse: those of prompts
                          with `tokens="prompt"`, else all                                            [TroL, section 3]
gates/layer_03/over_half  share of these tokens with w > 1/2
phantom/layer_03/share    rms((1 - w)·η·P·y_V) / rms(P·V): how large the phantom's term is beside attention without it

They are of the step that a line of the log ends with, so nothing is computed in other steps, and padding is left out.
Layers that share a gate are `layer_all`.

B rows, N tokens, H heads, d size of a head.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from phantrol.training.meters import Meters

GATES, PHANTOM = "gates", "phantom"


class GateStatistics:
    """Listens to the gates of a model that is grafted with TroL or Phantom; of another one it says nothing."""

    def __init__(self, model: nn.Module, log_every_steps: int, max_steps: int):
        self.log_every_steps, self.max_steps = log_every_steps, max_steps
        self.gates, self.phantoms = _by_layer(model, "traversal_gate"), _by_layer(model, "phantom")
        self.prompt_only = any(getattr(module, "traversal_tokens", None) == "prompt" for module in model.modules())

    @contextmanager
    def listening(self, meters: Meters, batch: dict[str, Any], step: int) -> Iterator[None]:
        """Add to `meters` what the gates say of a micro-batch inside the block. No number of the model is touched.

        step  the one that is being taken; nothing is done unless a line of the log follows it
        """
        if step % self.log_every_steps and step != self.max_steps:
            yield
            return
        ears = _Ears(meters, batch["row_tokens"], batch["prompt_mask"] if self.prompt_only else None)
        with ExitStack() as hooks:
            for gate, layer in self.gates.items():
                hooks.enter_context(_hook(gate, ears.of_gate(f"{GATES}/layer_{layer}")))
            for phantom, layer in self.phantoms.items():
                first, both = ears.of_phantom(f"{PHANTOM}/layer_{layer}/share")
                hooks.enter_context(_hook(phantom.gate_1, first))
                hooks.enter_context(_hook(phantom.gate_2, both))
            yield


class _Ears:
    """row_tokens  how many tokens of each row are no padding;  traversing  [B, N] which tokens traverse, None: all"""

    def __init__(self, meters: Meters, row_tokens: list[int], traversing: Tensor | None):
        self.meters, self.row_tokens, self.count = meters, row_tokens, sum(row_tokens)
        self.traversing = None if traversing is None else traversing & self._real(traversing)
        self.traversing_count = self.count if traversing is None else int(self.traversing.sum())

    def of_gate(self, name: str) -> Callable[..., None]:
        @torch.no_grad()
        def hear(gate: nn.Module, args: Any, ratio: Tensor) -> None:
            ratio = ratio.detach()[..., 0].float()  # [B, N]
            heard = self._real(ratio) if self.traversing is None else self.traversing
            self.meters.add(f"{name}/ratio", (ratio * heard).sum(), self.traversing_count)
            self.meters.add(f"{name}/over_half", ((ratio > 0.5) & heard).float().sum(), self.traversing_count)

        return hear

    def of_phantom(self, name: str) -> tuple[Callable[..., None], Callable[..., None]]:
        """The two gates of a layer are told h1 and h2 = h1 + η·P·y_V, [B, N, H, d], one after the other."""
        waiting: list[tuple[Tensor, Tensor]] = []

        def remember(gate: nn.Module, args: Any, score: Tensor) -> None:
            waiting.append((args[0].detach(), score.detach()))

        @torch.no_grad()
        def compare(gate: nn.Module, args: Any, score: Tensor) -> None:
            first, first_score = waiting.pop()
            kept = torch.sigmoid(score.detach().float() - first_score.float())
            real = self._real(first)[..., None, None]
            added = (kept * (args[0].detach() - first) * real).square().sum()
            share = (added / (first * real).float().square().sum().clamp(min=1e-30)).sqrt()
            self.meters.add(name, share * self.count, self.count)

        return remember, compare

    def _real(self, like: Tensor) -> Tensor:
        """Which tokens are no padding, [B, N]; rows are padded at the end."""
        lengths = torch.tensor(self.row_tokens, device=like.device)
        return torch.arange(like.shape[1], device=like.device) < lengths[:, None]


@contextmanager
def _hook(module: nn.Module, ear: Callable[..., None]) -> Iterator[None]:
    handle = module.register_forward_hook(ear)
    try:
        yield
    finally:
        handle.remove()


def _by_layer(model: nn.Module, attribute: str) -> dict[nn.Module, str]:
    """Return each module of that name and the number of its decoder layer, or `all` for one that layers share."""
    found: dict[nn.Module, list[str]] = {}
    for name, module in model.named_modules():
        numbers = [part for part in name.split(".") if part.isdigit()]
        part = getattr(module, attribute, None)
        if part is not None and numbers:
            found.setdefault(part, []).append(numbers[-1].zfill(2))
    return {part: layers[0] if len(layers) == 1 else "all" for part, layers in found.items()}
