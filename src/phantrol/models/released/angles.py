"""Rotary angles of an official decoder, in the form of transformers 5."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from phantrol.models.released.config_numbers import number_of, whole_number_of

THETA = {"internlm2": 1e6, "phi3": 1e4, "qwen2": 1e6}
PHI3_CONTEXT = 4096  # original_max_position_embeddings, where a configuration does not say it
WHERE = " in rope_scaling"


def rope_parameters(llm: Mapping[str, Any], backbone: str, head_size: int) -> dict[str, Any]:
    """Return the rotary angles of a decoder's configuration.

    InternLM2: none, dynamic NTK or linear. Phi-3: none, "su" (longrope) or "yarn", which in the released code are the
    same angles with another factor on cosines and sines. Raises ValueError for any other kind, and for numbers that
    make no angles.
    """
    theta, scaling = float(number_of(llm, "rope_theta", THETA[backbone], above=0)), llm.get("rope_scaling") or {}
    if not isinstance(scaling, Mapping):
        raise ValueError(f"config.json says rope_scaling {scaling!r}: expected null or an object with a type")
    kind = scaling.get("type") or scaling.get("rope_type") or "default"
    if kind == "default":
        return {"rope_type": "default", "rope_theta": theta}
    if backbone == "internlm2" and kind in ("dynamic", "linear"):
        factor = number_of(scaling, "factor", least=1, where=WHERE)
        return {"rope_type": kind, "rope_theta": theta, "factor": float(factor)}
    if backbone == "phi3" and kind in ("su", "longrope", "yarn"):
        # the attention factor divides by the logarithm of the original length
        original = whole_number_of(llm, "original_max_position_embeddings", PHI3_CONTEXT, least=2)
        grown = math.log(max(whole_number_of(llm, "max_position_embeddings") / original, 1))
        return {
            "rope_type": "longrope",
            "rope_theta": theta,
            "short_factor": _factors(scaling, "short_factor", head_size // 2),
            "long_factor": _factors(scaling, "long_factor", head_size // 2),
            "original_max_position_embeddings": original,
            "attention_factor": 0.1 * grown + 1 if kind == "yarn" else math.sqrt(1 + grown / math.log(original)),
        }
    raise ValueError(f"rope_scaling of type {kind!r} on {backbone}: the released code has none of that kind")


def _factors(scaling: Mapping[str, Any], name: str, count: int) -> list[float]:
    """Those that the angles of a head are divided by, one for each pair of its numbers."""
    factors = scaling.get(name)
    if not isinstance(factors, list | tuple) or len(factors) != count:
        found = f"{len(factors)} of them" if isinstance(factors, list | tuple) else repr(factors)
        raise ValueError(f"config.json says {name} {found}{WHERE}: expected a list of {count}, half the size of a head")
    each = dict(zip((f"{name}[{i}]" for i in range(count)), factors, strict=True))
    return [number_of(each, entry, above=0, where=WHERE) for entry in each]
