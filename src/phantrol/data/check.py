"""Whole files examined before any training: each broken row, and what the rest look like."""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from phantrol.data.checking import Checker, Fault, Findings, Question
from phantrol.data.rows.opening import find_files, open_rows

ROWS_AT_ONCE = 1000  # of one process; few enough that a bar moves
FEWEST_TO_SHARE = 4000  # rows that one process does as fast as several
_worker: dict[str, Any] = {}


@dataclass
class FileReport:
    """One file: its rows, what is broken, and `fault`, why it ends too early or goes on too long, or has no row, or "".

    reason  of `fault`, a key of REASONS
    """

    path: Path
    num_rows: int
    faults: list[Fault] = field(default_factory=list)
    fault: str = ""
    reason: str = "bad-json"

    @property
    def is_good(self) -> bool:
        return not self.faults and not self.fault

    @property
    def broken(self) -> np.ndarray:
        """The numbers of the broken rows, in order."""
        return np.array([fault.index for fault in self.faults], np.int64)


@dataclass
class Report:
    """All files.

    tokens  [K] of the rows that could be counted;  sizes  [P, 2] width and height of the pictures that could be read
    max_tokens  the limit that rows were held against, or None
    num_shown   rows that have a picture
    """

    files: list[FileReport]
    tokens: np.ndarray
    sizes: np.ndarray
    max_tokens: int | None = None
    num_shown: int = 0

    @property
    def is_good(self) -> bool:
        return all(file.is_good for file in self.files)

    @property
    def num_rows(self) -> int:
        return sum(file.num_rows for file in self.files)

    @property
    def num_broken(self) -> int:
        return sum(len(file.faults) for file in self.files)


def check(
    paths: Sequence[str | Path],
    question: Question | None = None,
    workers: int | None = None,
    tell: Callable[[int, int], None] | None = None,
) -> Report:
    """Examine every row of files, folders and patterns.

    workers  processes; by default one for each core of this machine, or none for few rows
    tell     called now and then with (rows examined, rows in all)
    Raises ValueError for a file that is not there or cannot be read at all, and a model that cannot be loaded.
    """
    question = question or Question()
    found = list(dict.fromkeys(file for path in paths for file in find_files(path)))
    opened = [open_rows(path) for path in found]
    checker = Checker(question)
    reports = [FileReport(rows.path, len(rows), fault=getattr(rows, "fault", "")) for rows in opened]
    for report in reports:
        if not (report.num_rows or report.fault or "no-rows" in question.allowed):
            report.fault, report.reason = "no row in it, expected one or more to train on", "no-rows"
    total, done = sum(len(rows) for rows in opened), 0
    parts: list[list[Findings]] = [[] for _ in opened]
    for number, findings in _examine(checker, opened, workers if total >= FEWEST_TO_SHARE or workers else 0):
        parts[number].append(findings)
        done += len(findings.ids)
        if tell is not None:
            tell(done, total)
    for report, rows, findings in zip(reports, opened, parts, strict=True):
        faults = [fault for each in findings for fault in each.faults]
        if "duplicate-id" not in question.allowed:
            faults += _duplicates(rows, [each.ids for each in findings], [fault.index for fault in faults])
        report.faults = sorted(faults, key=lambda fault: fault.index)
    everything = [each for findings in parts for each in findings]
    tokens = np.concatenate([np.zeros(0, np.int32), *(each.tokens for each in everything)])
    sizes = np.concatenate([np.zeros((0, 2), np.int32), *(each.sizes for each in everything)])
    return Report(reports, tokens, sizes, checker.max_tokens, sum(each.shown for each in everything))


def _examine(checker: Checker, opened: list[Any], workers: int | None) -> Iterator[tuple[int, Findings]]:
    """Yield (number of the file, what was found in its next rows), in the order of the rows."""
    spans = [
        (number, start, min(start + ROWS_AT_ONCE, len(rows)))
        for number, rows in enumerate(opened)
        for start in range(0, len(rows), ROWS_AT_ONCE)
    ]
    workers = (os.cpu_count() or 1) if workers is None else workers
    if workers <= 1:
        for number, start, stop in spans:
            yield number, checker.check(opened[number], start, stop)
        return
    # a copy of this process has all that is loaded already; only Linux makes such copies safely
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    copied = checker if context.get_start_method() == "fork" else None
    with ProcessPoolExecutor(workers, context, _begin, (checker.question, opened, copied)) as pool:
        yield from pool.map(_work, spans)


def _begin(question: Question, opened: list[Any], checker: Checker | None) -> None:
    _worker["checker"], _worker["opened"] = checker or Checker(question), opened


def _work(span: tuple[int, int, int]) -> tuple[int, Findings]:
    number, start, stop = span
    return number, _worker["checker"].check(_worker["opened"][number], start, stop)


def _duplicates(rows: Any, ids: list[np.ndarray], broken: list[int]) -> list[Fault]:
    """Return a fault for each row with the id of an earlier one that is not broken."""
    digests = np.concatenate([np.zeros(0, np.uint64), *ids])
    digests[broken] = 0
    _, first, which = np.unique(digests, return_index=True, return_inverse=True)
    earlier = first[which]
    again = np.flatnonzero((earlier < np.arange(len(digests))) & (digests != 0))
    return [
        Fault(index, rows.line(index), "duplicate-id", f"the same id as {rows.where(int(earlier[index]))}")
        for index in again.tolist()
    ]
