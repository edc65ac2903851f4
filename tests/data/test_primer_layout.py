"""The drawing of texts, charts, tables and the like: what is written can be read, and numbers make a difference."""

from __future__ import annotations

from dataclasses import replace

import pytest

from phantrol.data.primer import SPLITS, TASKS, Curriculum, sample
from phantrol.data.primer.page import Page
from phantrol.data.primer.tasks import KINDS

PAGES = tuple(kind for kind in KINDS if kind not in ("shapes", "sprites"))
PX = 192


@pytest.fixture(scope="module")
def scenes():
    """Return (kind, split) -> scenes."""
    found = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("phantrol.data.primer.generator.draw", lambda scene, size_px: None)
        for split in ("train", "test_style", "test_hard"):
            for kind in set(PAGES) & set(SPLITS[split].scene_kinds):
                family = next(task.family for task in TASKS.values() if kind in task.kinds)
                curriculum = Curriculum(questions=1, scenes=(kind,))
                found[kind, split] = [sample(split, family, i, PX, curriculum).scene for i in range(60)]
    return found


@pytest.fixture
def boxes(monkeypatch):
    """Return the rectangles of all texts that pages write from now on, with the side of the page."""
    seen = []
    write = Page.write

    def spy(self, x, y, text, px, colour=(0, 0, 0), anchor="l", font=None):
        width = self.width_of(text, px)
        left = x - {"l": 0, "m": width / 2, "r": width}[anchor]
        seen.append((self.size_px, text, (left, y - 0.36 * px, left + width, y + 0.36 * px), px))
        write(self, x, y, text, px, colour, anchor, font)

    monkeypatch.setattr(Page, "write", spy)
    return seen


@pytest.mark.parametrize("kind", [kind for kind in PAGES if kind != "ocr"])
@pytest.mark.parametrize(
    ("split", "size_px"), [("train", 192), ("train", 224), ("test_style", 224), ("test_hard", 224)]
)
def test_texts_are_large_enough_inside_and_apart(scenes, boxes, kind, split, size_px):
    if kind not in SPLITS[split].scene_kinds:
        assert (kind, split) == ("figures", "test_hard")
        return
    for scene in scenes[kind, split]:
        boxes.clear()
        KINDS[kind].draw(scene, size_px)
        for i, (side, text, box, px) in enumerate(boxes):
            assert round(px) >= (9 if split != "test_hard" else 8), (text, px, scene)
            assert min(box) >= -1 and max(box) <= side + 1, (text, box, scene)
            for _, other, there, _ in boxes[:i]:
                across = min(box[2], there[2]) - max(box[0], there[0])
                down = min(box[3], there[3]) - max(box[1], there[1])
                assert across <= 0.5 or down <= 0.5, (text, other, scene)


def test_texts_to_be_read_lie_in_the_picture():
    for split in ("train", "test_style", "test_hard"):
        for i in range(60):
            drawn = sample(split, "ocr", i, 224)
            edges = [
                drawn.picture.crop(box)
                for box in ((0, 0, 224, 1), (0, 223, 224, 224), (0, 0, 1, 224), (223, 0, 224, 224))
            ]
            ink = [pixel for edge in edges for _, pixel in edge.getcolors()]
            assert drawn.scene.noisy or len(set(ink)) == 1


def test_pages_differ_where_their_numbers_differ(scenes):
    """Negative control of the drawing: another value is another picture."""
    chart = next(chart for chart in scenes["charts", "train"] if not chart.printed)
    other = replace(chart, steps=(tuple(11 - step for step in chart.steps[0]), *chart.steps[1:]))
    assert KINDS["charts"].draw(chart, PX).tobytes() != KINDS["charts"].draw(other, PX).tobytes()
    assert KINDS["charts"].draw(chart, PX).tobytes() == KINDS["charts"].draw(chart, PX).tobytes()
