"""A benchmark that draws nothing: squares of one color, as the tiny recipe has them."""

from __future__ import annotations

from dataclasses import dataclass

from PIL import Image

from phantrol.evals.benchmark import Benchmark, Row

COLORS = ("red", "green", "blue", "black", "white")
SPLITS = ("val", "far")


@dataclass(frozen=True)
class Squares(Benchmark):
    max_new_tokens = 3

    def rows(self, split, limit=None, seed=0):
        if split not in SPLITS:
            raise ValueError(f"unknown split {split!r}: use one of {', '.join(SPLITS)}")
        first = 100 * seed + 10 * SPLITS.index(split)
        rows = []
        for task, question in (("color", "What color is it?"), ("tell", "Describe it.")):
            for index in range(first, first + (limit or 4)):
                picture = Image.new("RGB", (32, 32), COLORS[index % 5])
                content = [{"type": "image", "image": picture}, {"type": "text", "text": f"{question} {index}"}]
                rows.append(Row(f"{task}-{index}", task, [{"role": "user", "content": content}], COLORS[index % 5]))
        return rows

    def score(self, row, text):
        return (sum(map(ord, text)) + len(row.id)) % 7 / 6  # whatever an untrained model says scores something


BENCHMARK = Squares
