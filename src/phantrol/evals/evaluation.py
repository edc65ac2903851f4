"""Asks a benchmark's questions three ways: the model, the model with shuffled images, and the text-only prior.

A score means little alone. What shuffled images still earn was not seen; what the prior earns was not even asked.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from phantrol.evals.asking import AnswersEach, Question, Tell, ask
from phantrol.evals.benchmark import Benchmark, Row, question_text
from phantrol.evals.fingerprints import prompt_sha256, texts_sha256
from phantrol.evals.journal import Journal
from phantrol.evals.prior import TextPrior, answer_by_halves
from phantrol.evals.report import COLUMNS, Missing, Report, Sample
from phantrol.evals.shuffling import shuffle_pictures
from phantrol.find import name_of
from phantrol.models.conversation import pictures_of
from phantrol.models.image_processing import load_picture


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """A report with the benchmark as it was asked and the rows of the report's samples, in their order."""

    benchmark: Benchmark
    rows: tuple[Row, ...]
    report: Report


def evaluate_rows(
    engine: AnswersEach,
    benchmark: Benchmark,
    split: str,
    limit: int | None,
    seed: int = 0,
    batch_size: int = 100,
    tell: Tell | None = None,
    journal: Journal | None = None,
    options: Mapping[str, Any] | None = None,
    keep_going: bool = False,
) -> Evaluation:
    """Ask all questions of a split, score the answers, and leave out what cannot be asked.

    limit    most rows of each task, None for all
    tell     called as answers come with (questions answered, questions in all), those with shuffled images included
    journal  answers are kept there, and those that are there already are not asked again
    options  of `generate`, in place of the benchmark's own
    keep_going  rows that cannot be asked are left out and listed, in place of an error
    Raises ValueError if the split has no rows, too few different pictures to shuffle, or a row that cannot be asked.
    """
    benchmark = benchmark.for_engine(engine)
    name = name_of("benchmarks", type(benchmark))
    rows = benchmark.rows(split, limit, seed)
    if not rows:
        raise ValueError(f"benchmark {name} has no rows in split {split!r} with limit {limit}")
    missing = _unreadable(rows) if keep_going else {}
    asked = _questions(benchmark, name, {i: row for i, row in enumerate(rows) if i not in missing}, seed)
    questions = [question for pair in asked.values() for question in pair.values()]
    options = benchmark.generation_options() | dict(options or {})
    with benchmark.session(engine):
        said = ask(engine, questions, batch_size, journal, tell, options)
    refused: dict[int, ValueError] = {}
    for column in ("model", "shuffled"):  # a row with a broken picture comes before the one that was shown it too
        for index, pair in asked.items():
            if column in pair and isinstance(answer := said[pair[column].key], ValueError):
                refused.setdefault(index, answer)
    if refused and not keep_going:
        index, error = next(iter(refused.items()))
        raise _refusal(name, rows[index], error)
    missing |= {index: str(error) for index, error in refused.items()}
    kept = [index for index in asked if index not in missing]
    if not kept:
        raise ValueError(f"{name}: none of {len(rows)} rows could be asked; the first: {next(iter(missing.values()))}")
    texts = [{column: said[question.key] for column, question in asked[index].items()} for index in kept]
    hashes = [asked[index]["model"].prompt_sha256 for index in kept]
    ours = [rows[index] for index in kept]
    samples = _scored(benchmark, ours, texts, hashes)
    left_out = tuple(Missing(rows[i].id, rows[i].task, reason) for i, reason in sorted(missing.items()))
    overall = {} if benchmark.judged else _overall(benchmark, ours, samples)
    report = Report(name, split, getattr(engine, "name", ""), seed, samples, overall, left_out)
    return Evaluation(benchmark, tuple(ours), report)


def _questions(benchmark: Benchmark, name: str, rows: Mapping[int, Row], seed: int) -> dict[int, dict[str, Question]]:
    """Return {row: {column: question}}; a judged benchmark is asked with its own images alone.

    Raises ValueError for a picture whose file cannot be read, naming its row.
    """
    chats = {"model": [row.chat for row in rows.values()]}
    if not benchmark.judged:
        chats["shuffled"] = shuffle_pictures(list(rows.values()), seed)
    found: dict[int, dict[str, Question]] = {index: {} for index in rows}
    for column, column_chats in chats.items():
        for (index, row), chat in zip(rows.items(), column_chats, strict=True):
            try:
                found[index][column] = question_of(benchmark, row, chat, column)
            except ValueError as error:
                raise _refusal(name, row, error) from None
    return found


def _refusal(name: str, row: Row, error: ValueError) -> ValueError:
    return ValueError(f"{name}, row {row.id}: {error}; --keep-going leaves such rows out")


def question_of(benchmark: Benchmark, row: Row, chat: Any, column: str = "model") -> Question:
    """Return what the engine is asked about a row, with its own chat or another one."""
    choices, sha256 = tuple(benchmark.choices_of(row)), prompt_sha256(chat)
    if choices:
        sha256 = texts_sha256([sha256, *choices])
    return Question(chat, benchmark.tokens_for(row.task), sha256, row.id, column, choices)


def _unreadable(rows: Sequence[Row]) -> dict[int, str]:
    """Return {row: why} for rows with a picture that cannot be read, before others are shown it in place of theirs."""
    found = {}
    for index, row in enumerate(rows):
        try:
            for picture in pictures_of(row.chat):
                load_picture(picture)
        except ValueError as error:
            found[index] = str(error)
    return found


def _scored(
    benchmark: Benchmark, rows: Sequence[Row], texts: Sequence[dict[str, str]], hashes: Sequence[str]
) -> tuple[Sample, ...]:
    if not benchmark.judged:
        texts = [own | {"prior": prior} for own, prior in zip(texts, _prior_answers(benchmark, rows), strict=True)]
    samples = []
    for row, own, sha256 in zip(rows, texts, hashes, strict=True):
        scores = {column: benchmark.scores(row, text) for column, text in own.items()}
        group = benchmark.group_of(row)
        samples.append(Sample(row.id, row.task, question_text(row), row.answer, own, scores, sha256, group))
    return tuple(samples)


def _overall(benchmark: Benchmark, rows: Sequence[Row], samples: Sequence[Sample]) -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = {}
    for column in COLUMNS:
        scores = benchmark.overall(rows, [sample.texts[column] for sample in samples])
        for name, (score, number) in scores.items():
            found.setdefault(name, {})[column] = score
            found[name]["n"] = number
    return found


def _prior_answers(benchmark: Benchmark, rows: Sequence[Row]) -> Iterable[str]:
    learnt = benchmark.prior_rows()
    if learnt is None:
        return answer_by_halves(rows, benchmark.mask, [benchmark.group_of(row) for row in rows])
    prior = TextPrior(learnt, benchmark.mask)
    return [prior.answer(row) for row in rows]
