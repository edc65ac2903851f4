"""MMStar: 1,500 questions that cannot be answered without the picture, six abilities of three kinds each."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

from phantrol.evals.benchmark import Row
from phantrol.evals.published import ChoiceBenchmark, PublishedRow, mean, mean_by
from phantrol.evals.reading import picture_of, read_parquet, read_tsv

_OPTIONS = re.compile(r".*\bOptions:\s*A:(.*?)" + "".join(rf"(?:[,\n] *{name}:(.*?))?" for name in "BCD"), re.DOTALL)


@dataclass(frozen=True)
class MMStar(ChoiceBenchmark):
    """mmstar.parquet, or MMStar.tsv with pictures as base64. The questions hold their options."""

    splits: ClassVar[tuple[str, ...]] = ("val",)
    folders: ClassVar[tuple[str, ...]] = ("MMStar",)
    source: ClassVar[str] = "hub Lin-Chen/MMStar"
    released_name: ClassVar[str] = "mmstar"

    def questions(self, split: str) -> Iterator[PublishedRow]:
        file = self.file("mmstar.parquet", "val-*.parquet", "MMStar.tsv")
        for row in read_tsv(file) if file.suffix == ".tsv" else read_parquet([file]):
            question = row["question"]
            if row.get("A"):  # the table keeps options in columns of their own
                question += "\nOptions: " + ", ".join(f"{name}: {row[name]}" for name in "ABCD" if row[name])
            more = {"choices": _options_in(question), "facts": {"kind": f"{row['category']} ({row['l2_category']})"}}
            picture = picture_of(row["image"])
            yield self.row(row["index"], row["category"], [picture], question, row["answer"].strip().upper(), **more)

    def overall(self, rows: Sequence[Row], texts: Sequence[str]) -> dict[str, tuple[float, int]]:
        scored = self.scored(rows, texts)
        kinds = mean_by((row.facts["kind"], score) for row, score in scored)
        return kinds | {"overall": mean(score for _, score in scored)}


def _options_in(question: str) -> tuple[str, ...]:
    """Return the texts of four options, "" for one that lacks, from a question's end: "Options: A: red, B: blue"."""
    found = _OPTIONS.fullmatch(question)
    return tuple((text or "").strip() for text in found.groups()) if found else ("",) * 4


BENCHMARK = MMStar
