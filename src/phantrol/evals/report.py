"""What an evaluation found: scores by task in three columns, every answer, what is missing, JSON and a table."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from phantrol.evals.metrics import wilson_interval
from phantrol.whole_files import write_text

if TYPE_CHECKING:
    from phantrol.evals.card import Card

COLUMNS = ("model", "shuffled", "prior")


@dataclasses.dataclass(frozen=True)
class Sample:
    """One row with what was said about it.

    texts   {column: what was said};  scores  {column: {score name: 0 to 1}}
    group   what the row stands and falls with, as `Benchmark.group_of`
    """

    id: str
    task: str
    question: str
    answer: str
    texts: dict[str, str]
    scores: dict[str, dict[str, float]]
    prompt_sha256: str = ""
    group: str = ""


@dataclasses.dataclass(frozen=True)
class Missing:
    """A row without a score: its picture cannot be read, its prompt is too long, its judgement failed."""

    id: str
    task: str
    reason: str


@dataclasses.dataclass(frozen=True)
class Report:
    """The result of one benchmark on one split.

    overall  scores that are no average over samples, in the form of `scores`
    missing  rows without a score: they count neither as right nor as wrong
    card     how the scores came about, None if nobody wrote it down
    """

    benchmark: str
    split: str
    model: str
    seed: int
    samples: tuple[Sample, ...]
    overall: dict[str, dict[str, float]] = dataclasses.field(default_factory=dict)
    missing: tuple[Missing, ...] = ()
    card: Card | None = None

    @cached_property
    def scores(self) -> dict[str, dict[str, float]]:
        """{score name: {"model", "shuffled", "prior": mean from 0 to 1, "n": rows}}, in the order of the rows.

        A column that nobody was asked for, as in judged benchmarks, is None.
        """
        names = dict.fromkeys(name for sample in self.samples for name in sample.scores["model"])
        return {name: self._means(name) for name in names}

    def _means(self, name: str) -> dict[str, float]:
        counted = [sample for sample in self.samples if name in sample.scores["model"]]
        means = {}
        for column in COLUMNS:
            values = [sample.scores[column][name] for sample in counted if name in sample.scores.get(column, ())]
            means[column] = sum(values) / len(values) if values else None
        return {**means, "n": len(counted)}

    def to_json(self) -> dict[str, Any]:
        """Return the scores; with a card also that, what is missing, and every row's scores, to compare models by."""
        found = {
            "benchmark": self.benchmark,
            "split": self.split,
            "model": self.model,
            "seed": self.seed,
            "scores": self.scores,
            "overall": self.overall,
        }
        if self.card is not None:
            found |= {
                "card": json.loads(json.dumps(dataclasses.asdict(self.card))),
                "missing": [dataclasses.asdict(row) for row in self.missing],
                "rows": [_row_json(sample) for sample in self.samples],
            }
        return found

    def write(self, path: str | Path) -> None:
        """Write `to_json` as a file, whole or not at all; its folder is made."""
        write_text(Path(path), json.dumps(self.to_json(), indent=1) + "\n")

    def write_samples(self, path: str | Path) -> None:
        """Write every question with its answers and scores, one JSON object a line."""
        lines = [json.dumps(dataclasses.asdict(sample), ensure_ascii=False) + "\n" for sample in self.samples]
        write_text(Path(path), "".join(lines))

    def table(self) -> Table:
        """Return the scores in percent, the model's with its 95 % interval, as a table for a terminal."""
        title = f"{self.benchmark} · {self.split}" + (f" · {self.model}" if self.model else "")
        table = Table(title=Text(title, "table.title"))  # a str would be read as markup
        table.add_column("task")
        for heading in ("model", "95 %", "shuffled images", "text-only prior", "rows"):
            table.add_column(heading, justify="right")
        for name, scores in self.scores.items():
            table.add_row(*self._cells(name, scores, wilson_interval(scores["model"], int(scores["n"]))))
        table.add_section()
        for name, scores in self.overall.items():
            table.add_row(*self._cells(name, scores, None))
        table.columns[0].footer = "mean of tasks"
        for column, name in zip((1, 3, 4), COLUMNS, strict=True):
            means = [scores[name] for scores in self.scores.values()]
            table.columns[column].footer = _percent(None if None in means else sum(means) / max(1, len(means)))
        table.show_footer = bool(self.scores)
        if self.missing:
            table.caption = f"{len(self.missing)} rows are missing: they count neither as right nor as wrong"
        return table

    def _cells(
        self, name: str, scores: dict[str, float], otherwise: tuple[float, float] | None
    ) -> tuple[str | Text, ...]:
        ends = self.card.intervals.get(name, otherwise) if self.card else otherwise
        shown = "" if ends is None else f"{100 * ends[0]:.0f}-{100 * ends[1]:.0f}"
        shares = [_percent(scores[column]) for column in COLUMNS]
        return Text(name), shares[0], shown, *shares[1:], str(scores["n"])


def write_reports(path: Path, reports: Sequence[Report]) -> None:
    """Write one report as it is, several under "benchmarks"."""
    if len(reports) == 1:
        reports[0].write(path)
    else:
        write_text(path, json.dumps({"benchmarks": [report.to_json() for report in reports]}, indent=1) + "\n")


def _row_json(sample: Sample) -> dict[str, Any]:
    own = {"id": sample.id, "task": sample.task, "prompt_sha256": sample.prompt_sha256}
    group = {} if sample.group in ("", sample.id) else {"group": sample.group}
    return {**own, **group, "scores": sample.scores["model"]}


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.1f}"
