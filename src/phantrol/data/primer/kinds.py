"""Kinds of pictures: how the scenes of each come about, how they are drawn, and how small they may be."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from PIL import Image

from phantrol.data.primer.asking import Task
from phantrol.data.primer.drawing import draw
from phantrol.data.primer.scene import compose
from phantrol.data.primer.splits import Split

READABLE_PX = 192  # from this side on letters can be read


@dataclass(frozen=True)
class Staged:
    """A scene that waits for its questions; the other fields are those of a sitting."""

    scene: Any
    focus: Any = None
    counted: dict[str, tuple[int, str]] = field(default_factory=dict)
    free_number: bool = True


# (rng, split, task, name of the kind, fewest and most objects) -> a scene for the task's question
Stage = Callable[[random.Random, Split, Task, str, tuple[int, int]], Staged]


@dataclass(frozen=True)
class Kind:
    """A kind of picture.

    stage        makes a scene for a task
    draw         (scene, size_px) -> an RGB picture, a pure function of both
    smallest_px  below this side nothing can be made out
    """

    stage: Stage
    draw: Callable[[Any, int], Image.Image]
    smallest_px: int = READABLE_PX


def stage_objects(rng: random.Random, split: Split, task: Task, kind: str, numbers: tuple[int, int]) -> Staged:
    """Put as many objects as the task allows into a picture."""
    low, high = numbers
    if task.counts:
        contents, counted = task.counts(rng, split, low, high)
        focus, free = None, False
    else:
        fewest, most = max(low, task.numbers[0]), min(high, task.numbers[1])
        contents, focus = task.plans[kind](rng, split, rng.randint(fewest, most))
        counted, free = {}, (fewest, most) == (low, high) and not task.picky
    scene, _ = compose(rng, kind, contents, split.style, task.axis, split.pack.folder)
    return Staged(scene, focus, counted, free)


def stage_page(rng: random.Random, split: Split, task: Task, kind: str, numbers: tuple[int, int]) -> Staged:
    """Make a chart, a text, or whatever else has no objects to be counted."""
    return Staged(*task.plans[kind](rng, split))


OBJECTS = Kind(stage_objects, draw, smallest_px=64)
