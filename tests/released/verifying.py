"""What the tests of `verify` share: what it finds, what it misses, and folders in which something is wrong."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from phantrol.models.released.verify import Comparison, verify

RECORDED = Path(__file__).parents[1] / "recorded"
INPUTS = {"input_ids", "attention_mask", "pixel_values"}


def found(folder: Path) -> dict[str, Comparison]:
    return {comparison.name: comparison for comparison in verify(folder)}


def missed(folder: Path, dtype: torch.dtype = torch.float32) -> set[str]:
    return {comparison.name for comparison in verify(folder, dtype) if comparison.verdict == "MISS"}


def changed(tmp_path: Path, folder: Path, part: str, change: Callable[[dict[str, Any]], None]) -> Path:
    """Return a copy of the folder in which `change` had its way with the contents of one of its files."""
    copy = tmp_path / "changed"
    shutil.copytree(folder, copy, dirs_exist_ok=True)
    if part == "config":
        content = json.loads((copy / "config.json").read_text())
        change(content)
        (copy / "config.json").write_text(json.dumps(content))
    else:
        content = load_file(copy / f"{part}.safetensors")
        change(content)
        save_file({name: tensor.clone().contiguous() for name, tensor in content.items()}, copy / f"{part}.safetensors")
    return copy
