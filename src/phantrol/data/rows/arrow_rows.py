"""Rows of a folder that `datasets` wrote with save_to_disk: Arrow files, mapped into memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from phantrol.data.broken import BrokenRow

SINGLE, SEVERAL = "state.json", "dataset_dict.json"  # what lies in a folder of one data set, and of one with splits


class ArrowRows:
    """The rows of one data set by number; pictures stay as they were stored, undecoded.

    Raises ValueError if `datasets` is missing, or the folder is broken.
    """

    def __init__(self, path: Path):
        self.path = path
        try:
            from datasets import load_from_disk
        except ImportError as error:
            raise ValueError("this folder needs datasets, which is not installed: pip install datasets") from error
        try:
            self.dataset = load_from_disk(str(path))
        except Exception as error:  # a missing file, a cut one and a broken one each have their own kind
            raise ValueError(f"{path} is no whole data set that save_to_disk wrote: {error}") from error
        self._rows = self.dataset.with_format("arrow")

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Return row `index` as a dict. Raises BrokenRow if it cannot be read."""
        try:
            return self._rows[index : index + 1].to_pylist()[0]
        except (OSError, ValueError) as error:
            reason = "bad-utf8" if isinstance(error, UnicodeDecodeError) else "wrong-type"
            raise BrokenRow(reason, f"it cannot be read: {error}", self.where(index)) from None

    def line(self, index: int) -> None:
        return None

    def where(self, index: int) -> str:
        return f"{self.path.name}[{index}]"
