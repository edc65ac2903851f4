"""How likely each of several answers is in a model's eyes: nothing is generated, all of them are read.

R rows (choices of all chats), N tokens of a row, M tokens of all choices, I tiles, S tile side in pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from math import isnan
from typing import Any

import torch
from torch import Tensor

from phantrol.data.collate import IGNORED
from phantrol.inference.finite_logits import NOT_FINITE
from phantrol.models.conversation import Chat
from phantrol.models.processing import Encoding
from phantrol.ops.logprobs import sequence_means


@dataclass(frozen=True)
class Ranking:
    """logprobs  of each choice, the mean over its tokens with the end of turn: a long answer is not worse for it"""

    logprobs: tuple[float, ...]

    @property
    def best(self) -> int:
        """The most likely choice, the first of those that are equally likely."""
        return max(range(len(self.logprobs)), key=self.logprobs.__getitem__)


def encode_choices(
    processor: Any, chat: Chat, choices: Sequence[str], check: Callable[[Encoding], None]
) -> list[Encoding]:
    """Return the chat with each choice as what the assistant says next. Its pictures are read once.

    check  raises ValueError for an encoding that the model cannot read
    Raises ValueError for a chat or a choice that the processor refuses, and without choices.
    """
    if not choices:
        raise ValueError("got no choices, expected the texts of at least one answer")
    said = [[*chat, {"role": "assistant", "content": choice}] for choice in choices]
    found = processor.encode_group(said)
    for encoding in found:
        check(encoding)
    return found


@torch.inference_mode()
def rank(model: Any, groups: Sequence[Sequence[Encoding]], pad_id: int) -> list[Ranking]:
    """Return the ranking of each group of encodings, which differ in the last answer alone: earlier ones are read, not
    compared. Raises ValueError if a number that the model gives is none."""
    rows = [encoding for group in groups for encoding in group]
    longest = max(len(row.input_ids) for row in rows)
    input_ids = torch.full((len(rows), longest), pad_id)  # [R, N]
    mask, labels = torch.zeros_like(input_ids), torch.full_like(input_ids, IGNORED)
    for index, row in enumerate(rows):
        ids, begins = torch.tensor(row.input_ids), row.last_answer
        input_ids[index, : len(ids)], mask[index, : len(ids)] = ids, 1
        labels[index, begins : len(ids)] = ids[begins:].where(torch.tensor(row.answer_mask[begins:]), IGNORED)
    inputs = {"input_ids": input_ids, "attention_mask": mask, "labels": labels} | _pictures(groups)
    inputs = {name: tensor.to(model.device) for name, tensor in inputs.items()}
    logprobs = model(**inputs, use_cache=False).token_logprobs  # [M]
    owners = (labels[:, 1:] != IGNORED).nonzero()[:, 0].to(logprobs.device)
    found = sequence_means(logprobs, owners, len(rows)).tolist()
    if any(map(isnan, found)):
        raise ValueError(NOT_FINITE)
    means = iter(found)
    return [Ranking(tuple(next(means) for _ in group)) for group in groups]


def _pictures(groups: Sequence[Sequence[Encoding]]) -> dict[str, Tensor]:
    """Return pixel_values [I, 3, S, S] of all chats, each once, and as `tile_order` which tiles each row shows."""
    tiles = [group[0].pixel_values for group in groups]
    if all(each is None for each in tiles):
        return {}
    numbers = [0 if each is None else len(each) for each in tiles]
    starts = accumulate(numbers, initial=0)
    order = [
        start + tile
        for start, number, group in zip(starts, numbers, groups, strict=False)
        for _ in group
        for tile in range(number)
    ]
    return {"pixel_values": torch.cat([each for each in tiles if each is not None]), "tile_order": torch.tensor(order)}
