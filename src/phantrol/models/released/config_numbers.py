"""Numbers of an official config.json, which may be null, of another type, or mean nothing."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any


def number_of(
    options: Mapping[str, Any],
    name: str,
    default: float | None = None,
    *,
    least: float = -math.inf,
    above: float = -math.inf,
    whole: bool = False,
    where: str = "",
) -> float:
    """Return a number of config.json; null is as if it did not stand there.

    default  where it does not stand there; None if it must;  where  it should stand, for the message
    Raises ValueError if it is no number, below `least`, not above `above`, or not whole and has to be.
    """
    value = default if options.get(name) is None else options[name]
    if value is None:
        raise ValueError(f"config.json names no {name}{where}: expected that of an official checkpoint")
    is_one = isinstance(value, int if whole else int | float) and not isinstance(value, bool)
    if not is_one or not math.isfinite(value) or value < least or value <= above:
        bound = f" of {least:g} or more" if least > -math.inf else f" above {above:g}" if above > -math.inf else ""
        raise ValueError(
            f"config.json says {name} {value!r}{where}: expected a {'whole ' if whole else ''}number{bound}"
        )
    return value


def whole_number_of(
    options: Mapping[str, Any], name: str, default: int | None = None, *, least: float = 1, where: str = ""
) -> int:
    """Return a whole number of config.json, 1 or more if not said otherwise. Raises ValueError as `number_of`."""
    return int(number_of(options, name, default, least=least, whole=True, where=where))
