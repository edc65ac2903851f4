"""The tasks of Primer: which family each belongs to, what scene it leads, how it asks.

A family of its own is one file with TASKS and WORDINGS, and a KIND if it draws its own pictures, named in OBJECT_FILES
or PAGE_FILES below.
"""

from __future__ import annotations

from phantrol.data.primer import (
    charts,
    comparisons,
    counting,
    diagrams,
    documents,
    existence,
    explanations,
    figures,
    lists,
    ocr,
    premises,
    shape_tasks,
    spatial_tasks,
    sprite_tasks,
    tables,
)
from phantrol.data.primer.asking import Task
from phantrol.data.primer.captions import ask_caption
from phantrol.data.primer.kinds import OBJECTS, Kind
from phantrol.data.primer.multiple_choice import ask_multiple_choice, choose_among
from phantrol.data.primer.sprite_packs import SpritePack
from phantrol.data.primer.wordings import WORDINGS as WORDINGS_OF_OBJECTS
from phantrol.data.primer.wordings import Template

OBJECT_FILES = (comparisons, counting, existence, premises, lists, explanations)  # more to ask about objects
PAGE_FILES = {  # kind -> the file that makes it, draws it and asks about it
    "ocr": ocr,
    "charts": charts,
    "tables": tables,
    "documents": documents,
    "diagrams": diagrams,
    "figures": figures,
}
_SHAPES, _SPRITES = {"shapes": shape_tasks.plan_pairs}, {"sprites": sprite_tasks.plan_sprites}
_BOTH = _SHAPES | _SPRITES
_ONE_SHAPE = {"shapes": shape_tasks.plan_unique_shape}

KINDS: dict[str, Kind] = {"shapes": OBJECTS, "sprites": OBJECTS} | {
    kind: file.KIND for kind, file in PAGE_FILES.items()
}
TASKS: dict[str, Task] = {
    "shape": Task("attributes", shape_tasks.ask_shape, {"shapes": shape_tasks.plan_unique_colour}),
    "colour_one": Task("attributes", shape_tasks.ask_colour, _ONE_SHAPE, numbers=(1, 1), weight=0.5),
    "colour_several": Task("attributes", shape_tasks.ask_colour, _ONE_SHAPE, numbers=(2, 99)),
    "size": Task("attributes", shape_tasks.ask_size, _SHAPES, weight=0.5),
    "existence": Task(
        "existence", shape_tasks.ask_existence, {"shapes": shape_tasks.plan_existence}, "yesno", weight=1.5
    ),
    "count": Task("count", shape_tasks.ask_count, _BOTH, "number", weight=0.7),
    "count_by_colour": Task(
        "count", shape_tasks.ask_count_by_colour, _SHAPES, "number", counts=shape_tasks.plan_counts
    ),
    "count_by_shape": Task("count", shape_tasks.ask_count_by_shape, _SHAPES, "number", counts=shape_tasks.plan_counts),
    "left_right": Task("spatial", spatial_tasks.ask_left_right, _BOTH, numbers=(2, 99), axis="x"),
    "above_below": Task("spatial", spatial_tasks.ask_above_below, _BOTH, numbers=(2, 99), axis="y"),
    "outermost": Task("spatial", spatial_tasks.ask_outermost, _SHAPES, numbers=(2, 99)),
    "objects": Task("objects", sprite_tasks.ask_object, _SPRITES),
    "object_existence": Task("objects", sprite_tasks.ask_sprite_existence, _SPRITES, "yesno"),
    "kinds": Task("objects", sprite_tasks.ask_kind, {"sprites": sprite_tasks.plan_kind}, numbers=(1, 1), weight=0.3),
    "captions": Task("captions", ask_caption, _BOTH, "free", weight=0.5),
    "multiple_choice": Task(
        "multiple_choice",
        ask_multiple_choice,
        {"shapes": shape_tasks.plan_unique_both, "sprites": sprite_tasks.plan_sprites},
        "letter",
    ),
    "text_only": Task("text_only", None, {"text": None}, weight=0.3),
}
for _file in (*OBJECT_FILES, *PAGE_FILES.values()):
    TASKS |= _file.TASKS
for _kind, _file in PAGE_FILES.items():
    TASKS[f"choice_{_kind}"] = choose_among(_kind, _file.TASKS)
WORDINGS: dict[str, Template] = dict(WORDINGS_OF_OBJECTS)
for _file in (*OBJECT_FILES, *PAGE_FILES.values()):
    WORDINGS |= _file.WORDINGS
FAMILIES: tuple[str, ...] = tuple(dict.fromkeys(task.family for task in TASKS.values()))


def tasks_for(kinds: tuple[str, ...], numbers: tuple[int, int], pack: SpritePack) -> tuple[str, ...]:
    """Return the tasks that these kinds of scenes, with so many objects and these sprites, allow."""
    low, high = numbers
    barred = {"count"} if low == high else set()
    barred |= {"kinds"} if len(pack.named_kinds) < 2 else set()  # one would be the answer to every question
    barred |= {"count_by_kind"} if not pack.countable_kinds(high) else set()
    names = []
    for name, task in TASKS.items():
        shown = any(kind in kinds for kind in task.kinds)
        allowed = task.numbers[0] <= high and task.numbers[1] >= low
        if shown and allowed and name not in barred:
            names.append(name)
    return tuple(names)
