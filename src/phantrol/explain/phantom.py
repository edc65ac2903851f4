"""What the phantom adds: how large its term is beside what attention says without it.

R rows (one pass of one layer that has a phantom dimension), H query heads, N tokens of the prompt, d head size.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor, nn

from phantrol.explain.prompt import Hook, PictureTokens, read_prompt
from phantrol.models.conversation import Chat


@dataclasses.dataclass(frozen=True)
class PhantomTerm:
    """What the phantom dimension added in one prompt.

    question  the text of the chat's last message
    shares    [R, H, N] rms((1 - w)·η·P·y_V) / rms(P·V) over the d numbers of a head: 0 adds nothing, 1 as much as the
              head says by itself; 0 where the head says nothing
    rows      R pairs (index of the decoder layer, pass of it, 0 is the first), in the order of the layers
    tokens    N texts
    is_image  N flags
    """

    question: str
    shares: Tensor
    rows: tuple[tuple[int, int], ...]
    tokens: tuple[str, ...]
    is_image: tuple[bool, ...]
    pictures: tuple[PictureTokens, ...]

    def by_token(self) -> Tensor:
        """Return the mean over heads: [R, N]."""
        return self.shares.mean(1)

    def by_head(self) -> Tensor:
        """Return the mean over tokens: [R, H]."""
        return self.shares.mean(2)


def term_share(first: Tensor, both: Tensor, first_score: Tensor, second_score: Tensor) -> Tensor:
    """Return rms((1 - w)·(h2 - h1)) / rms(h1), with w = σ(g1(h1) - g2(h2)).                    [Phantom, eq. 3]

    first, both                [..., d]  h1 = P·V and h2 = h1 + η·P·y_V
    first_score, second_score  [..., 1]  g1(h1) and g2(h2)
    →                          [...]     0 where h1 is 0

    The term is read off h2, as the model holds it: in bfloat16 what is below 1/256 of h1 is lost there.
    """
    first, both = first.double(), both.double()
    kept = torch.sigmoid(second_score.double() - first_score.double())
    size = first.square().mean(-1).sqrt()
    added = (kept * (both - first)).square().mean(-1).sqrt()
    return torch.where(size > 0, added / size.clamp(min=torch.finfo(size.dtype).tiny), 0.0)


def trace_phantom(model: Any, processor: Any, chat: Chat) -> PhantomTerm:
    """Run the model once over a chat and return what its phantom dimension added.

    chat  as for `Engine`; where it ends with a question, the marker that opens the answer is part of the prompt
    Raises ValueError if no layer of the model has a phantom dimension.
    """
    attentions = {i: getattr(layer, "self_attn", None) for i, layer in enumerate(model.get_decoder().layers)}
    parts = {
        i: part for i, attention in attentions.items() if (part := getattr(attention, "phantom", None)) is not None
    }
    if not parts:
        raise ValueError("no layer of this model has a phantom dimension: graft PhantomConfig() on its decoder")
    prompt = read_prompt(model, processor, chat)
    heard: dict[int, list[Tensor]] = {index: [] for index in parts}
    hooks = [hook for index, part in parts.items() for hook in _ears(part, heard[index])]
    prompt.run(model, hooks)
    return PhantomTerm(
        question=prompt.question,
        shares=torch.stack([share for shares in heard.values() for share in shares]),
        rows=tuple((index, number) for index, shares in heard.items() for number in range(len(shares))),
        tokens=prompt.tokens,
        is_image=prompt.is_image,
        pictures=prompt.pictures,
    )


def _ears(phantom: nn.Module, heard: list[Tensor]) -> list[tuple[nn.Module, Hook]]:
    """Listen to both gates of one layer: between them they are told h1 and h2 [B, N, H, d], the first one first."""
    waiting: list[tuple[Tensor, Tensor]] = []

    def remember(gate: nn.Module, args: Any, score: Tensor) -> None:
        waiting.append((args[0], score))

    def compare(gate: nn.Module, args: Any, score: Tensor) -> None:
        first, first_score = waiting.pop()
        share = term_share(first, args[0], first_score, score)  # [B, N, H]
        heard.append(share[0].T.float().cpu())

    return [(phantom.gate_1, remember), (phantom.gate_2, compare)]
