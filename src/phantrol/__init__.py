"""phantrol: small vision-language models that look twice.

`graft` puts TroL and Phantom on any Hugging Face decoder, `build` makes a vision-language model, `load` opens one.
Names are imported when they are first used, so that `import phantrol` costs nothing; the Auto classes of transformers
know phantrol's models as soon as they are imported too.
"""

from __future__ import annotations

import importlib
from typing import Any

from phantrol.auto import register_when_imported
from phantrol.version import __version__

_HOMES = {
    "graft": "phantrol.modifiers.graft",
    "load_grafted": "phantrol.modifiers.graft",
    "TrolConfig": "phantrol.modifiers.trol",
    "IDENTITY_BIAS": "phantrol.modifiers.trol",
    "PhantomConfig": "phantrol.modifiers.phantom",
    "PartialLoraConfig": "phantrol.modifiers.partial_lora",
    "build": "phantrol.models.building",
    "load": "phantrol.models.building",
    "PhantrolConfig": "phantrol.models.configuration",
    "PhantrolForConditionalGeneration": "phantrol.models.modeling",
    "PhantrolProcessor": "phantrol.models.processing",
    "PhantrolImageProcessor": "phantrol.models.image_processing",
    "Engine": "phantrol.inference.engine",
    "Recipe": "phantrol.training.recipe",
    "Stage": "phantrol.training.recipe",
}
__all__ = ["__version__", *_HOMES]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'phantrol' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__


register_when_imported()
