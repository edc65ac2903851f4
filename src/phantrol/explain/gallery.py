"""A gallery of questions that were answered, right and wrong."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from html import escape

from PIL import Image

from phantrol.evals.benchmark import Row
from phantrol.evals.report import Sample
from phantrol.explain.colours import data_uri
from phantrol.models.conversation import pictures_of
from phantrol.models.image_processing import load_picture

THUMBNAIL_PX = 224
LONG_ANSWER = 30  # characters; longer ones are not set in bold


@dataclasses.dataclass(frozen=True)
class Shown:
    """One question on the wall.

    said  what the model said;  said_blind  what it said about another picture
    """

    task: str
    question: str
    answer: str
    said: str
    right: bool
    picture: Image.Image | None = None
    said_blind: str | None = None


def choose_gallery(
    rows: Sequence[Row], samples: Sequence[Sample], per_task: int = 3, more_wrong: int = 1
) -> list[Shown]:
    """Return the first questions of each task as they come, not chosen, and the first mistakes after them.

    rows, samples  what was asked and `Report.samples`, in the same order
    """
    taken: dict[str, int] = {}
    wrong: dict[str, int] = {}
    shown = []
    for row, sample in zip(rows, samples, strict=True):
        right = min(sample.scores["model"].values()) >= 1
        first = taken.get(row.task, 0) < per_task
        if not first and (right or wrong.get(row.task, 0) >= more_wrong):
            continue
        counts = taken if first else wrong
        counts[row.task] = counts.get(row.task, 0) + 1
        picture = _picture(row)
        blind = None if picture is None else sample.texts["shuffled"]
        shown.append(Shown(row.task, sample.question, row.answer, sample.texts["model"], right, picture, blind))
    return shown


def gallery_section(shown: Sequence[Shown]) -> str:
    """Return the section with a card for each question and buttons to see only the right or the wrong ones."""
    if not shown:
        return ""
    right = sum(item.right for item in shown)
    buttons = "".join(
        f'<button type="button" data-show="{show}" aria-pressed="{str(show == "all").lower()}">{label} '
        f"<span>{count}</span></button>"
        for show, label, count in (
            ("all", "All", len(shown)),
            ("right", "Right", right),
            ("wrong", "Wrong", len(shown) - right),
        )
    )
    return (
        '<section id="gallery"><h2>What it answers</h2>'
        "<p>The first questions of each task as they come, and the first mistakes after them.</p>"
        f'<div class="filter" role="group" aria-label="Which answers to show" hidden>{buttons}</div>'
        f'<ul class="cards">{"".join(_card(item) for item in shown)}</ul></section>'
    )


def _card(item: Shown) -> str:
    mark, verdict = ("✓", "right") if item.right else ("✗", "wrong")
    picture = ""
    if item.picture is not None:
        picture = f'<img src="{data_uri(_thumbnail(item.picture))}" alt="The picture of this question" loading="lazy">'
    truth = "" if item.right else f'<p class="truth">right would be <strong>{escape(item.answer)}</strong></p>'
    blind = ""
    if item.said_blind is not None:
        blind = f'<p class="blind">with another picture: {escape(item.said_blind) or "(nothing)"}</p>'
    length = " long" if len(item.said) > LONG_ANSWER else ""
    return (
        f'<li class="card {verdict}" data-verdict="{verdict}">{picture}<div><p class="task">'
        f'{escape(item.task.replace("_", " "))}</p><p class="question">{escape(item.question)}</p>'
        f'<p class="said{length}"><span class="mark" role="img" aria-label="{verdict}">{mark}</span> '
        f"{escape(item.said) or '(nothing)'}</p>{truth}{blind}</div></li>"
    )


def _thumbnail(picture: Image.Image) -> Image.Image:
    small = picture.convert("RGB")
    small.thumbnail((THUMBNAIL_PX, THUMBNAIL_PX))
    return small


def _picture(row: Row) -> Image.Image | None:
    pictures = pictures_of(row.chat)
    return load_picture(pictures[0]) if pictures else None
