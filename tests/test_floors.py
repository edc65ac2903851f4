"""Floors: a file of phantrol imports from its own floor and from those below, never from above.

0 ops · 1 modifiers · 2 models · 3 data, losses · 4 training, inference, evals, explain, bench · 5 serving, recipes,
ablation · 6 the command line and what only it calls. `ops` knows torch alone. torchvision and timm are nobody's: beside
a CPU build of torch they break `import transformers`.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import phantrol

PACKAGE = Path(__file__).parents[1] / "src" / "phantrol"
FLOORS = {
    "ops": 0,
    "modifiers": 1,
    "models": 2,
    "data": 3,
    "losses": 3,
    "training": 4,
    "inference": 4,
    "evals": 4,
    "explain": 4,
    "bench": 4,
    "ablation": 5,
    "serving": 5,
    "recipes": 5,
}
TOP = 6  # any other file that stands beside cli.py
# they import no floor, and all may import them
GROUND = {
    "__init__", "find", "version", "auto", "cached", "file_lock", "folder_beside", "freed_memory", "tables",
    "whole_files",
}  # fmt: skip
NOBODYS = {"torchvision", "timm"}


def imports(source: str, module: str, is_package: bool) -> Iterator[tuple[int, str]]:
    """Yield (line, dotted name) of whatever a file imports, at its head or inside a function."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = module.split(".")[: None if is_package and node.level == 1 else is_package - node.level]
                base = ".".join([*parents, base]).rstrip(".")
            # `from phantrol import models` names a module too, unlike `from torch import Tensor`
            names = [f"{base}.{alias.name}" for alias in node.names] if base == "phantrol" else [base]
            yield from ((node.lineno, name) for name in names)


def place(module: str) -> str:
    """Return where a dotted name stands: phantrol.ops.images → ops, phantrol.Engine (a name from there) → inference."""
    part = (*module.split("."), "__init__")[1]
    return place(phantrol._HOMES[part]) if part in phantrol._HOMES else part


def floor(part: str) -> int | None:
    return None if part in GROUND else FLOORS.get(part, TOP)


def faults(source: str, module: str, is_package: bool = False) -> list[str]:
    """Return one line per import that the floors forbid."""
    own, found = place(module), []
    for line, name in imports(source, module, is_package):
        root = name.split(".")[0]
        where = f"{module}:{line} imports {name}"
        if root in NOBODYS:
            found.append(f"{where}, which breaks transformers beside a CPU build of torch")
        elif own == "ops" and root not in {"torch", *sys.stdlib_module_names} and place(name) != "ops":
            found.append(f"{where}, and ops knows torch alone")
        elif root == "phantrol":
            there = None if place(name).startswith("__") else floor(place(name))
            if there is not None and there > (-1 if own in GROUND else floor(own)):
                found.append(f"{where}, which stands above it")
    return found


def modules() -> list[tuple[str, Path]]:
    return sorted(
        (".".join(("phantrol", *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__"), path)
        for path in PACKAGE.rglob("*.py")
    )


def test_there_is_something_to_read():
    found = dict(modules())
    assert {"phantrol", "phantrol.find", "phantrol.ops.traversal", "phantrol.modifiers"} <= found.keys()
    assert {place(module) for module in found} >= {"ops", "modifiers", "models", "data", "losses"}


@pytest.mark.parametrize(("module", "path"), modules(), ids=lambda value: value if isinstance(value, str) else "")
def test_imports_point_down(module: str, path: Path):
    assert faults(path.read_text("utf-8"), module, is_package=path.name == "__init__.py") == []


@pytest.mark.parametrize("name", sorted({place(module) for module, path in modules() if path.parent != PACKAGE}))
def test_every_folder_has_a_floor(name: str):
    assert name in FLOORS


FORBIDDEN = {
    "from phantrol.models.modeling import PhantrolModel": "phantrol.modifiers.made_up",
    "import phantrol.training.run": "phantrol.losses.made_up",
    "from phantrol import serving": "phantrol.training.made_up",
    "from ..evals import runner": "phantrol.data.made_up",
    "from ...inference.engine import Engine": "phantrol.data.sources.made_up",
    "def late():\n    from phantrol.cli import main": "phantrol.recipes.made_up",
    "from phantrol import Engine": "phantrol.models.made_up",
    "from phantrol.ops.traversal import mix_passes": "phantrol.find",
    "import numpy": "phantrol.ops.made_up",
    "from transformers import AutoModel": "phantrol.ops.made_up",
    "from phantrol.find import find": "phantrol.ops.made_up",
    "import torchvision.transforms as T": "phantrol.models.made_up",
    "from timm import create_model": "phantrol.models.made_up",
}
ALLOWED = {
    "import torch\nimport math\nfrom phantrol.ops.traversal import mix_passes": "phantrol.ops.made_up",
    "from phantrol.find import find\nfrom phantrol import __version__": "phantrol.modifiers.made_up",
    "from ..losses.base import Loss\nfrom . import messages": "phantrol.data.made_up",
    "from phantrol.training.run import run\nimport typer": "phantrol.cli",
    "from phantrol.inference.engine import Engine": "phantrol.evals.made_up",
    "from phantrol import graft, load": "phantrol.inference.made_up",
}


@pytest.mark.parametrize(("source", "module"), FORBIDDEN.items())
def test_an_import_that_points_up_would_show(source: str, module: str):
    assert len(faults(source, module)) == 1


@pytest.mark.parametrize(("source", "module"), ALLOWED.items())
def test_an_import_that_points_down_is_fine(source: str, module: str):
    assert faults(source, module) == []
