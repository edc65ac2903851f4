"""OUT/skipped.jsonl: the rows that could not be read while a model trained, each of them once."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable
from pathlib import Path

from phantrol.training.checkpoint import naming_a_full_disk

FILE = "skipped.jsonl"
_log = logging.getLogger("phantrol")


class SkippedRows:
    """Writes {"stage", "step", "row"} for each row that is new, and says it on the terminal.

    path  the file, which is made at the first row;  stage  the name of the stage
    """

    def __init__(self, path: Path, stage: str):
        self.path, self.stage = path, stage

    def add(self, rows: Iterable[str], step: int) -> None:
        """Note rows that were left out in a step, unless they were noted before."""
        rows = dict.fromkeys(rows)
        known = read_skipped(self.path) if rows else []
        for row in rows:
            if row not in known:
                _log.warning("row left out: %s", row)
                with naming_a_full_disk(self.path), self.path.open("a", encoding="utf-8") as file:
                    line = {"stage": self.stage, "step": step, "row": row}
                    file.write(json.dumps(line, ensure_ascii=False) + "\n")


def read_skipped(path: Path) -> list[str]:
    """Return the rows that were noted so far."""
    if not path.is_file():
        return []
    rows = []
    for text in path.read_text("utf-8").splitlines():
        try:
            rows.append(json.loads(text)["row"])
        except json.JSONDecodeError:  # a line that was being written when the run was killed
            continue
    return rows
