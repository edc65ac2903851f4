"""The embedded source: groups of examples about one drawn picture, without any download."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import sqrt

from PIL import Image

from phantrol.data.messages import Example, Message
from phantrol.data.primer.curriculum import SCENES, Curriculum, work_out
from phantrol.data.primer.generator import VERSION, Sample, Turn, check_size, sample

GOLDEN = (sqrt(5) - 1) / 2


@dataclass(frozen=True)
class PrimerSource:
    """Groups of questions and a caption about pictures that Primer draws.

    split         train, val, test_comp, test_style, test_para or test_hard
    size_px       side of the pictures, 64 to 448
    tasks         weights by task; a task left out is not asked. Default: all that the split allows
    questions_per_picture  most questions about one picture; text-only groups hold as many, without a picture
    captions      whether each picture gets a caption besides
    min_objects, max_objects  objects in a picture, by default as the split has it
    wordings      how many wordings of each question, None for all
    scenes        kinds of pictures: "shapes", "sprites"; from 192 px on "ocr", "charts", "tables", "documents",
                  "diagrams", "figures" (those with letters); "text" (text-only groups, no picture)
    sprites       which sprites: None for all, a number for so many of them (64 are the core), or a folder of stamps
    extra_fonts   whether `test_style` writes in the fonts of phantrol[fonts] as well
    pictures      the length of the source
    start         number of the first picture, so that a later stage sees new ones

    source[i] is a pure function of i; families take turns by a golden-ratio sequence, in proportion to the weights.
    Raises ValueError for an unknown split or task, and for numbers out of range.
    """

    split: str = "train"
    size_px: int = 64
    tasks: Mapping[str, float] | tuple[tuple[str, float], ...] | None = None
    questions_per_picture: int = 6
    captions: bool = True
    min_objects: int | None = None
    max_objects: int | None = None
    wordings: int | None = None
    scenes: tuple[str, ...] = SCENES
    sprites: int | str | None = None
    extra_fonts: bool = False
    pictures: int = 1_000_000_000
    start: int = 0

    def __post_init__(self) -> None:
        check_size(self.size_px)
        if self.pictures < 1 or self.start < 0:
            raise ValueError(f"pictures must be at least 1 and start at least 0, got {self.pictures} and {self.start}")
        curriculum = self.curriculum
        work_out(curriculum, self.split, self.size_px)
        object.__setattr__(self, "tasks", curriculum.tasks)

    @property
    def curriculum(self) -> Curriculum:
        return Curriculum(
            self.tasks,
            self.questions_per_picture,
            self.captions,
            self.min_objects,
            self.max_objects,
            self.wordings,
            self.scenes,
            self.sprites,
            self.extra_fonts,
        )

    def __len__(self) -> int:
        return self.pictures

    def __getitem__(self, index: int) -> tuple[Example, ...]:
        name, drawn = self.draw(index)
        return tuple(_example(f"{name}/{i}", drawn.picture, turn) for i, turn in enumerate(drawn.turns))

    def draw(self, index: int) -> tuple[str, Sample]:
        """Return the name of a group, and its picture with all that is known of it."""
        if not 0 <= index < self.pictures:
            raise IndexError(f"picture {index} of a Primer source with {self.pictures} pictures")
        number = self.start + index
        family = self.family(number)
        drawn = sample(self.split, family, number, self.size_px, self.curriculum)
        return f"primer-{VERSION}/{self.split}/{family}/{number}", drawn

    def family(self, number: int) -> str:
        """Return whose turn it is: each family comes round as evenly as its weight allows."""
        families = work_out(self.curriculum, self.split, self.size_px).families
        left = (number * GOLDEN) % 1.0 * sum(families.values())
        for family, weight in families.items():
            left -= weight
            if left < 0:
                return family
        return family


def _example(name: str, picture: Image.Image | None, turn: Turn) -> Example:
    parts = (turn.question,) if picture is None else (picture, turn.question)
    messages = (Message("user", parts), Message("assistant", (turn.answer,)))
    return Example(name, messages, turn.rejected, turn.task)


SOURCE = PrimerSource
