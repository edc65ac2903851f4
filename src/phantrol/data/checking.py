"""Rows examined one by one: what is wrong with each, how many tokens it takes, how large its pictures are."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from phantrol.data.broken import REASONS, BrokenRow
from phantrol.data.layouts import read_draft
from phantrol.data.messages import Message, Picture
from phantrol.data.pictures import picture_size, place
from phantrol.data.sources.file import check_texts, image_folder
from phantrol.data.token_counting import Size, TokenCounter

REMEMBERED_PICTURES = 65536  # pictures whose size is kept: rows share them


@dataclass(frozen=True)
class Question:
    """What is asked of rows.

    images      the folder that paths of images start from; by default that of each file
    fields      names of one's own fields, as in FileSource
    model       a saved model, whose processor counts tokens; without one nothing is counted
    max_tokens  longer rows are broken; by default what the model's decoder was made for
    decode      read pictures to their last pixel, not their heads alone
    allowed     reasons that are let pass

    Raises ValueError for an unknown reason, and a limit without a model to count by.
    """

    images: Path | None = None
    fields: Mapping[str, str] = field(default_factory=dict)
    model: str | None = None
    max_tokens: int | None = None
    decode: bool = False
    allowed: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        unknown = [reason for reason in self.allowed if reason not in REASONS]
        if unknown:
            raise ValueError(f"unknown reason {unknown[0]!r}: expected some of {', '.join(REASONS)}")
        if self.max_tokens is not None and self.max_tokens < 1:
            raise ValueError(f"max_tokens: got {self.max_tokens}, expected 1 or more")
        if self.max_tokens is not None and self.model is None:
            raise ValueError(f"max_tokens {self.max_tokens} needs a model that counts them: name it with --model")


@dataclass(frozen=True)
class Fault:
    """A broken row: its number from 0, its line if the file has lines, the reason (a key of REASONS), and details."""

    index: int
    line: int | None
    reason: str
    detail: str


@dataclass
class Findings:
    """What was found in some rows of a file, in their order.

    ids     [R] uint64, a digest of the id of each row, 0 where it has none
    tokens  [K] int32 of the rows that could be counted
    sizes   [P, 2] int32 width and height of the pictures that could be read
    shown   rows that have a picture, be it readable or not
    """

    faults: list[Fault]
    ids: np.ndarray
    tokens: np.ndarray
    sizes: np.ndarray
    shown: int = 0


class Checker:
    """Examines rows. A row with several faults is told of by the first that would stop training."""

    def __init__(self, question: Question):
        self.question = question
        self.counter = TokenCounter.open(question.model) if question.model else None
        self.max_tokens = question.max_tokens or (self.counter.max_tokens if self.counter else None)
        self._size_of_file = lru_cache(REMEMBERED_PICTURES)(self._size)

    def check(self, rows: Any, start: int, stop: int) -> Findings:
        """Return what is found in the rows from `start` to before `stop`."""
        folder = image_folder(rows.path, self.question.images)
        faults: list[Fault] = []
        ids = np.zeros(stop - start, np.uint64)
        tokens: list[int] = []
        sizes: list[Size] = []
        shown = 0
        for index in range(start, stop):
            try:
                draft = read_draft(rows[index], self.question.fields)
                ids[index - start] = _digest(draft.id)
                shown += draft.has_pictures
                messages = place(draft, folder)
                self._let_pass(check_texts, messages, draft.rejected)
                own_sizes = self._sizes(messages)
                sizes += own_sizes
                if self.counter and len(own_sizes) == sum(len(message.pictures) for message in messages):
                    tokens.append(self._count(messages, own_sizes, draft.rejected))
            except BrokenRow as error:
                if error.reason not in self.question.allowed:
                    faults.append(Fault(index, rows.line(index), error.reason, error.detail))
        return Findings(faults, ids, np.array(tokens, np.int32), np.array(sizes, np.int32).reshape(-1, 2), shown)

    def _sizes(self, messages: tuple[Message, ...]) -> list[Size]:
        sizes = []
        for message in messages:
            for picture in message.pictures:
                size = self._let_pass(self._size_of_file if isinstance(picture, Path) else self._size, picture)
                sizes += [size] if size else []
        return sizes

    def _let_pass(self, examine: Any, *of: Any) -> Any:
        """Return what `examine` returns, or None where its complaint is an allowed one."""
        try:
            return examine(*of)
        except BrokenRow as error:
            if error.reason not in self.question.allowed:
                raise
            return None

    def _size(self, picture: Picture) -> Size:
        size = picture_size(picture)
        if self.question.decode:
            from phantrol.models.image_processing import load_picture

            try:
                load_picture(picture)
            except ValueError as error:
                raise BrokenRow("image-unreadable", str(error)) from None
        return size

    def _count(self, messages: tuple[Message, ...], sizes: list[Size], rejected: tuple[tuple[str, str], ...]) -> int:
        """Return the tokens of the longest conversation of a row: with its answer, or with a wrong one."""
        most = 0
        for text in (None, *(text for text, _ in rejected)):
            said = messages if text is None else (*messages[:-1], Message("assistant", (text,)))
            try:
                count = self.counter(said, sizes)
            except ValueError as error:
                raise BrokenRow("wrong-type", f"the model's processor refuses the row: {error}") from None
            if not count.num_said:
                raise BrokenRow("no-answer", "no token is left for the model to say")
            most = max(most, count.num_tokens)
        if self.max_tokens is not None and most > self.max_tokens and "too-long" not in self.question.allowed:
            raise BrokenRow("too-long", f"{most:,} tokens, expected at most {self.max_tokens:,}")
        return most


def _digest(name: str) -> int:
    if not name:
        return 0
    return int.from_bytes(hashlib.blake2b(name.encode("utf-8", "replace"), digest_size=8).digest(), "big")
