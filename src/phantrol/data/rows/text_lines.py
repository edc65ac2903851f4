"""The lines of a text, as JSON Lines mean them."""

from __future__ import annotations

import re

_END = re.compile(r"\r\n?|\n")


def split_lines(text: str) -> list[str]:
    """Return the lines of a text without their ends.

    `str.splitlines` also ends one at U+2028, U+2029, U+0085 and others, which JSON may hold inside a string.
    """
    lines = _END.split(text)
    return lines if lines[-1] else lines[:-1]
