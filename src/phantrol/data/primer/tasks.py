"""The tasks of Primer: which family each belongs to, what scene it leads, how it asks."""

from __future__ import annotations

from dataclasses import dataclass

from phantrol.data.primer import shape_tasks, spatial_tasks, sprite_tasks
from phantrol.data.primer.asking import Ask, Plan
from phantrol.data.primer.captions import ask_caption
from phantrol.data.primer.multiple_choice import ask_multiple_choice

ANY_NUMBER = (1, 99)


@dataclass(frozen=True)
class Task:
    """One score of the benchmark.

    kinds    kinds of scene it can ask about; the lead question draws one of them
    plans    how the scene is drawn when this question leads, by kind
    numbers  fewest and most objects it can ask about
    axis     axis on which the objects of its scenes differ clearly
    counts   its scenes are drawn for counting by colour and by shape
    weight   share among the tasks unless a curriculum says otherwise
    """

    family: str
    ask: Ask | None
    kinds: tuple[str, ...]
    plans: dict[str, Plan]
    numbers: tuple[int, int] = ANY_NUMBER
    axis: str | None = None
    counts: bool = False
    weight: float = 1.0


_SHAPES, _SPRITES = {"shapes": shape_tasks.plan_pairs}, {"sprites": sprite_tasks.plan_sprites}
_BOTH = _SHAPES | _SPRITES


def _task(family: str, ask: Ask | None, plans: dict[str, Plan], **options) -> Task:
    return Task(family, ask, tuple(plans), plans, **options)


TASKS: dict[str, Task] = {
    "shape": _task("attributes", shape_tasks.ask_shape, {"shapes": shape_tasks.plan_unique_colour}),
    "colour_one": _task(
        "attributes", shape_tasks.ask_colour, {"shapes": shape_tasks.plan_unique_shape}, numbers=(1, 1), weight=0.5
    ),
    "colour_several": _task(
        "attributes", shape_tasks.ask_colour, {"shapes": shape_tasks.plan_unique_shape}, numbers=(2, 99)
    ),
    "size": _task("attributes", shape_tasks.ask_size, _SHAPES, weight=0.5),
    "existence": _task("existence", shape_tasks.ask_existence, {"shapes": shape_tasks.plan_existence}, weight=1.5),
    "count": _task("count", shape_tasks.ask_count, _BOTH, weight=0.7),
    "count_by_colour": _task("count", shape_tasks.ask_count_by_colour, _SHAPES, counts=True),
    "count_by_shape": _task("count", shape_tasks.ask_count_by_shape, _SHAPES, counts=True),
    "left_right": _task("spatial", spatial_tasks.ask_left_right, _BOTH, numbers=(2, 99), axis="x"),
    "above_below": _task("spatial", spatial_tasks.ask_above_below, _BOTH, numbers=(2, 99), axis="y"),
    "outermost": _task("spatial", spatial_tasks.ask_outermost, _SHAPES, numbers=(2, 99)),
    "objects": _task("objects", sprite_tasks.ask_object, _SPRITES),
    "object_existence": _task("objects", sprite_tasks.ask_sprite_existence, _SPRITES),
    "kinds": _task("objects", sprite_tasks.ask_kind, {"sprites": sprite_tasks.plan_kind}, numbers=(1, 1), weight=0.3),
    "captions": _task("captions", ask_caption, _BOTH, weight=0.5),
    "multiple_choice": _task(
        "multiple_choice",
        ask_multiple_choice,
        {"shapes": shape_tasks.plan_unique_both, "sprites": sprite_tasks.plan_sprites},
    ),
    "text_only": _task("text_only", None, {"text": None}, weight=0.3),
}
FAMILIES: tuple[str, ...] = tuple(dict.fromkeys(task.family for task in TASKS.values()))


def tasks_for(kinds: tuple[str, ...], numbers: tuple[int, int]) -> tuple[str, ...]:
    """Return the tasks that these kinds of scenes, with so many objects, allow."""
    low, high = numbers
    names = []
    for name, task in TASKS.items():
        shown = any(kind in kinds for kind in task.kinds)
        allowed = task.numbers[0] <= high and task.numbers[1] >= low
        if shown and allowed and not (name == "count" and low == high):
            names.append(name)
    return tuple(names)
