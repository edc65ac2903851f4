"""What the tests of the released models share: folders of random models with what the official code would give."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

sys.path.append(str(Path(__file__).parent))  # reference.py, recordings.py and io_tensors.py are no tests: see there

from io_tensors import write_folder
from sources import whole_source

from phantrol import cli

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


@pytest.fixture(scope="session")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """`sources(family, backbone, form, dtype)` writes one, the same each time: leave it as you found it."""
    made: dict[Any, Path] = {}

    def make(family: str, backbone: str, form: str = "shards", dtype: Any = torch.float32) -> Path:
        key = family, backbone, form, dtype
        if key not in made:
            made[key] = whole_source(tmp_path_factory.mktemp("source") / "official", *key)
        return made[key]

    return make


@pytest.fixture
def copy_of(sources: Callable[..., Path], tmp_path: Path) -> Callable[..., Path]:
    """A source to spoil."""

    def copy(*key: Any) -> Path:
        return Path(shutil.copytree(sources(*key), tmp_path / "spoilt"))

    return copy


@pytest.fixture
def no_grad() -> Iterator[None]:
    with torch.no_grad():
        yield


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> Callable[..., tuple[int, str, str]]:
    """Run `phantrol WORDS`; return exit code, standard output, standard error."""

    def run(*words: Any) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["phantrol", *map(str, words)])
        with pytest.raises(SystemExit) as end:
            cli.main()
        return end.value.code or 0, *capsys.readouterr()

    return run
