"""What a benchmark is: rows to ask, and a score for each answer.

A whole benchmark in one file:

    @dataclass(frozen=True)
    class Photos(Benchmark):
        max_new_tokens = 4

        def rows(self, split, limit=None, seed=0):
            question = [{"type": "image", "path": "dog.jpg"}, {"type": "text", "text": "Is it a dog?"}]
            return [Row("1", "existence", [{"role": "user", "content": question}], "yes")]

        def score(self, row, text):
            return yes_no(text, row.answer)

    BENCHMARK = Photos
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from phantrol.evals.metrics import exact_match


@dataclasses.dataclass(frozen=True)
class Row:
    """One question.

    task  the name of its score
    chat  messages without the answer, [{"role", "content"}]; pictures are parts {"type": "image", "image" or "path"}
    """

    id: str
    task: str
    chat: list[dict[str, Any]]
    answer: str


class Benchmark:
    """Subclasses give `rows`, and whatever else they need otherwise."""

    max_new_tokens: int = 16

    def rows(self, split: str, limit: int | None = None, seed: int = 0) -> list[Row]:
        """Return the rows of a split.

        limit  most rows of each task, None for all;  seed  which ones, where there is a choice
        Raises ValueError for a split that there is not.
        """
        raise NotImplementedError

    def score(self, row: Row, text: str) -> float:
        """Return how right `text` is, from 0 to 1."""
        return exact_match(text, row.answer)

    def scores(self, row: Row, text: str) -> dict[str, float]:
        """Return every score that a row counts for, by name. By default one, under the name of its task."""
        return {row.task: self.score(row, text)}

    def overall(self, rows: Sequence[Row], texts: Sequence[str]) -> dict[str, tuple[float, int]]:
        """Return the scores that are no average over rows, as F1 is none: {name: (from 0 to 1, what it is over)}."""
        return {}

    def tokens_for(self, task: str) -> int:
        """Return the most tokens that an answer of this task needs."""
        return self.max_new_tokens

    def prior_rows(self) -> Sequence[Row] | None:
        """Return rows of training, from which the text-only prior learns; their pictures are not looked at.

        None if there are none: the prior then learns, for each row, from all the others of the split.
        """
        return None

    def mask(self, question: str) -> str:
        """Return the question with what varies from row to row blotted out, so that the prior sees its form."""
        return question


def question_text(row: Row) -> str:
    """Return all that the chat of a row says, without its pictures."""
    contents = [message["content"] for message in row.chat]
    parts = [[{"type": "text", "text": c}] if isinstance(c, str) else c for c in contents]
    return "\n".join("".join(part["text"] for part in content if part["type"] == "text") for content in parts)
