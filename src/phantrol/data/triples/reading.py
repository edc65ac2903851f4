"""The rows that wrong answers are made for, read as training reads them, from files of any layout."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from phantrol.data.broken import BrokenRow
from phantrol.data.messages import Example
from phantrol.data.rows.opening import find_files, open_rows
from phantrol.data.sources.file import image_folder, read_example


@dataclass(frozen=True)
class Row:
    """One row: where it stands, and the example that it holds, or what is wrong with it."""

    where: str
    example: Example | None
    fault: str = ""

    @property
    def question(self) -> str:
        """All that was said before the answer, as text: who spoke is told where there are several turns."""
        messages = self.example.messages[:-1]
        if len(messages) == 1:
            return messages[0].text.strip()
        return "\n".join(f"{message.role}: {message.text.strip()}" for message in messages)

    @property
    def last_question(self) -> str:
        return next(m.text for m in reversed(self.example.messages) if m.role == "user").strip()

    @property
    def answer(self) -> str:
        return self.example.messages[-1].text.strip()


@dataclass(frozen=True)
class OwnRows:
    """The rows of files, folders and patterns, one after the other, as often as one likes.

    images, fields  as in FileSource;  limit  the first so many rows
    Raises ValueError for a file that is not there, or that ends too early.
    """

    paths: Sequence[str | Path]
    images: Path | None = None
    fields: Mapping[str, str] = field(default_factory=dict)
    limit: int | None = None

    @property
    def files(self) -> list[Path]:
        """The files, and folders of `datasets`, that the rows are read from."""
        return [rows.path for _, rows in self._files]

    def __len__(self) -> int:
        length = sum(len(rows) for _, rows in self._files)
        return length if self.limit is None else min(length, self.limit)

    def __iter__(self) -> Iterator[Row]:
        left = len(self)
        for name, rows in self._files:
            folder = image_folder(rows.path, self.images)
            for index in range(min(left, len(rows))):
                where = rows.where(index).replace(rows.path.name, name, 1)
                try:
                    yield Row(where, read_example(rows, index, folder, self.fields))
                except BrokenRow as error:
                    yield Row(where, None, f"{error.reason}: {error.detail}")
            left -= min(left, len(rows))

    @cached_property
    def _files(self) -> list[tuple[str, Any]]:
        """Files with names that differ: of two train.json the second is 2/train.json."""
        opened = [open_rows(path) for path in dict.fromkeys(file for path in self.paths for file in find_files(path))]
        met: Counter[str] = Counter()
        named = []
        for rows in opened:
            if getattr(rows, "fault", ""):
                raise ValueError(
                    f"{rows.path}: {rows.fault}; `phantrol data check FILE --fix OUT` keeps the rows before"
                )
            met[rows.path.name] += 1
            count = met[rows.path.name]
            named.append((rows.path.name if count == 1 else f"{count}/{rows.path.name}", rows))
        return named
