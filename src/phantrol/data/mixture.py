"""Several sources in fixed proportions, in an order that is a pure function of the position.

Nothing is drawn at random while training runs, so a run that is stopped and resumed sees the very same data, and no
part of the mixture comes in clumps.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import Any

from phantrol.data.messages import Example

Group = tuple[Example, ...]  # examples that come together; those about one picture stand side by side

NEVER_USED_UP = 100_000_000  # groups; a source at least this long draws them as it goes, in an order of its own
_MASK = (1 << 64) - 1


@dataclass(frozen=True)
class Mixture:
    """Sources and their weights.

    parts  ((weight, source), ...)  weights are relative and need not add up to 1

    Raises ValueError for no parts, one that is no pair of a weight and a source, or a weight that is not a positive
    number.
    """

    parts: tuple[tuple[float, Sequence[Group]], ...]

    def __post_init__(self) -> None:
        parts = tuple(self.parts) if isinstance(self.parts, tuple | list | Iterator) else (self.parts,)
        if not parts:
            raise ValueError("got a mixture without parts, expected at least one: Mixture(parts=((1.0, source),))")
        for part in parts:
            if not _is_pair(part):
                expected = 'pairs (weight, source), such as (1.0, FileSource("mine.jsonl"))'
                raise ValueError(f"parts of a mixture: got {str(part)[:200]}, expected {expected}")
        object.__setattr__(self, "parts", tuple((weight, source) for weight, source in parts))
        for number, (weight, _) in enumerate(self.parts):
            is_number = isinstance(weight, int | float) and not isinstance(weight, bool)
            if not (is_number and 0 < weight < math.inf):
                raise ValueError(f"weight of part {number}: got {weight!r}, expected a positive number")

    def pick(self, index: int) -> tuple[int, int]:
        """Return (number of the source, how many of its groups came before) for position `index`.

        The k-th group of a source with share w is due at time (k + 1/2)/w; the order is the order of due times. So
        after n positions a source has given within about one group of n·w.
        """
        weights, total, strides = self._whole_weights, sum(self._whole_weights), self._strides
        time = max(0, index - len(weights))  # everything due by then comes before `index`, and little else does
        taken = [(2 * time * weight + total) // (2 * total) for weight in weights]
        while True:
            source = min(range(len(weights)), key=lambda number: (2 * taken[number] + 1) * strides[number])
            if sum(taken) == index:
                return source, taken[source]
            taken[source] += 1

    def locate(self, index: int, seed: int = 0, ahead: int = 0) -> tuple[int, int]:
        """Return (number of the source, index within it) for position `index`.

        ahead  so many groups further on in the same source

        A source is walked in a permutation; when it is used up it begins again, in another permutation. One that is
        never used up is walked in its own order, which its author has made even. Raises ValueError for an empty source.
        """
        source, count = self.pick(index)
        count += ahead
        length = len(self.parts[source][1])
        if not length:
            raise empty_part(source, self.parts[source][1])
        if length >= NEVER_USED_UP:
            return source, count
        epoch, position = divmod(count, length)
        return source, permuted(position, length, key=(seed, source, epoch))

    def group(self, index: int, seed: int = 0) -> Group:
        """Return the group at position `index`."""
        source, position = self.locate(index, seed)
        return self.parts[source][1][position]

    @cached_property
    def _whole_weights(self) -> tuple[int, ...]:
        weights = [Fraction(str(weight)) for weight, _ in self.parts]  # 0.1 is meant as a tenth, so that ties are ties
        unit = math.lcm(*(weight.denominator for weight in weights))
        return tuple(int(weight * unit) for weight in weights)

    @cached_property
    def _strides(self) -> tuple[int, ...]:
        """Half the time between two groups of a source, in a unit common to all."""
        common = math.lcm(*self._whole_weights)
        return tuple(common // weight for weight in self._whole_weights)


def empty_part(number: int, source: Sequence[Group]) -> ValueError:
    """Return the error for a source without groups; number  of its part in the mixture."""
    named = getattr(source, "path", f"a {type(source).__name__}")
    if start := getattr(source, "start", 0):
        named = f"{named} has no row after the first {start}"
    return ValueError(f"part {number} of the mixture is empty: {named}; give it rows or take it out of the mixture")


@dataclass(frozen=True)
class Groups:
    """The first `length` groups of a mixture, as a map-style dataset."""

    mixture: Mixture
    seed: int
    length: int

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Group:
        return self.mixture.group(index, self.seed)


def permuted(position: int, length: int, key: tuple[int, ...]) -> int:
    """Return where a keyed permutation of 0..length-1 sends `position`; needs no memory, however long the range.

    A Feistel network permutes the next power of four; values that fall outside the range are sent through again.
    """
    half_bits = max(1, ((length - 1).bit_length() + 1) // 2)
    half_mask = (1 << half_bits) - 1
    while True:
        left, right = position >> half_bits, position & half_mask
        for number in range(6):
            left, right = right, left ^ (_mix(*key, number, right) & half_mask)
        position = (left << half_bits) | right
        if position < length:
            return position


def _mix(*numbers: int) -> int:
    """Return 64 bits that depend on all the numbers (the finaliser of splitmix64, once a number)."""
    state = 0x9E3779B97F4A7C15
    for number in numbers:
        state = (state + number * 0x9E3779B97F4A7C15) & _MASK
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & _MASK
        state ^= state >> 31
    return state


def _is_pair(part: Any) -> bool:
    if not (isinstance(part, tuple | list) and len(part) == 2):
        return False
    _, source = part
    is_sequence = hasattr(source, "__len__") and hasattr(source, "__getitem__")
    return is_sequence and not isinstance(source, str | bytes | type)
