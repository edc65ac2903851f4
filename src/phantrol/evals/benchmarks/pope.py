"""POPE: is there such an object in the picture? Half of the objects are, the other half are drawn in three ways."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

from phantrol.evals.benchmark import Row
from phantrol.evals.letters import refuses, said_yes_or_no
from phantrol.evals.metrics import plain, yes_no_f1
from phantrol.evals.published import SHORT, PublishedBenchmark, PublishedRow, mean
from phantrol.evals.reading import read_json

DRAWN = ("random", "popular", "adversarial")


@dataclass(frozen=True)
class Pope(PublishedBenchmark):
    """coco_pope_random.json, coco_pope_popular.json, coco_pope_adversarial.json, and the folder val2014 of COCO.

    Scores: accuracy and F1 of "yes" for each way; overall the mean of F1, with "paper" of accuracy.
    """

    folders: ClassVar[tuple[str, ...]] = ("POPE",)
    source: ClassVar[str] = "github.com/RUCAIBox/POPE (output/coco), pictures from cocodataset.org (val2014)"
    released_name: ClassVar[str] = "pope"
    paper_suffix: ClassVar[str] = SHORT
    standard_suffix: ClassVar[str] = SHORT

    def questions(self, split: str) -> Iterator[PublishedRow]:
        folder = self.folder("val2014", "coco2014/val2014", "coco/val2014")
        for way in DRAWN:
            for row in read_json(self.file(f"coco_pope_{way}.json")):
                name, picture = f"{way}/{row['question_id']}", folder / row["image"]
                yield self.row(name, way, [picture], row["text"], row["label"].lower(), group=row["image"])

    def score(self, row: PublishedRow, text: str) -> float:
        return float(_said(text) == row.answer)

    def overall(self, rows: Sequence[Row], texts: Sequence[str]) -> dict[str, tuple[float, int]]:
        found: dict[str, tuple[float, int]] = {}
        means = []
        for way in dict.fromkeys(row.task for row in rows):
            said = [(_said(text) or "", row.answer) for row, text in zip(rows, texts, strict=True) if row.task == way]
            f1, accuracy = yes_no_f1(said), mean(float(one == answer) for one, answer in said)[0]
            found[f"{way}_f1"] = f1, len(said)
            found[f"{way}_yes"] = mean(float(one == "yes") for one, _ in said)
            means.append(accuracy if self.protocol == "paper" else f1)
        return found | {"overall": (mean(means)[0], len(rows))}


def _said(text: str) -> str | None:
    """Return yes or no by POPE's rule: a no or a not in the first sentence is a no, and all else is a yes.

    Differs: an empty answer, a refusal and "yes or no" are neither; without a yes, "none" and "isn't" are a no too.
    """
    first = plain(text).strip().split(".")[0]
    said, words = said_yes_or_no(first), set(re.findall(r"[a-z']+", first.lower()))
    if said == "yes" and words & {"no", "not"}:
        return "no"
    hedged = {"yes", "no"} <= words
    return "yes" if said is None and not refuses(first) and not hedged else said


BENCHMARK = Pope
