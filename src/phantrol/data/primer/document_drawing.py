"""From a document to a picture."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from PIL import Image, ImageFilter

from phantrol.data.primer.page import FAINT, INK, Colour, Page
from phantrol.data.primer.words import money

if TYPE_CHECKING:
    from phantrol.data.primer.documents import Document

DESKS: tuple[Colour, ...] = ((196, 176, 150), (150, 160, 170), (120, 130, 120), (205, 200, 195))
SHEETS: tuple[Colour, ...] = ((255, 255, 255), (252, 250, 244), (246, 248, 252))
INKS: tuple[Colour, ...] = (INK, (30, 40, 90))
BLUR = 0.003  # of the side
LETTERS = 0.06  # of the side, where there is room
PHRASES = (
    "Thank you for your letter.",
    "Please find the list below.",
    "We are glad to help you.",
    "Your order is ready.",
)


def draw_document(document: Document, size_px: int) -> Image.Image:
    """Return the document on a desk as an RGB picture of size_px by size_px."""
    rng = random.Random(document.paint_seed)
    desk, sheet, ink = rng.choice(DESKS), rng.choice(SHEETS), rng.choice(INKS)
    page = Page(size_px, desk, document.font)
    edge = 0.05 * size_px
    left, right = (0.14 * size_px, 0.86 * size_px) if document.form == "receipt" else (edge, size_px - edge)
    page.box(left, 0.03 * size_px, right, 0.97 * size_px, sheet)
    _FORMS[document.form](page, document, rng, left + 0.04 * size_px, right - 0.04 * size_px, ink)
    picture = page.image
    if document.skew:
        picture = picture.rotate(document.skew, Image.Resampling.BILINEAR, fillcolor=desk)
    if document.blurred:
        picture = picture.filter(ImageFilter.BoxBlur(BLUR * size_px))
    return picture


def _draw_receipt(page: Page, document: Document, rng: random.Random, left: float, right: float, ink: Colour) -> None:
    side, middle = page.size_px, (left + right) / 2
    lines = len(document.items) + 4
    pitch = min(0.115, 0.88 / lines) * side
    letters = min(LETTERS * side, 0.66 * pitch)
    letters = page.fit([f"{name} {money(cents)}" for name, cents in document.items], letters, right - left)
    y = 0.5 * side - (lines - 1) / 2 * pitch
    page.write(middle, y, document.title, page.fit([document.title], 1.1 * letters, right - left), ink, "m")
    page.write(middle, y + pitch, document.date, letters, ink, "m")
    y += 2 * pitch
    for name, cents in document.items:
        page.write(left, y, name, letters, ink)
        page.write(right, y, money(cents), letters, ink, "r")
        y += pitch
    page.box(left, y - 0.4 * pitch, right, y - 0.4 * pitch, ink)
    page.write(left, y + 0.1 * pitch, "TOTAL", letters, ink)
    page.write(right, y + 0.1 * pitch, money(document.total), letters, ink, "r")
    page.write(
        middle, y + 1.1 * pitch, rng.choice(("Thank you!", "See you soon", "Come again")), 0.9 * letters, ink, "m"
    )


def _draw_form(page: Page, document: Document, rng: random.Random, left: float, right: float, ink: Colour) -> None:
    side = page.size_px
    page.write(left, 0.12 * side, document.title, 1.15 * LETTERS * side, ink)
    page.box(left, 0.17 * side, right, 0.17 * side, ink)
    pitch = min(0.14, 0.72 / len(document.fields)) * side
    letters, boxed = min(LETTERS * side, 0.6 * pitch), rng.random() < 0.5
    keys = max(page.width_of(f"{key}:", letters) for key, _ in document.fields) + 0.02 * side
    y = 0.21 * side + pitch / 2
    for key, value in document.fields:
        page.write(left, y, f"{key}:", letters, ink)
        if boxed:
            page.box(left + keys, y - 0.4 * pitch, right, y + 0.4 * pitch, edge=FAINT)
        else:
            page.box(left + keys, y + 0.4 * pitch, right, y + 0.4 * pitch, FAINT)
        room = right - left - keys - 0.04 * side
        page.write(left + keys + 0.02 * side, y, value, page.fit([value], letters, room), ink)
        y += pitch


def _draw_letter(page: Page, document: Document, rng: random.Random, left: float, right: float, ink: Colour) -> None:
    side, letters = page.size_px, LETTERS * page.size_px
    values = dict(document.fields)
    page.box(left, 0.06 * side, right, 0.075 * side, (90, 110, 150))
    page.write(left, 0.125 * side, document.title, 1.1 * letters, ink)
    page.write(right, 0.225 * side, document.date, letters, ink, "r")
    for i, key in enumerate(("To", "Ref")):
        page.write(left, (0.325 + 0.09 * i) * side, f"{key}: {values[key]}", letters, ink)
    phrases = [f"Dear {values['To'].split()[0]},", *rng.sample(PHRASES, 2)]
    small = page.fit(phrases, 0.92 * letters, right - left)
    for i, phrase in enumerate(phrases):
        page.write(left, (0.54 + 0.09 * i) * side, phrase, small, ink)
    page.write(left, 0.85 * side, f"From: {values['From']}", letters, ink)
    page.box(left, 0.93 * side, right, 0.935 * side, (90, 110, 150))


_FORMS = {"receipt": _draw_receipt, "form": _draw_form, "letter": _draw_letter}
