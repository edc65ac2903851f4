"""What the tests of the released models share: folders of random models with what the official code would give."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

sys.path.append(str(Path(__file__).parent))  # reference.py, recordings.py and io_tensors.py are no tests: see there

from io_tensors import write_folder

RECORDED = Path(__file__).parents[1] / "recorded"


@pytest.fixture(scope="session")
def drawn_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """`drawn_folder(family, backbone, seed=0, **options of write_folder)` writes such a folder, once for equal asks."""
    written: dict[Any, Path] = {}

    def write(family: str, backbone: str, seed: int = 0, **options: Any) -> Path:
        key = (family, backbone, seed, repr(sorted(options.items())))
        if key not in written:
            written[key] = write_folder(
                tmp_path_factory.mktemp(f"{family}_{backbone}"), family, backbone, seed, **options
            )
        return written[key]

    return write
