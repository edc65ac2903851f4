"""MMBench: multiple choice over twenty abilities. A question counts only if it is right in every order of options."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

from phantrol.evals.benchmark import Row
from phantrol.evals.letters import LETTERS
from phantrol.evals.metrics import share_of_groups_right
from phantrol.evals.published import ChoiceBenchmark, PublishedRow, lettered, mean
from phantrol.evals.reading import Record, picture_of, read_tsv

TURNED = 1_000_000  # what is added to the index of a question for each turn of its options


@dataclass(frozen=True)
class MMBench(ChoiceBenchmark):
    """The table of the dev split, as mmbench_dev_20230712.tsv or MMBench_DEV_EN.tsv. Pictures are in the table.

    circular  ask each question with its options in every order; None: as the protocol has it, which with "paper" is not
    A table that brings the turned questions along is asked as it is.
    """

    splits: ClassVar[tuple[str, ...]] = ("dev",)
    folders: ClassVar[tuple[str, ...]] = ("MMBench",)
    source: ClassVar[str] = "github.com/open-compass/MMBench"
    released_name: ClassVar[str] = "mmbench_dev"
    standard_suffix: ClassVar[str] = "\nPlease select the correct answer from the options above."
    tables: ClassVar[tuple[str, ...]] = ("mmbench_dev_2*.tsv", "mmbench_dev_en*.tsv", "MMBench_DEV_EN*.tsv")
    max_new_tokens = 64

    circular: bool | None = None

    def questions(self, split: str) -> Iterator[PublishedRow]:
        rows = [row for row in read_tsv(self.file(*self.tables)) if row["answer"]]
        numbers = {int(float(row["index"])) for row in rows}
        brings = any(number >= TURNED and number % TURNED in numbers for number in numbers)
        turn = not brings and (self.protocol == "standard" if self.circular is None else self.circular)
        for row in rows:
            number = int(float(row["index"]))
            if not (brings and number >= TURNED and self.circular is False):
                yield from self._turns(row, number, turn)

    def _turns(self, row: Record, number: int, circular: bool) -> Iterator[PublishedRow]:
        given = {letter: row[letter] for letter in "ABCD" if _filled(row[letter])}
        if row["answer"].strip() not in given:
            raise ValueError(f"{row.where}: the right answer {row['answer']!r} is none of {', '.join(given)}")
        choices, right = tuple(given.values()), list(given).index(row["answer"].strip())
        for shift in range(len(choices) if circular else 1):
            turned = choices[-shift:] + choices[:-shift] if shift else choices
            answer, name = LETTERS[(right + shift) % len(choices)], number + shift * TURNED
            question, hint = self._asked(row["question"], turned), row.get("hint") or ""
            if _filled(hint):
                question = f"{hint}\n{question}" if self.protocol == "paper" else f"Hint: {hint}\n{question}"
            more = {"choices": turned, "group": str(number % TURNED)}
            yield self.row(name, row["category"], [picture_of(row["image"])], question, answer, **more)

    def _asked(self, question: str, choices: Sequence[str]) -> str:
        if self.protocol == "paper":
            return f"{question}\n{lettered(choices)}"
        return f"Question: {question}\nOptions:\n{lettered(choices)}"

    def overall(self, rows: Sequence[Row], texts: Sequence[str]) -> dict[str, tuple[float, int]]:
        scored = self.scored(rows, texts)
        vanilla, circular = mean(score for _, score in scored), self._in_every_order(scored)
        found = {
            f"{task}_circular": self._in_every_order([each for each in scored if each[0].task == task])
            for task in dict.fromkeys(row.task for row in rows)
        }
        headline = vanilla if self.protocol == "paper" and not self.circular else circular
        return found | {"vanilla": vanilla, "circular": circular, "overall": headline}

    def _in_every_order(self, scored: Sequence[tuple[Row, float]]) -> tuple[float, int]:
        return share_of_groups_right((self.group_of(row), score) for row, score in scored)


def _filled(cell: str | None) -> bool:
    """Whether a cell holds something. "None" does: it is an option of its own, which pandas would drop."""
    return bool(cell) and cell.strip().lower() != "nan"


BENCHMARK = MMBench
