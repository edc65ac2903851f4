"""Conversations in files, as people have them: LLaVA, ShareGPT, messages, preference pairs, questions and answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np

from phantrol.data.broken import BrokenGroup, BrokenRow
from phantrol.data.layouts import read_draft
from phantrol.data.messages import Example, Message, Rejected
from phantrol.data.pictures import place
from phantrol.data.rows.opening import RowsInTurn, find_files, open_rows
from phantrol.data.sharing import SharedRows, beginnings, share


@dataclass(frozen=True)
class FileSource:
    """Rows of JSON, JSONL, Parquet or a folder of `datasets`: a group is one of them, or several at once.

    path    a file, a folder, or a pattern such as data/*.parquet
    images  the folder that paths of images start from; by default that of the file
    fields  names of one's own fields: {"question": "frage", "answer": "antwort"}; see data/layouts.py
    start, stop  the first row and the one after the last, so that some can be kept for an evaluation
    together  rows of one group, all of the same number: those with the same pictures before their questions side by
              side, wherever in the files they stand, filled up with others. The model then computes the pictures
              once for all of them. A batch counts groups, so it has so many times the rows. 1: each row by itself

    Files are opened when a row is first asked for, and with `together` each row is read once before that. source[i]
    raises BrokenRow, naming file and row, for a row that cannot be read, and with `together` BrokenGroup, which has one
    of these for each such row of the group, and the good rows; len(source) raises ValueError if there is no such file
    or folder of images, or a file that is cut off.
    """

    path: str | Path
    images: str | Path | None = None
    fields: Mapping[str, str] = field(default_factory=dict)
    start: int = 0
    stop: int | None = None
    together: int = 1

    def __post_init__(self) -> None:
        if self.together < 1:
            raise ValueError(f"together: got {self.together}, expected 1 or more rows of a group")
        if self.start < 0 or (self.stop is not None and self.stop <= self.start):
            raise ValueError(f"start and stop: got {self.start} and {self.stop}, expected 0 <= start < stop")

    def __len__(self) -> int:
        return self.num_rows if self.together == 1 else len(self._shared)

    def __getitem__(self, index: int) -> tuple[Example, ...]:
        if not 0 <= index < len(self):
            raise IndexError(f"row {index} of {len(self)} of {self.path}")
        if self.together == 1:
            return (self._read(index),)
        good, faults = [], []
        for number in self._shared[index]:
            try:
                good.append(self._read(number))
            except BrokenRow as error:
                faults.append(error)
        if faults:
            raise BrokenGroup(faults, good)
        return tuple(good)

    def _read(self, number: int) -> Example:
        rows, number = self._rows.locate(self.start + number)
        return read_example(rows, number, image_folder(rows.path, self.images), self.fields)

    @property
    def num_rows(self) -> int:
        """How many rows there are from `start` to `stop`, however many of them a group has."""
        length = len(self._rows)
        return max(0, (length if self.stop is None else min(self.stop, length)) - self.start)

    @cached_property
    def _shared(self) -> SharedRows:
        found = []
        for rows in self._rows.files:
            folder = image_folder(rows.path, self.images)
            read = partial(read_example, rows, folder=folder, fields=self.fields)
            found.append(beginnings(rows, f"{folder.resolve()} {sorted(self.fields.items())}", read))
        every = found[0] if len(found) == 1 else np.concatenate(found)
        return share(every[self.start : self.start + self.num_rows], self.together)

    @cached_property
    def _rows(self) -> RowsInTurn:
        files = [open_rows(path) for path in find_files(self.path)]
        image_folder(files[0].path, self.images)  # says if there is none, before any row is asked for
        for rows in files:
            if getattr(rows, "fault", ""):
                remedy = "`phantrol data check FILE --fix OUT` keeps the rows before"
                raise ValueError(f"{rows.path}: {rows.fault}; copy it again, or {remedy}")
        return RowsInTurn(files)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in ("_rows", "_shared")}


def image_folder(path: Path, images: str | Path | None) -> Path:
    """Return the folder that paths of images start from: the one given, or that of the data.

    Raises ValueError if what is given is no folder.
    """
    if images is None:
        return path.parent
    folder = Path(images).expanduser()
    if not folder.is_dir():
        fault = "is a file" if folder.exists() else "no such folder"
        raise ValueError(f"images {folder}: {fault}, expected the folder that paths of images start from")
    return folder


def read_example(rows: Any, index: int, folder: Path, fields: Mapping[str, str] | None = None) -> Example:
    """Return a row as an example, named by file and row. Pictures in files are not looked at.

    Raises BrokenRow for a row that cannot be read, and one without a question, an answer, or with an answer that is
    also the rejected one.
    """
    where = rows.where(index)
    try:
        draft = read_draft(rows[index], fields)
        messages = place(draft, folder)
        check_texts(messages, draft.rejected)
    except BrokenRow as error:
        raise error if error.where else error.at(where) from None
    return Example(where, messages, tuple(Rejected(text, kind) for text, kind in draft.rejected))


def check_texts(messages: tuple[Message, ...], rejected: tuple[tuple[str, str], ...]) -> None:
    """Raise BrokenRow for a question or an answer without text, and for a rejected answer that is the chosen one."""
    for number, message in enumerate(messages, start=1):
        if not message.text.strip() and message.role != "system":
            reason, what = ("no-answer", "answer") if message.role == "assistant" else ("empty-question", "question")
            raise BrokenRow(reason, f"turn {number} is {'an' if what == 'answer' else 'a'} {what} without text")
    answer = messages[-1].text.strip()
    for text, _ in rejected:
        if not text.strip():
            raise BrokenRow("no-answer", "the rejected answer has no text")
        if text.strip() == answer:
            raise BrokenRow("chosen-is-rejected", f"the chosen answer is also the rejected one: {answer[:60]!r}")


SOURCE = FileSource
