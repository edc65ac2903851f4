"""Multiple choice in which the model writes nothing: the option whose text is the most likely answer is its choice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

from phantrol.evals.benchmark import Row
from phantrol.evals.published import ChoiceBenchmark, PublishedRow, lettered


@dataclass(frozen=True)
class RankedBenchmark(ChoiceBenchmark):
    """A benchmark whose own evaluation ranks the options by their likelihood. A subclass gives `questions`.

    ranked  whether they are ranked; None: as the protocol has it, which with "standard" they are

    The prompt is then the question alone, and an option counts by the mean log-probability of its tokens and the end of
    turn. Without ranking the options are shown, and the model writes a letter.
    """

    ranked: bool | None = None

    @property
    def ranks(self) -> bool:
        return self.protocol == "standard" if self.ranked is None else self.ranked

    @property
    def suffix(self) -> str:
        return "" if self.ranks else super().suffix

    def for_engine(self, engine: Any) -> Self:
        return replace(super().for_engine(engine), ranked=self.ranks)  # so that the card says it

    def asked(self, question: str, choices: Sequence[str]) -> str:
        """Return a question as it is asked: alone, or with its options."""
        return question if self.ranks else f"{question}\n{lettered(choices)}"

    def choices_of(self, row: PublishedRow) -> Sequence[str]:
        return row.choices if self.ranks else ()

    def tokens_for(self, task: str) -> int:
        return 0 if self.ranks else super().tokens_for(task)

    def score(self, row: Row, text: str) -> float:
        return float(text == row.answer) if self.ranks else super().score(row, text)
