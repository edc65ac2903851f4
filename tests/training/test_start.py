"""How a run starts: without what only some runs need, since each of these packages takes a second or more to import."""

from __future__ import annotations

import subprocess
import sys

import pytest

OPTIONAL = ("torchao", "peft", "datasets", "pandas", "pyarrow", "deepspeed", "tensorboard")
HIDDEN = "import sys; sys.modules.update(dict.fromkeys({})); import phantrol.training.dry_run, phantrol.training.run"


@pytest.mark.parametrize(
    ("hidden", "starts"), [(OPTIONAL, True), (("safetensors",), False)], ids=["optional", "needed"]
)
def test_training_starts_without_optional_packages(hidden: tuple[str, ...], starts: bool):
    """What is hidden is not there for transformers, which imports all that is installed, and not for us."""
    found = subprocess.run([sys.executable, "-c", HIDDEN.format(hidden)], capture_output=True, text=True)
    assert (found.returncode == 0) == starts, found.stderr
