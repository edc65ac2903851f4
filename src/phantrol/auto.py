"""Make transformers' Auto classes know phantrol's models, without importing transformers for it.

transformers takes seconds to import. So `import phantrol` only leaves a note: when transformers' own table of
configurations is imported, by whomever, phantrol's configurations enter it; and when one of those is first made, the
models and processors that belong to it are registered.
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

TABLE = "transformers.models.auto.configuration_auto"
CONFIGURATIONS = "phantrol.models.configuration"  # registers its own classes, and needs little of transformers


def register_when_imported() -> None:
    """Register the configurations now if transformers' table is there already, else right after its import."""
    if TABLE in sys.modules:
        importlib.import_module(CONFIGURATIONS)
    elif not any(isinstance(finder, _TableFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _TableFinder())


@cache
def register_models() -> None:
    """Register models, processors and image processors. Called when a configuration of phantrol is made."""
    from transformers import AutoImageProcessor, AutoModel, AutoModelForImageTextToText, AutoProcessor

    from phantrol.models.configuration import PhantrolConfig, StemVisionConfig
    from phantrol.models.image_processing import PhantrolImageProcessor
    from phantrol.models.modeling import PhantrolForConditionalGeneration
    from phantrol.models.processing import PhantrolProcessor
    from phantrol.models.stem_vision import StemVisionModel

    AutoModelForImageTextToText.register(PhantrolConfig, PhantrolForConditionalGeneration, exist_ok=True)
    AutoProcessor.register(PhantrolConfig, PhantrolProcessor, exist_ok=True)
    AutoImageProcessor.register(PhantrolConfig, slow_image_processor_class=PhantrolImageProcessor, exist_ok=True)
    AutoModel.register(StemVisionConfig, StemVisionModel, exist_ok=True)


class _TableFinder(importlib.abc.MetaPathFinder):
    """Lets the import of `TABLE` go its usual way, and adds the configurations when it is done."""

    def find_spec(self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> Any:
        if name != TABLE:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def execute_then_register(module: ModuleType) -> None:
                execute(module)
                if self in sys.meta_path:  # a spec may be asked for and never loaded, so the finder stays until now
                    sys.meta_path.remove(self)
                importlib.import_module(CONFIGURATIONS)

            spec.loader.exec_module = execute_then_register
        return spec
