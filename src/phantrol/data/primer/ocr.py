"""Texts to be read: words, words that do not exist, numbers; alone, or several in different colours."""

from __future__ import annotations

import random
from dataclasses import dataclass

from PIL import Image

from phantrol.data.primer.asking import Draft, Sitting, Task
from phantrol.data.primer.kinds import Kind, stage_page
from phantrol.data.primer.page import PAPERS, Page, draw_look, shade
from phantrol.data.primer.splits import Split
from phantrol.data.primer.wordings import Template
from phantrol.data.primer.words import WORDS, allowed, draw_digits, draw_pseudo_word, edit

INKS = ("red", "green", "blue", "orange", "purple", "pink", "black")  # yellow cannot be read on paper
CAPITALS_SHARE = 0.2
SPECKS = 40  # of noise, in a third of the pictures


@dataclass(frozen=True)
class Line:
    """One text at (x, y), its middle; lengths are fractions of the picture's side, the angle is in degrees."""

    text: str
    colour: str
    x: float
    y: float
    height: float
    angle: float


@dataclass(frozen=True)
class Poster:
    lines: tuple[Line, ...]
    noisy: bool
    style: str
    font: str
    paint_seed: int
    kind: str = "ocr"


def draw_text(rng: random.Random, split: Split, form: int) -> str:
    """Return a word (0), a word that does not exist (1), or a number (2)."""
    if form == 0:
        return rng.choice(allowed(WORDS, split))
    return draw_pseudo_word(rng, split) if form == 1 else draw_digits(rng, split)


def plan_one(rng: random.Random, split: Split) -> tuple[Poster, None]:
    return _make_poster(rng, split, rng.randint(2, 3) if split.more else 1), None


def plan_several(rng: random.Random, split: Split) -> tuple[Poster, None]:
    return _make_poster(rng, split, rng.randint(4, 5) if split.more else rng.randint(2, 3)), None


def _make_poster(rng: random.Random, split: Split, number: int) -> Poster:
    colours, capitals = rng.sample(INKS, number), rng.random() < CAPITALS_SHARE
    texts: list[str] = []
    while len(texts) < number:
        text = draw_text(rng, split, rng.randrange(3))
        text = text.upper() if capitals else text
        if text not in texts:
            texts.append(text)
    lines = []
    for i, (text, colour) in enumerate(zip(texts, colours, strict=True)):
        height = rng.uniform(0.07, min(0.15, 0.8 / number * 0.4))
        height = min(height, 0.8 / (0.62 * len(text)))  # of letters as wide as those of a typewriter
        room = 0.31 * height * len(text) + 0.03
        x = rng.uniform(room, 1 - room) if room < 0.5 else 0.5
        y = (i + 0.5 + rng.uniform(-0.15, 0.15)) / number if number > 1 else rng.uniform(0.2, 0.8)
        lines.append(Line(text, colour, x, y, height, rng.uniform(-6, 6)))
    return Poster(tuple(lines), rng.random() < 1 / 3, **draw_look(rng, split))


# -- questions


def ask_text(sitting: Sitting) -> Draft | None:
    lines = sitting.scene.lines
    if sitting.asked.get("ocr_text") or (len(lines) > 1 and not sitting.split.more):
        return None
    answer = " ".join(line.text for line in lines)
    i = sitting.rng.randrange(len(lines))
    wrong = " ".join(_edit(sitting, line.text) if i == j else line.text for j, line in enumerate(lines))

    def other() -> str:
        return " ".join(_like(sitting, line.text) for line in lines)

    return Draft("ocr_text", {}, answer, (), "ocr_text", wrong=(wrong,), vague=_vague(answer), other=other)


def ask_colour(sitting: Sitting) -> Draft | None:
    lines, done = sitting.scene.lines, sitting.asked.get("ocr_colour", ())
    left = [line for line in lines if line.colour not in done]
    if len(lines) < 2 or not left:
        return None
    line = sitting.rng.choice(left)
    near = tuple(other.text for other in lines if other is not line)
    odd = tuple(text for text in near if _form(text) != _form(line.text))
    wrong = (_edit(sitting, line.text),)
    return Draft(
        "ocr_colour",
        {"colour": line.colour},
        line.text,
        (),
        line.colour,
        near,
        wrong,
        _vague(line.text),
        odd=odd,
        other=lambda: _like(sitting, line.text),
    )


def _edit(sitting: Sitting, text: str) -> str:
    edited = edit(sitting.rng, text.lower(), sitting.split)
    return edited.upper() if text.isupper() else edited


def _like(sitting: Sitting, text: str) -> str:
    """Return another text of the same form."""
    other = draw_text(sitting.rng, sitting.split, _form(text))
    return other.upper() if text.isupper() else other


def _form(text: str) -> int:
    """Return which of the forms of `draw_text` it is."""
    return 2 if text.isdigit() else 0 if text.lower() in WORDS else 1


def _vague(text: str) -> tuple[str, ...]:
    return (f"{text[: len(text) // 2]}...", "some text", "a word or a number")


# -- drawing


def draw_poster(poster: Poster, size_px: int) -> Image.Image:
    """Return the texts on paper as an RGB picture of size_px by size_px."""
    rng = random.Random(poster.paint_seed)
    page = Page(size_px, rng.choice(PAPERS[poster.style]), poster.font)
    if poster.noisy:
        speck = tuple(channel - 40 for channel in page.paper)
        for _ in range(SPECKS):
            x, y = rng.random() * size_px, rng.random() * size_px
            page.box(x, y, x + rng.random() * 0.02 * size_px, y + 1, speck)
    for line in poster.lines:
        x, y = line.x * size_px, line.y * size_px
        page.write_turned(x, y, line.text, line.height * size_px, shade(line.colour, "plain"), line.angle)
    return page.image


KIND = Kind(stage_page, draw_poster)
TASKS = {
    "ocr_text": Task("ocr", ask_text, {"ocr": plan_one}, weight=0.8),
    "ocr_colour": Task("ocr", ask_colour, {"ocr": plan_several}, weight=0.8),
}
WORDINGS: dict[str, Template] = {
    "ocr_text": (
        (
            "What does the text say?",
            "What is written in the image?",
            "Read the text.",
            "What does the image say?",
            "What is the text?",
            "Read what is written.",
            "Tell me what is written in the image.",
        ),
        ("In the image, what is written?", "Read the text in the image."),
    ),
    "ocr_colour": (
        (
            "What is written in {colour}?",
            "What does the {colour} text say?",
            "Read the {colour} text.",
            "What is the {colour} text?",
            "Read what is written in {colour}.",
            "Which text is {colour}?",
        ),
        ("In the image, what is written in {colour}?", "Tell me what is written in {colour}."),
    ),
}
