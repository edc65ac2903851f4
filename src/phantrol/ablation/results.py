"""The scores of all seeds, brought together: estimates by variant, split and family, and differences of pairs."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from phantrol.ablation.asking import family_of
from phantrol.ablation.statistics import Estimate, estimate
from phantrol.ablation.variants import Variant
from phantrol.evals.report import COLUMNS, Report
from phantrol.whole_files import write_text

ALL = "all tasks"  # the family that is the mean of the tasks


@dataclass(frozen=True)
class Cost:
    """parameters  of the model as it answers;  training_flops  of the whole run;  answer_flops  of one answer"""

    parameters: int
    training_flops: float
    answer_flops: float


@dataclass(frozen=True)
class Results:
    """What was measured so far.

    scores  {(variant, split, family, column): {seed: 0 to 1}};  column  model, shuffled or prior
    counts  {(split, family): questions of one seed}
    observed  {variant: {name: {seed: value}}}, what became of the methods: the ratio w, η
    """

    variants: tuple[Variant, ...]
    costs: Mapping[str, Cost]
    scores: Mapping[tuple[str, str, str, str], Mapping[int, float]]
    counts: Mapping[tuple[str, str], int]
    observed: Mapping[str, Mapping[str, Mapping[int, float]]] = field(default_factory=dict)

    @property
    def splits(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(split for split, _ in self.counts))

    def families(self, split: str) -> tuple[str, ...]:
        """Return ALL and the families that the split asks; ALL alone if there is but one."""
        found = tuple(dict.fromkeys(family for other, family in self.counts if other == split))
        return found if len(found) > 2 else found[:1]

    def score(self, variant: str, split: str, family: str = ALL, column: str = "model") -> Estimate | None:
        """Return a mean over seeds, None if none is there yet."""
        values = self.scores.get((variant, split, family, column))
        return estimate(list(values.values())) if values else None

    def difference(self, variant: Variant, split: str, family: str = ALL) -> Estimate | None:
        """Return the mean difference to the variant that it is compared with, over the seeds that both have."""
        ours = self.scores.get((variant.name, split, family, "model"), {})
        theirs = self.scores.get((variant.against, split, family, "model"), {})
        pairs = [ours[seed] - theirs[seed] for seed in ours if seed in theirs]
        return estimate(pairs) if pairs and variant.name != variant.against else None

    def rows(self) -> list[dict[str, Any]]:
        """Return one flat row for each variant, split and family: the CSV, and part of the JSON."""
        rows = []
        for variant in self.variants:
            for (split, family), questions in self.counts.items():
                found = self.score(variant.name, split, family)
                if found is not None and family in self.families(split):
                    rows.append(self._row(variant, split, family, found, questions))
        return rows

    def _row(self, variant: Variant, split: str, family: str, found: Estimate, questions: int) -> dict[str, Any]:
        cost, apart = self.costs[variant.name], self.difference(variant, split, family)
        blind = {column: self.score(variant.name, split, family, column).mean for column in COLUMNS[1:]}
        return {
            "variant": variant.name,
            "split": split,
            "family": family,
            "seeds": found.seeds,
            "questions_a_seed": questions,
            "accuracy": found.mean,
            "low": found.low,
            "high": found.high,
            **blind,
            "against": variant.against if apart else None,
            "difference_seeds": apart and apart.seeds,
            "difference": apart and apart.mean,
            "difference_low": apart and apart.low,
            "difference_high": apart and apart.high,
            "verdict": apart and apart.verdict,
            **asdict(cost),
        }


def score_file(out: Path, variant: str, seed: int, split: str) -> Path:
    return out / "answers" / variant / f"seed-{seed}" / f"{split}.json"


def write_scores(report: Report, path: Path, observed: Mapping[str, float]) -> None:
    """Write every answer, then the scores with the family of each task and what was observed of the methods."""
    report.write_samples(path.with_suffix(".jsonl"))
    tasks = list(dict.fromkeys(sample.task for sample in report.samples))
    families = {task: family_of(task) for task in tasks}
    write_text(path, json.dumps(report.to_json() | {"families": families, "observed": observed}, indent=1) + "\n")


def read_results(
    out: Path, variants: Sequence[Variant], costs: Mapping[str, Cost], seeds: Sequence[int], splits: Sequence[str]
) -> Results:
    """Return what is there of these variants, seeds and splits."""
    scores: dict[tuple[str, str, str, str], dict[int, float]] = {}
    counts: dict[tuple[str, str], int] = {}
    observed: dict[str, dict[str, dict[int, float]]] = {}
    for split in splits:
        for variant in variants:
            for seed in seeds:
                path = score_file(out, variant.name, seed, split)
                if not path.is_file():
                    continue
                written = json.loads(path.read_text("utf-8"))
                for name, value in written["observed"].items():
                    observed.setdefault(variant.name, {}).setdefault(name, {})[seed] = value
                for family, tasks in _by_family(written["families"]).items():
                    rows = [written["scores"][task] for task in tasks]
                    counts[split, family] = sum(row["n"] for row in rows)
                    for column in COLUMNS:
                        mean = sum(row[column] for row in rows) / len(rows)
                        scores.setdefault((variant.name, split, family, column), {})[seed] = mean
    return Results(tuple(variants), costs, scores, counts, observed)


def to_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    text = io.StringIO()
    if rows:
        writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return text.getvalue()


def _by_family(families: Mapping[str, str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {ALL: list(families)}
    for task, family in families.items():
        found.setdefault(family, []).append(task)
    return found
