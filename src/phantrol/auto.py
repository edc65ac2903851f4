"""Make transformers' Auto classes know phantrol's models, without importing transformers for it.

transformers takes seconds to import. So `import phantrol` only leaves a note: when transformers' own tables of
configurations and of processors are imported, by whomever, phantrol's enter them; and when one of its configurations is
first made, the models that belong to it are registered.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import sys
from collections.abc import Sequence
from functools import cache
from types import ModuleType
from typing import Any

# when transformers has imported the first, phantrol imports the second, which registers itself; models come later
FOLLOWERS = {
    "transformers.models.auto.configuration_auto": ("phantrol.models.configuration",),
    "transformers.models.auto.processing_auto": ("phantrol.models.image_processing", "phantrol.models.processing"),
}


def register_when_imported() -> None:
    """Register what transformers' tables are there for already, and the rest right after their import."""
    for table in FOLLOWERS:
        if table in sys.modules:
            _follow(table)
    if not any(isinstance(finder, _TableFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _TableFinder())


@cache
def register_models() -> None:
    """Import the models, which register themselves. Called when a configuration of phantrol is made."""
    importlib.import_module("phantrol.models.modeling")
    importlib.import_module("phantrol.models.stem_vision")
    importlib.import_module("phantrol.models.efficientnet_lite")


def _follow(table: str) -> None:
    for follower in FOLLOWERS[table]:
        importlib.import_module(follower)


class _TableFinder(importlib.abc.MetaPathFinder):
    """Lets the import of transformers' tables go its usual way, and adds phantrol's entries when it is done."""

    def find_spec(self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> Any:
        if name not in FOLLOWERS:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def execute_then_follow(module: ModuleType) -> None:
                execute(module)
                _follow(name)

            spec.loader.exec_module = execute_then_follow
        return spec
