"""MathVista in full: a judge takes the final answer out of what a model says, and a rule compares it.

Lu et al., 2023: the same files as `mathvista`, which asks what rules alone can score; here lists are asked too.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any, ClassVar

from phantrol.evals.judged import EXTRACT, JudgedBenchmark
from phantrol.evals.judging import Ask
from phantrol.evals.letters import LETTERS, chosen_option, refuses
from phantrol.evals.metrics import edit_distance, normalise, numbers_in
from phantrol.evals.published import PublishedRow
from phantrol.evals.reading import picture_of, read_parquet

KEPT = (
    "question",
    "choices",
    "unit",
    "precision",
    "answer",
    "question_type",
    "answer_type",
    "metadata",
    "query",
    "pid",
)

_NOTHING, _NO_ANSWER = re.compile(r"null|none|n/a"), re.compile(r"(?:.*\s)?no (?:final )?answer\b.*")


@dataclass(frozen=True)
class MathVistaJudged(JudgedBenchmark):
    """The score is the share of right final answers. Of options the one that is nearest to the final answer, letter by
    letter, is taken as chosen, as in MathVista's own evaluation; numbers are rounded as the question says. No final
    answer, "null" or in other words, is wrong.
    """

    splits: ClassVar[tuple[str, ...]] = ("testmini",)
    folders: ClassVar[tuple[str, ...]] = ("MathVista",)
    source: ClassVar[str] = "huggingface.co/datasets/AI4Math/MathVista"
    released_name: ClassVar[str] = "mathvista"
    judge_prompts: ClassVar[dict[str, str]] = {"extract": EXTRACT}

    def questions(self, split: str) -> Iterator[PublishedRow]:
        for entry in read_parquet(self.files(f"{split}-*.parquet")):
            facts = {name: entry.get(name) for name in KEPT}
            choices, task = tuple(entry["choices"] or ()), entry["metadata"]["task"]
            shown = [picture_of(entry["decoded_image"])]
            answer = str(entry["answer"])
            if choices and answer not in choices:
                raise ValueError(f"{entry.where}: the right answer {answer!r} is none of {choices}")
            yield self.row(entry["pid"], task, shown, entry["query"], answer, choices=choices, facts=facts)

    def judge(self, row: PublishedRow, text: str, ask: Ask) -> dict[str, float]:
        said = ask(EXTRACT.format(question=row.facts["query"], answer=text), max_tokens=128).strip()
        return {row.task: float(is_right(row, said))}

    def official(self, rows: Sequence[PublishedRow], texts: Sequence[str], model: str) -> dict[str, Any]:
        """{pid: entry with its response}, as MathVista's extraction script reads it."""
        return {row.id: row.facts | {"response": text} for row, text in zip(rows, texts, strict=True)}


def is_right(row: PublishedRow, said: str) -> bool:
    """Whether the final answer that was taken out of a reply is the right one."""
    if row.choices:
        if _says_nothing(said, row.choices):
            return False
        letter = chosen_option(said, row.choices)
        if letter is not None:
            return row.choices[LETTERS.index(letter)] == row.answer
        return min(row.choices, key=lambda choice: edit_distance(said, choice)) == row.answer
    if row.facts["answer_type"] in ("integer", "float"):
        numbers = list(set(numbers_in(said)))  # "$5$", "x = 5" and "5 m/s" are 5, as for the rules of `mathvista`
        if len(numbers) != 1 or not isfinite(numbers[0]):
            return False
        number = numbers[0]
        if row.facts["answer_type"] == "integer":
            return int(number) == int(float(row.answer))
        digits = int(row.facts["precision"] or 0)
        return f"{number:.{digits}f}" == f"{float(row.answer):.{digits}f}"
    if row.facts["answer_type"] == "list":
        return _as_list(said) == _as_list(row.answer)
    return said.strip() == row.answer.strip()


def _says_nothing(said: str, choices: Sequence[str]) -> bool:
    """Whether the judge found no final answer, in whatever words: of these the nearest spelling would be drawn by lot.

    A letter, or words of an option, are an answer, whatever doubts stand beside them; and where an option itself is
    that nobody can tell, so is a refusal.
    """
    words = normalise(said)
    if words in map(normalise, choices):
        return False
    if _NOTHING.fullmatch(words):
        return True
    if chosen_option(said, [""] * len(choices)):
        return False
    return bool(_NO_ANSWER.fullmatch(words)) or (refuses(said) and not any(map(refuses, choices)))


def _as_list(text: str) -> Any:
    found = re.search(r"\[.*\]", text, re.DOTALL)
    try:
        return ast.literal_eval(found[0]) if found else text.strip()
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):  # all that literal_eval raises
        return text.strip()


BENCHMARK = MathVistaJudged
