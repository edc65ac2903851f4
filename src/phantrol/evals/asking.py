"""Asks an engine many questions, each but once: what was answered before a kill is not asked again."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from phantrol.evals.journal import Journal
from phantrol.evals.letters import LETTERS

Tell = Callable[[int, int], None]  # (questions answered, questions in all)


class AnswersEach(Protocol):
    """What is asked of an engine; `phantrol.Engine` is one. Benchmarks that rank answers need its `rank_each` too."""

    def answer_each(
        self, chats: Sequence[Any], max_new_tokens: int, batch_size: int, **options: Any
    ) -> Iterator[tuple[int, Any]]:
        """Yield (position, answer with a `.text`, or the ValueError of a chat that is refused), in any order."""


@dataclass(frozen=True)
class Question:
    """chat, and what its answer is filed under: the hash of the prompt; id and column are for who reads the file

    choices  answers to rank: the letter of the most likely one is the answer; without any the model writes one
    """

    chat: Any
    max_new_tokens: int
    prompt_sha256: str
    id: str = ""
    column: str = "model"
    choices: tuple[str, ...] = ()

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
    for ours, answers in _rounds(engine, list(waiting.values()), batch_size, options or {}):
        for position, answer in answers:
            question = ours[position]
            if isinstance(answer, ValueError):
                said[question.key] = answer
            else:
                line = _line(question, answer, batch_size)
                said[question.key] = line["text"]
                if journal is not None:
                    journal.add([line])
            if tell is not None:
                tell(len(said), total)
    return said


def _rounds(
    engine: AnswersEach, questions: Sequence[Question], batch_size: int, options: Mapping[str, Any]
) -> Iterator[tuple[list[Question], Iterator[tuple[int, Any]]]]:
    """Yield questions that go together with their answers to come: those to rank, and those of one length."""
    ranked = [question for question in questions if question.choices]
    if ranked:
        choices = [question.choices for question in ranked]
        yield ranked, engine.rank_each([question.chat for question in ranked], choices, batch_size)
    written = [question for question in questions if not question.choices]
    for tokens in dict.fromkeys(question.max_new_tokens for question in written):
        ours = [question for question in written if question.max_new_tokens == tokens]
        yield ours, engine.answer_each([question.chat for question in ours], tokens, batch_size, **options)


def _line(question: Question, answer: Any, batch_size: int) -> dict[str, Any]:
    """Return what the journal keeps of an answer, `text` among it."""
    if question.choices:
        said = {"text": LETTERS[answer.best], "logprobs": list(answer.logprobs)}
    else:
        said = {name: getattr(answer, name, None) for name in ("text", "finish_reason", "num_new_tokens")}
    return {
        "prompt_sha256": question.prompt_sha256,
        "max_new_tokens": question.max_new_tokens,
        "id": question.id,
        "column": question.column,
        **said,
        "batch_size": batch_size,
    }
