"""Asks an engine many questions, each but once: what was answered before a kill is not asked again."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from phantrol.evals.journal import Journal

Tell = Callable[[int, int], None]  # (questions answered, questions in all)


class AnswersEach(Protocol):
    """What is asked of an engine; `phantrol.Engine` is one."""

    def answer_each(
        self, chats: Sequence[Any], max_new_tokens: int, batch_size: int, **options: Any
    ) -> Iterator[tuple[int, Any]]:
        """Yield (position, answer with a `.text`, or the ValueError of a chat that is refused), in any order."""


@dataclass(frozen=True)
class Question:
    """chat, and what its answer is filed under: the hash of the prompt; id and column are for who reads the file"""

    chat: Any
    max_new_tokens: int
    prompt_sha256: str
    id: str = ""
    column: str = "model"

    @property
    def key(self) -> tuple[str, int]:
        return self.prompt_sha256, self.max_new_tokens


def ask(
    engine: AnswersEach,
    questions: Sequence[Question],
    batch_size: int,
    journal: Journal | None = None,
    tell: Tell | None = None,
    options: Mapping[str, Any] | None = None,
) -> dict[tuple[str, int], str | ValueError]:
    """Return {key of a question: its answer, or why it was refused}. Equal questions are asked once.

    Questions whose answers may be of the same length share batches, whatever task they belong to.
    options  of the engine, as num_beams
    """
    said: dict[tuple[str, int], str | ValueError] = {}
    waiting: dict[tuple[str, int], Question] = {}
    for question in questions:
        kept = None if journal is None else journal.get(*question.key)
        if kept is not None:
            said[question.key] = kept["text"]
        else:
            waiting.setdefault(question.key, question)
    total = len(said) + len(waiting)
    for tokens in dict.fromkeys(question.max_new_tokens for question in waiting.values()):
        ours = [question for question in waiting.values() if question.max_new_tokens == tokens]
        answers = engine.answer_each([question.chat for question in ours], tokens, batch_size, **(options or {}))
        for position, answer in answers:
            question = ours[position]
            if isinstance(answer, ValueError):
                said[question.key] = answer
            else:
                said[question.key] = answer.text
                if journal is not None:
                    journal.add([_line(question, answer, batch_size)])
            if tell is not None:
                tell(len(said), total)
    return said


def _line(question: Question, answer: Any, batch_size: int) -> dict[str, Any]:
    return {
        "prompt_sha256": question.prompt_sha256,
        "max_new_tokens": question.max_new_tokens,
        "id": question.id,
        "column": question.column,
        "text": answer.text,
        "finish_reason": getattr(answer, "finish_reason", None),
        "num_new_tokens": getattr(answer, "num_new_tokens", None),
        "batch_size": batch_size,
    }
