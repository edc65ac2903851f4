"""Packing: several sequences about one picture share one row, which computes their common prefix once; and several
rows become one without padding.

A row is [prefix][suffix 1][suffix 2]...; a suffix sees the prefix and itself, and its positions continue from the
prefix. So every token has the very context and position that it has in a row of its own, and the losses are equal.

N tokens of a row, B rows, I tiles.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate

import torch
from torch import Tensor

NOT_PREDICTED = -1


@dataclass(frozen=True)
class Line:
    """One conversation as tokens.

    input_ids     token ids
    sequence_ids  for each token, the sequence whose log-probability it is part of, or NOT_PREDICTED
    pixel_values  [I, 3, side, side] the tiles of its pictures, or None
    num_pictures  how many pictures that is
    """

    input_ids: list[int]
    sequence_ids: list[int]
    pixel_values: Tensor | None = None
    num_pictures: int = 0


@dataclass(frozen=True)
class Row:
    """One row of a batch: a line, with the segment (0 the prefix, 1.. the suffixes) and the position of each token."""

    line: Line
    segments: list[int] = field(default_factory=list)
    position_ids: list[int] = field(default_factory=list)

    @property
    def is_packed(self) -> bool:
        return bool(self.segments) and self.segments[-1] > 0


def runs(examples: Sequence[Sequence[Line]]) -> list[list[Line]]:
    """Return the lines of examples, those side by side in which the pictures are the same.

    Of text alone, those of which half and more is the same: all prompts of a chat template begin alike.

    examples  the lines of each: what is the same in these is always worth sharing
    """
    found: list[list[Line]] = []
    for lines in examples:
        if found and _begin_alike(found[-1][0], lines[0]):
            found[-1] += lines
        else:
            found.append([*lines])
    return found


def pack(lines: Sequence[Line], image_token_id: int) -> list[Row]:
    """Return the lines as one row that shares their prefix, or as a row each where they share too little.

    They share a row if the tokens that they have in common from the start on include all image tokens, and the pictures
    are the same. The prefix ends one token before the first answer begins, because the last token before an answer
    predicts its first one, and each suffix must predict its own.
    """
    length = _prefix_length(lines)
    first = lines[0]
    covered = all(
        line.input_ids[length:].count(image_token_id) == 0 and _same_pictures(line.pixel_values, first.pixel_values)
        for line in lines
    )
    if len(lines) == 1 or length == 0 or not covered:
        return [plain_row(line) for line in lines]
    input_ids, sequence_ids = first.input_ids[:length], first.sequence_ids[:length]
    segments, position_ids = [0] * length, list(range(length))
    for number, line in enumerate(lines, start=1):
        input_ids = input_ids + line.input_ids[length:]
        sequence_ids = sequence_ids + line.sequence_ids[length:]
        segments += [number] * (len(line.input_ids) - length)
        position_ids += range(length, len(line.input_ids))
    shared = Line(input_ids, sequence_ids, first.pixel_values, first.num_pictures)
    return [Row(shared, segments, position_ids)]


def plain_row(line: Line) -> Row:
    """Return a row that holds one line and nothing else."""
    return Row(line, [0] * len(line.input_ids), list(range(len(line.input_ids))))


def visible(segments: Tensor) -> Tensor:
    """Return which token sees which, [B, 1, N, N] bool: itself, and what comes before it in its segment and the prefix.

    segments  [B, N]  0 the prefix, 1.. the suffixes, -1 padding at the end of the row
    """
    query, key = segments[:, None, :, None], segments[:, None, None, :]
    num_tokens = segments.shape[1]
    causal = torch.ones(num_tokens, num_tokens, dtype=torch.bool, device=segments.device).tril()
    return causal & ((key == 0) | (key == query))


def join(rows: Sequence[Row]) -> Row:
    """Return one row that holds all rows one after another.

    Positions begin again with each. A first token is nobody's to predict: the token before it is of another row.
    """
    sequence_ids = [number for row in rows for number in (NOT_PREDICTED, *row.line.sequence_ids[1:])]
    pictures = [row.line.pixel_values for row in rows if row.line.pixel_values is not None]
    line = Line(
        [token for row in rows for token in row.line.input_ids],
        sequence_ids,
        torch.cat(pictures) if pictures else None,
        sum(row.line.num_pictures for row in rows),
    )
    segments, position_ids = ([n for row in rows for n in getattr(row, name)] for name in ("segments", "position_ids"))
    return Row(line, segments, position_ids)


def _prefix_length(lines: Sequence[Line]) -> int:
    same = (len(set(tokens)) == 1 for tokens in zip(*(line.input_ids for line in lines), strict=False))
    common = sum(accumulate(same, lambda all_so_far, here: all_so_far and here))
    return max(0, min(common, *(_first_predicted(line) - 1 for line in lines)))


def _first_predicted(line: Line) -> int:
    return next((i for i, number in enumerate(line.sequence_ids) if number != NOT_PREDICTED), len(line.input_ids))


def _begin_alike(one: Line, other: Line) -> bool:
    if not _same_pictures(one.pixel_values, other.pixel_values):
        return False
    shortest = min(len(one.input_ids), len(other.input_ids))
    return one.pixel_values is not None or 2 * _prefix_length([one, other]) >= shortest


def _same_pictures(one: Tensor | None, other: Tensor | None) -> bool:
    if one is None or other is None or one is other:
        return one is other
    return one.shape == other.shape and torch.equal(one, other)
