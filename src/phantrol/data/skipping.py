"""Rows that cannot be read while a model trains: left out, with the next row of the same source in their place.

What takes the place depends on the data and the position alone, so a run that is resumed goes on as it would have.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from phantrol.data.broken import BrokenGroup
from phantrol.data.mixture import Group, Groups

MOST_IN_A_ROW = 16  # rows that may be broken one after the other; more, and something else is wrong
_FAULTS = (ValueError, OSError)


@dataclass(frozen=True)
class SkippingCollator:
    """Positions of groups → a batch, without the groups that cannot be read or encoded.

    groups   where the positions lead to
    collate  groups → batch; raises ValueError or OSError for a group that it cannot use

    The batch gets `skipped`: for each row left out, where it is and why. Raises ValueError if MOST_IN_A_ROW rows one
    after the other cannot be read, and whatever `collate` raises for groups that it takes alone but not together.
    """

    groups: Groups
    collate: Callable[[Sequence[Group]], dict[str, Any]]

    def __call__(self, positions: Sequence[int]) -> dict[str, Any]:
        skipped: list[str] = []
        seats = [_Seat(self.groups, position, skipped) for position in positions]
        while True:
            try:
                batch = self.collate([seat.group for seat in seats])
            except _FAULTS:
                alone = [seat.skip_if_broken(self.collate) for seat in seats]
                if not any(alone):
                    raise
            else:
                return batch | {"skipped": skipped}


class _Seat:
    """One place of a batch, and the group that sits there."""

    def __init__(self, groups: Groups, position: int, skipped: list[str]):
        self.groups, self.position, self.skipped, self.ahead = groups, position, skipped, 0
        self._sit()

    def _sit(self) -> None:
        """Take the first group from here on of which its source can read something. A source that cannot be opened is
        no row."""
        mixture, seed = self.groups.mixture, self.groups.seed
        while True:
            source, index = mixture.locate(self.position, seed, self.ahead)
            try:
                self.group = mixture.parts[source][1][index]
                return
            except BrokenGroup as error:
                if self._keep(error.good, list(map(str, error.faults)), error):
                    return
            except _FAULTS as error:
                self._keep((), [str(error)], error)

    def _keep(self, good: Group, told: list[str], error: Exception) -> bool:
        """Note the rows of the group that are left out, and say whether others stay; without any, look further on."""
        self.skipped += told
        if good:
            self.group = good
            return True
        self.ahead += 1
        if self.ahead >= MOST_IN_A_ROW:
            raise ValueError(
                f"{self.ahead} rows one after the other cannot be read, the last because: {told[-1]}; look at the data "
                "with `phantrol data check`, and at the folder of the images"
            ) from error
        return False

    def skip_if_broken(self, collate: Callable[[Sequence[Group]], dict[str, Any]]) -> bool:
        """Say True if the group cannot be used even alone, and keep those of its examples that can, or move on."""
        if (error := _fault(collate, self.group)) is None:
            return False
        faults = [_fault(collate, (example,)) for example in self.group]
        good = tuple(example for example, fault in zip(self.group, faults, strict=True) if fault is None)
        is_part = 0 < len(good) < len(faults)
        told = [
            _named(example, fault or error)
            for example, fault in zip(self.group, faults, strict=True)
            if fault is not None or not is_part
        ]
        if not self._keep(good if is_part else (), told, error):
            self._sit()
        return True


def _fault(collate: Callable[[Sequence[Group]], dict[str, Any]], group: Group) -> Exception | None:
    try:
        collate([group])
    except _FAULTS as error:
        return error
    return None


def _named(example: Any, error: Exception) -> str:
    reason = str(error)
    return reason if example.id in reason else f"{example.id}: {reason}"


def read_groups(groups: Groups, positions: Sequence[int]) -> list[Group]:
    """Return the groups at some positions, or in their place the next that can be read.

    Raises ValueError as SkippingCollator does.
    """
    return [_Seat(groups, position, []).group for position in positions]
