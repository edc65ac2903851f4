"""Means over seeds with their 95 % intervals, and the words that an interval allows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import atan, cos, pi, sin, sqrt
from typing import Literal

CONFIDENCE = 0.95
ROUNDING = 1e-12  # shares that are equal by their counts, and differences of such, differ by some 1e-17

Verdict = Literal["higher", "lower", "no difference seen", "no scatter", "one seed"]


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds. The interval is that of Student's t; one seed has none.

    mean  of the values;  half  half the width of the interval, None with one value;  seeds  how many values
    """

    mean: float
    half: float | None
    seeds: int

    @property
    def low(self) -> float | None:
        return None if self.half is None else self.mean - self.half

    @property
    def high(self) -> float | None:
        return None if self.half is None else self.mean + self.half

    @property
    def verdict(self) -> Verdict:
        """What may be said of this estimate of a difference, and no more."""
        if self.half is None:
            return "one seed"
        if self.half == 0 and self.mean != 0:
            return "no scatter"  # t judges by the scatter of the seeds, and here is none
        if self.low <= 0 <= self.high:
            return "no difference seen"
        return "higher" if self.mean > 0 else "lower"


def estimate(values: Sequence[float]) -> Estimate:
    """Return mean ± t · s/√n of the values, which are shares or differences of shares: what is below ROUNDING is 0.

    Raises ValueError if there are none.
    """
    if not values:
        raise ValueError("no values: expected at least one seed")
    count, mean = len(values), _unless_rounding(sum(values) / len(values))
    if count == 1:
        return Estimate(mean, None, 1)
    deviation = _unless_rounding(sqrt(sum((value - mean) ** 2 for value in values) / (count - 1)))
    return Estimate(mean, t_quantile(count - 1) * deviation / sqrt(count), count)


def _unless_rounding(value: float) -> float:
    return value if abs(value) >= ROUNDING else 0.0


def t_quantile(freedom: int) -> float:
    """Return t with P(|T| <= t) = CONFIDENCE, for Student's T with `freedom` degrees of freedom."""
    low, high = 0.0, 1e6
    while high - low > 1e-12 * max(1.0, high):
        middle = (low + high) / 2
        low, high = (middle, high) if t_within(middle, freedom) < CONFIDENCE else (low, middle)
    return (low + high) / 2


def t_within(t: float, freedom: int) -> float:
    """Return P(|T| <= t), by finite sums for whole degrees of freedom [Abramowitz and Stegun, 26.7.3, 26.7.4]."""
    angle = atan(t / sqrt(freedom))
    term, total = (cos(angle), 0.0) if freedom % 2 else (1.0, 0.0)
    first = 2 if freedom % 2 else 1
    for number in range(first, freedom, 2):  # 1 + cos²·1/2 + cos⁴·(1·3)/(2·4) + ..., or its odd sister
        total += term
        term *= cos(angle) ** 2 * number / (number + 1)
    if freedom % 2:
        return 2 / pi * (angle + sin(angle) * total)
    return sin(angle) * total
