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
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar, Self

from phantrol.evals.metrics import exact_match
from phantrol.models.conversation import parts_of


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
    """Subclasses give `rows`, and whatever else they need otherwise.

    judged          a judge scores the answers, not a rule: see evals/judged.py
    default_split, default_limit  what `phantrol eval` asks if it is not told: a limit of None is all rows
    headline        the name, among `scores` or `overall`, of the number that papers print; None: the mean of the tasks
    headline_scale  what that number, from 0 to 1, is multiplied by to be printed as papers do: 100 for percent
    all_tasks       those that the headline is over: it is marked where a folder lacks some; () where that cannot be
    highest_score   the most that a score of `overall` can be: more than 1 where it is a ratio to a reference
    A dataclass with fields `data` or `protocol` gets --data and --protocol of the command line.
    """

    max_new_tokens: int = 16
    judged: ClassVar[bool] = False
    default_split: ClassVar[str] = "val"
    default_limit: ClassVar[int | None] = None
    headline: ClassVar[str | None] = None
    headline_scale: ClassVar[float] = 100
    all_tasks: ClassVar[tuple[str, ...]] = ()
    highest_score: ClassVar[float] = 1.0

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

    def group_of(self, row: Row) -> str:
        """Return what a row stands and falls with: rotations of a question, questions about one picture. Intervals and
        tests draw groups, not rows. By default each row is alone."""
        return row.id

    def data_sha256(self) -> str | None:
        """Return the hash of what `data` names, where it says what is asked; None where it only says in which folder
        the files of something published lie."""
        return None

    def tokens_for(self, task: str) -> int:
        """Return the most tokens that an answer of this task needs."""
        return self.max_new_tokens

    def choices_of(self, row: Row) -> Sequence[str]:
        """Return answers of which the most likely one is taken, in place of an answer that the model writes: what is
        scored is its letter. By default none: the model writes."""
        return ()

    def for_engine(self, engine: Any) -> Self:
        """Return the benchmark as the model of this engine is asked it. To be called before anything else is."""
        return self

    def generation_options(self) -> dict[str, Any]:
        """Return the options of `generate` that belong to the benchmark's protocol, such as num_beams."""
        return {}

    @contextmanager
    def session(self, engine: Any) -> Iterator[None]:
        """Within this context the engine writes its prompts as the benchmark's protocol has them."""
        yield

    def prior_rows(self) -> Sequence[Row] | None:
        """Return rows of training, from which the text-only prior learns; their pictures are not looked at.

        None if there are none: each half of the split's groups then learns from the other.
        """
        return None

    def mask(self, question: str) -> str:
        """Return the question with what varies from row to row blotted out, so that the prior sees its form."""
        return question


def question_text(row: Row) -> str:
    """Return all that the chat of a row says, without its pictures."""
    texts = ([part["text"] for part in parts_of(message) if part["type"] == "text"] for message in row.chat)
    return "\n".join("".join(said) for said in texts)
