"""What an evaluation found: scores by task in three columns, every answer, JSON and a table."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.table import Table

from phantrol.evals.metrics import wilson_interval
from phantrol.training.checkpoint import write_text

COLUMNS = ("model", "shuffled", "prior")


@dataclasses.dataclass(frozen=True)
class Sample:
    """One row with what was said about it.

    texts   {column: what was said};  scores  {column: {score name: 0 to 1}}
    """

    id: str
    task: str
    question: str
    answer: str
    texts: dict[str, str]
    scores: dict[str, dict[str, float]]


@dataclasses.dataclass(frozen=True)
class Report:
    """The result of one benchmark on one split.

    overall  scores that are no average over samples, in the form of `scores`
    """

    benchmark: str
    split: str
    model: str
    seed: int
    samples: tuple[Sample, ...]
    overall: dict[str, dict[str, float]] = dataclasses.field(default_factory=dict)

    @property
    def scores(self) -> dict[str, dict[str, float]]:
        """{score name: {"model", "shuffled", "prior": mean from 0 to 1, "n": rows}}, in the order of the rows."""
        names = dict.fromkeys(name for sample in self.samples for name in sample.scores["model"])
        return {name: self._means(name) for name in names}

    def _means(self, name: str) -> dict[str, float]:
        counted = [sample for sample in self.samples if name in sample.scores["model"]]
        means = {column: sum(s.scores[column][name] for s in counted) / len(counted) for column in COLUMNS}
        return {**means, "n": len(counted)}

    def to_json(self) -> dict[str, Any]:
        return {
            "benchmark": self.benchmark,
            "split": self.split,
            "model": self.model,
            "seed": self.seed,
            "scores": self.scores,
            "overall": self.overall,
        }

    def write(self, path: str | Path) -> None:
        """Write `to_json` as a file, whole or not at all; its folder is made."""
        _write(path, json.dumps(self.to_json(), indent=1) + "\n")

    def write_samples(self, path: str | Path) -> None:
        """Write every question with its answers and scores, one JSON object a line."""
        lines = [json.dumps(dataclasses.asdict(sample), ensure_ascii=False) + "\n" for sample in self.samples]
        _write(path, "".join(lines))

    def table(self) -> Table:
        """Return the scores in percent, the model's with its 95 % interval, as a table for a terminal."""
        table = Table(title=f"{self.benchmark} · {self.split}" + (f" · {self.model}" if self.model else ""))
        table.add_column("task")
        for heading in ("model", "95 %", "shuffled images", "text-only prior", "rows"):
            table.add_column(heading, justify="right")
        for cells in self._lines():
            table.add_row(*cells)
        table.add_section()
        for name, scores in self.overall.items():
            shares = [_percent(scores[column]) for column in COLUMNS]
            table.add_row(name, shares[0], "", *shares[1:], str(scores["n"]))
        table.columns[0].footer = "mean of tasks"
        means = [sum(scores[column] for scores in self.scores.values()) / len(self.scores) for column in COLUMNS]
        for column, mean in zip((1, 3, 4), means, strict=True):
            table.columns[column].footer = _percent(mean)
        table.show_footer = True
        return table

    def _lines(self) -> Iterator[tuple[str, ...]]:
        for name, scores in self.scores.items():
            low, high = wilson_interval(scores["model"], int(scores["n"]))
            interval = f"{100 * low:.0f}-{100 * high:.0f}"
            shares = [_percent(scores[column]) for column in COLUMNS]
            yield name, shares[0], interval, *shares[1:], str(scores["n"])


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"


def _write(path: str | Path, text: str) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    write_text(Path(path), text)
