"""The knobs of Primer: how many objects, which tasks, how many questions a picture."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache

from phantrol.data.primer.fonts import fonts
from phantrol.data.primer.splits import Split, find_split
from phantrol.data.primer.sprite_packs import find_pack
from phantrol.data.primer.tasks import FAMILIES, KINDS, TASKS, tasks_for

MOST_OBJECTS = 6
SCENES = (*KINDS, "text")


@dataclass(frozen=True)
class Curriculum:
    """What is asked of Primer. None means: as the split has it.

    tasks         weights by task; a task left out is not asked. Default: every task the split and the numbers allow
    questions     most questions about one picture, the caption not counted
    captions      whether each picture gets a caption besides its questions
    min_objects, max_objects  objects in a picture, at most 6
    wordings      how many wordings of each template, None for all
    scenes        kinds of pictures: "shapes" (coloured), "sprites" (animals, food, things), "charts" and the like
                  (where the pictures are large enough), "text" (none at all)
    sprites       which sprites: None for all that are bundled, a number for so many of them (64 are the core), or a
                  folder of stamps ("tuxpaint" for those that Debian installs)
    extra_fonts   whether `test_style` writes in the fonts of phantrol[fonts] as well

    Raises ValueError for an unknown task or family, a weight that is not positive, or numbers out of range.
    """

    tasks: Mapping[str, float] | tuple[tuple[str, float], ...] | None = None
    questions: int = 6
    captions: bool = True
    min_objects: int | None = None
    max_objects: int | None = None
    wordings: int | None = None
    scenes: tuple[str, ...] = SCENES
    sprites: int | str | None = None
    extra_fonts: bool = False

    def __post_init__(self) -> None:
        if self.tasks is not None:
            tasks = dict(self.tasks)
            unknown = sorted(set(tasks) - set(TASKS))
            if unknown or not tasks:
                got = ", ".join(unknown) or "none"
                raise ValueError(f"unknown Primer tasks: {got}; use some of {', '.join(TASKS)}")
            low = [name for name, weight in tasks.items() if not weight > 0]
            if low:
                raise ValueError(
                    f"the weights of Primer tasks must be above 0, got {tasks[low[0]]} for {low[0]}: leave it out"
                )
            object.__setattr__(self, "tasks", tuple(tasks.items()))
        if self.questions < 1:
            raise ValueError(f"questions must be at least 1, got {self.questions}")
        wrong = sorted(set(self.scenes) - set(SCENES))
        if wrong or not self.scenes:
            raise ValueError(f"unknown Primer scenes: {', '.join(wrong) or 'none'}; use some of {', '.join(SCENES)}")
        object.__setattr__(self, "scenes", tuple(self.scenes))
        if self.wordings is not None and self.wordings < 1:
            raise ValueError(f"wordings must be at least 1 or None for all, got {self.wordings}")


@dataclass(frozen=True)
class Syllabus:
    """A curriculum worked out: the split with its sprites, kinds of scenes, numbers of objects, weights."""

    split: Split
    kinds: tuple[str, ...]
    numbers: tuple[int, int]
    families: dict[str, float]
    tasks: dict[str, float]
    leads: dict[str, dict[str, float]]


@lru_cache(maxsize=256)
def work_out(curriculum: Curriculum, split_name: str, size_px: int) -> Syllabus:
    """Raises ValueError for an unknown split, and for tasks that the split, the numbers of objects or the side of the
    pictures do not allow."""
    split = replace(find_split(split_name), pack=find_pack(curriculum.sprites), extra_fonts=curriculum.extra_fonts)
    fonts(split.name, split.extra_fonts)  # are they there?
    numbers = _numbers(curriculum, split)
    shown = tuple(kind for kind in split.scene_kinds if kind in curriculum.scenes)
    kinds = tuple(kind for kind in shown if kind not in KINDS or size_px >= KINDS[kind].smallest_px)
    possible = tasks_for(kinds, numbers, split.pack)
    if curriculum.tasks is None:
        weights = {name: TASKS[name].weight for name in possible if curriculum.captions or name != "captions"}
    else:
        weights = dict(curriculum.tasks)
        wrong = [name for name in weights if name not in possible]
        small = [name for name in wrong if name in tasks_for(shown, numbers, split.pack)]
        if small:
            need = max(min(KINDS[kind].smallest_px for kind in TASKS[name].kinds) for name in small)
            raise ValueError(
                f"the Primer tasks {', '.join(small)} need pictures of {need} px or more, got {size_px} px: "
                "their letters could not be read"
            )
        if wrong:
            pack = split.pack
            few = f" and {len(pack.names)} sprites ({', '.join(pack.by_kind)})" if curriculum.sprites else ""
            raise ValueError(
                f"Primer split {split_name} with {numbers[0]} to {numbers[1]} objects{few} in scenes of "
                f"{', '.join(kinds)} has no task {', '.join(wrong)}; it has {', '.join(possible) or 'none'}"
            )
    leads = {
        family: {name: weight for name, weight in weights.items() if TASKS[name].family == family}
        for family in FAMILIES
    }
    leads = {family: names for family, names in leads.items() if names}
    families = {family: sum(names.values()) for family, names in leads.items()}
    return Syllabus(split, kinds, numbers, families, weights, leads)


def _numbers(curriculum: Curriculum, split: Split) -> tuple[int, int]:
    low = split.objects[0] if curriculum.min_objects is None else curriculum.min_objects
    high = max(low, split.objects[1]) if curriculum.max_objects is None else curriculum.max_objects
    if curriculum.min_objects is None:
        low = min(low, high)
    if not 1 <= low <= high <= MOST_OBJECTS:
        raise ValueError(
            f"objects in a picture must be 1 <= min_objects <= max_objects <= {MOST_OBJECTS}, got {low} to {high}"
        )
    return low, high
