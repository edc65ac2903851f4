"""What a model said, as a terminal may be given it."""

from __future__ import annotations

import re
from typing import Any

CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")  # but tab and line feed


def harmless(said: str, file: Any) -> str:
    """Return what a model said as it may be written to a file: to a terminal without control characters, by which a
    stranger's picture could have it move the cursor or fill the clipboard."""
    return CONTROLS.sub("\ufffd", said) if file is not None and file.isatty() else said
