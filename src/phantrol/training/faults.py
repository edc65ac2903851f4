"""What stops a run, in words."""

from __future__ import annotations


class RunFault(ValueError):
    """A run that cannot go on: `reason`, and a remedy for who typed `phantrol train`; other verbs know their own."""

    def __init__(self, reason: str, remedy: str):
        super().__init__(f"{reason}; {remedy}")
        self.reason = reason
