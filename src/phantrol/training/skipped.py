"""OUT/skipped.jsonl: the rows that could not be read while a model trained."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable
from pathlib import Path

from phantrol.data.rows.text_lines import split_lines
from phantrol.training.checkpoint import naming_a_full_disk

FILE = "skipped.jsonl"
_log = logging.getLogger("phantrol")


class SkippedRows:
    """Writes {"stage", "step", "row"} for each row that is new to this process, and says it on the terminal.

    path  the file, which is made at the first row;  stage  the name of the stage
    Several ranks may write the same row, each once.
    """

    def __init__(self, path: Path, stage: str):
        self.path, self.stage = path, stage
        self.known: set[str] | None = None  # the file is read once, before the first row is added to it

    def add(self, rows: Iterable[str], step: int) -> None:
        """Note rows that were left out in a step, unless they were noted before."""
        for row in rows:
            if self.known is None:
                self.known = set(read_skipped(self.path))
            if row not in self.known:
                self.known.add(row)
                _log.warning("row left out: %s", row)
                with naming_a_full_disk(self.path), self.path.open("a", encoding="utf-8") as file:
                    line = {"stage": self.stage, "step": step, "row": row}
                    file.write(json.dumps(line, ensure_ascii=False) + "\n")


def read_skipped(path: Path) -> list[str]:
    """Return the rows that were noted so far, each once."""
    if not path.is_file():
        return []
    rows: dict[str, None] = {}
    for text in split_lines(path.read_text("utf-8", errors="replace")):
        try:
            rows[json.loads(text)["row"]] = None
        except json.JSONDecodeError:  # a line, or a letter, that was being written when the run was killed
            continue
    return list(rows)
