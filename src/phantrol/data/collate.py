"""From groups of examples to the tensors of a batch.

B rows, N tokens of the longest row, I tiles, M labelled tokens, P preference pairs.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, count
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from phantrol.data.messages import Example, Message, Picture
from phantrol.data.mixture import Group
from phantrol.data.packing import NOT_PREDICTED, Line, Row, join, pack, plain_row, runs, visible
from phantrol.ops.blocks import additive

IGNORED = -100  # the label of a token that no loss looks at
_SAID = -2  # in place of a sequence: of an answer, as NOT_PREDICTED is of a prompt, but no loss looks at it
_KINDS = {"incorrect": 0, "ambiguous": 1}


@dataclass
class Collator:
    """Turns groups of examples into a batch.

    processor      a PhantrolProcessor
    pairs          encode the rejected answers too (a loss that needs no pairs does without)
    pack           let the sequences of a group that are about the same pictures share one row; False for attention
                   that takes no additive mask
    dtype          of the additive mask: the dtype of the model
    window_tokens  the sliding window of the decoder, if it has one. An additive mask switches the window off, so a
                   batch with a sequence longer than that is not packed
    padding_free   make one row of the whole batch: rows become blocks that do not see each other
    max_tokens     of a sequence, if the decoder was made for so many
    """

    processor: Any
    pairs: bool = True
    pack: bool = True
    dtype: torch.dtype = torch.float32
    window_tokens: int | None = None
    padding_free: bool = False
    max_tokens: int | None = None

    def __call__(self, groups: Sequence[Group]) -> dict[str, Any]:
        """Return the batch:

        input_ids, position_ids, labels  [B, N]   padded on the right; labels are -100 where nothing is predicted
        prompt_mask     [B, N]   True where no answer is; an earlier answer is one in the row of a rejected one too
        attention_mask  [B, N], or additive [B, 1, N, N] as soon as one row is packed
        blocks          in place of it where the batch is one row (see ops/blocks.py)
        pixel_values    [I, 3, side, side], absent without pictures
        sequence_ids    [M]  which sequence each labelled token belongs to, row-major over labels[:, 1:] != -100
        chosen, rejected, rejected_kind  [P]  sequence numbers of each pair; kind 0 incorrect, 1 ambiguous
        num_sequences, num_pictures, example_ids
        row_tokens      B numbers: how many tokens of each row are no padding

        In an example with pairs only the last answer is compared. Earlier answers of the chosen side are to be
        imitated still: they are a sequence of their own. Raises ValueError, with the example's id, where nothing is to
        be learnt, or where it is too long.
        """
        numbers, pairs = count(), []
        encoders = [_GroupEncoder(self.processor) for _ in groups]
        lines = [
            run
            for group, encoder in zip(groups, encoders, strict=True)
            for run in runs([self._lines(example, encoder, numbers, pairs) for example in group])
        ]
        longest = max(len(line.input_ids) for run in lines for line in run)
        may_pack = self.pack and longest <= (self.window_tokens or longest)
        image_token_id = self.processor.image_token_id
        rows = [row for run in lines for row in (pack(run, image_token_id) if may_pack else map(plain_row, run))]
        chosen, rejected, kinds = zip(*pairs, strict=True) if pairs else ((), (), ())
        joined = [join(rows)] if self.padding_free else rows
        return (
            self._tensors(joined)
            | self._who_sees_whom(rows)
            | {
                "chosen": torch.tensor(chosen, dtype=torch.long),
                "rejected": torch.tensor(rejected, dtype=torch.long),
                "rejected_kind": torch.tensor(kinds, dtype=torch.long),
                "num_sequences": next(numbers),
                "num_pictures": sum(row.line.num_pictures for row in rows),
                "row_tokens": [len(row.segments) for row in joined],
                "example_ids": [example.id for group in groups for example in group],
            }
        )

    def _lines(
        self, example: Example, encoder: _GroupEncoder, numbers: count, pairs: list[tuple[int, int, int]]
    ) -> list[Line]:
        """Return the chosen line of an example and its rejected ones; adds to `pairs`."""
        rejected = example.rejected if self.pairs else ()
        several_answers = sum(message.role == "assistant" for message in example.messages) > 1
        last = next(numbers)
        earlier = next(numbers) if rejected and several_answers else last
        lines = [_line(example, encoder(example.messages), last, earlier)]
        for answer in rejected:
            number = next(numbers)
            pairs.append((last, number, _KINDS[answer.kind]))
            swapped = (*example.messages[:-1], Message("assistant", (answer.text,)))
            lines.append(_line(replace(example, messages=swapped), encoder(swapped), number, _SAID))
        longest = max(len(line.input_ids) for line in lines)
        if self.max_tokens is not None and longest > self.max_tokens:
            raise ValueError(
                f"example {example.id}: got {longest} tokens, expected at most {self.max_tokens}, "
                "as the decoder has no more positions: shorten it, or cut its pictures into fewer tiles"
            )
        return lines

    def _tensors(self, rows: Sequence[Row]) -> dict[str, Tensor]:
        tokenizer = self.processor.tokenizer
        num_tokens = _longest(rows)
        input_ids = _padded([row.line.input_ids for row in rows], num_tokens, tokenizer.pad_token_id or 0)
        owners = _padded([row.line.sequence_ids for row in rows], num_tokens, NOT_PREDICTED)
        labels = torch.where(owners >= 0, input_ids, IGNORED)
        tensors = {
            "input_ids": input_ids,
            "position_ids": _padded([row.position_ids for row in rows], num_tokens, 0),
            "labels": labels,
            "prompt_mask": owners == NOT_PREDICTED,
            "sequence_ids": owners[:, 1:][labels[:, 1:] != IGNORED],
        }
        pictures = [row.line.pixel_values for row in rows if row.line.pixel_values is not None]
        return tensors | ({"pixel_values": torch.cat(pictures)} if pictures else {})

    def _who_sees_whom(self, rows: Sequence[Row]) -> dict[str, Any]:
        if self.padding_free:
            ends = accumulate(len(row.segments) for row in rows)
            return {
                "blocks": [
                    (end, self._mask([row]) if row.is_packed else None) for end, row in zip(ends, rows, strict=True)
                ]
            }
        if any(row.is_packed for row in rows):
            return {"attention_mask": self._mask(rows)}
        return {"attention_mask": _padded([[1] * len(row.segments) for row in rows], _longest(rows), 0)}

    def _mask(self, rows: Sequence[Row]) -> Tensor:
        segments = _padded([row.segments for row in rows], _longest(rows), -1)
        return additive(visible(segments), self.dtype)


class _GroupEncoder:
    """Encodes the conversations of one group. They share a picture, which is opened and cut into tiles once."""

    def __init__(self, processor: Any):
        self.processor, self.image_processor = copy.copy(processor), processor.image_processor
        self.processor.image_processor = self._tiles
        self.tiles: dict[tuple[int | Path, ...], Any] = {}

    def __call__(self, messages: Sequence[Message]) -> Any:
        return self.processor.encode([message.as_chat() for message in messages])

    def _tiles(self, pictures: Sequence[Picture]) -> Any:
        key = tuple(picture if isinstance(picture, Path) else id(picture) for picture in pictures)
        if key not in self.tiles:
            self.tiles[key] = self.image_processor(pictures)
        return self.tiles[key]


def _line(example: Example, encoding: Any, last: int, earlier: int) -> Line:
    """Return an encoding as a line: the tokens of its last answer belong to sequence `last`, others to `earlier`."""
    if not any(encoding.answer_mask[1:]):
        raise ValueError(f"example {example.id}: got no token for the model to say, expected an answer with text")
    begins, answers = encoding.last_answer, encoding.answer_mask
    sequence_ids = [NOT_PREDICTED if not said else last if i >= begins else earlier for i, said in enumerate(answers)]
    num_pictures = sum(len(message.pictures) for message in example.messages)
    return Line(list(encoding.input_ids), sequence_ids, encoding.pixel_values, num_pictures)


def _longest(rows: Sequence[Row]) -> int:
    return max(len(row.segments) for row in rows)


def _padded(rows: Sequence[Sequence[int]], num_tokens: int, value: int) -> Tensor:
    return torch.tensor([[*row, *([value] * (num_tokens - len(row)))] for row in rows], dtype=torch.long)
