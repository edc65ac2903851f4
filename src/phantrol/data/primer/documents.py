"""Documents: receipts, forms and letters, some of them askew or blurred, with questions about what they say."""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import partial

from phantrol.data.primer.asking import Draft, Sitting, Task
from phantrol.data.primer.document_drawing import draw_document
from phantrol.data.primer.kinds import Kind, stage_page
from phantrol.data.primer.page import draw_look
from phantrol.data.primer.splits import Split
from phantrol.data.primer.wordings import Template, frame
from phantrol.data.primer.words import (
    CITIES,
    GOODS,
    MONTHS_SHORT,
    PEOPLE,
    STREETS,
    SURNAMES,
    WORDS,
    allowed,
    draw_digits,
    edit,
    is_held_out,
    money,
)  # fmt: skip

FORMS = ("receipt", "form", "letter")
SKEW_SHARE, MOST_SKEW = 0.2, 3.0  # degrees
BLUR_SHARE = 0.1
CENTS = range(50, 1000, 5)
# key on a form -> how a question calls it
FIELDS = {
    "Name": "name",
    "City": "city",
    "Street": "street",
    "Phone": "phone number",
    "Born": "date of birth",
    "Code": "code",
    "Room": "room",
}
LETTER_FIELDS = {"To": "name of the one it is to", "From": "name of the one it is from", "Ref": "reference number"}


@dataclass(frozen=True)
class Document:
    """What a document says.

    title    the shop of a receipt, the heading of a form, the company of a letter
    fields   (key, value) as written
    items    (name, cents) of a receipt
    date     as written, "" for a form
    skew     degrees;  blurred  whether it is out of focus
    """

    form: str
    title: str
    date: str
    fields: tuple[tuple[str, str], ...]
    items: tuple[tuple[str, int], ...]
    skew: float
    blurred: bool
    style: str
    font: str
    paint_seed: int
    kind: str = "documents"

    @property
    def total(self) -> int:
        return sum(cents for _, cents in self.items)


def draw_date(rng: random.Random, split: Split) -> str:
    while True:
        date = f"{rng.randint(1, 28)} {rng.choice(MONTHS_SHORT)} {rng.randint(1990, 2029)}"
        if is_held_out(date) == split.unseen:
            return date


def draw_value(rng: random.Random, split: Split, key: str) -> str:
    """Return a value for the key of a form or letter."""
    if key in ("Name", "To", "From"):
        return f"{rng.choice(allowed(PEOPLE, split))} {rng.choice(allowed(SURNAMES, split))}"
    if key == "City":
        return rng.choice(allowed(CITIES, split))
    if key == "Street":
        return f"{rng.randint(1, 99)} {rng.choice(allowed(STREETS, split))} Road"
    if key == "Phone":
        return f"{rng.randint(200, 999)} {rng.randint(0, 9999):04d}"
    if key == "Born":
        return draw_date(rng, split)
    if key == "Room":
        return f"{rng.choice('ABCDEF')}{rng.randint(10, 99)}"
    return draw_digits(rng, split)


def plan_document(rng: random.Random, split: Split, form: str | None = None) -> tuple[Document, None]:
    form = form or rng.choice(FORMS)
    items, fields, date = (), (), draw_date(rng, split)
    if form == "receipt":
        number = rng.randint(6, 8) if split.more else rng.randint(2, 5)
        items = tuple((name, rng.choice(CENTS)) for name in rng.sample(allowed(GOODS, split), number))
        title = rng.choice(allowed(WORDS, split)).capitalize() + rng.choice((" Shop", " Store", " Market"))
    elif form == "form":
        number = 7 if split.more else rng.randint(3, 5)
        # drawn anew for each key: a form has 0 to 7 fields; to draw once changes samples, so waits for the next VERSION
        keys = [key for key in FIELDS if key in set(rng.sample(tuple(FIELDS), number))]
        fields, date = tuple((key, draw_value(rng, split, key)) for key in keys), ""
        title = rng.choice(("Entry form", "Order form", "Library card", "Guest list", "Member card"))
    else:
        fields = tuple((key, draw_value(rng, split, key)) for key in LETTER_FIELDS)
        title = rng.choice(allowed(WORDS, split)).capitalize() + rng.choice((" Ltd", " Inc", " Company"))
    skew = rng.uniform(-MOST_SKEW, MOST_SKEW) if rng.random() < SKEW_SHARE else 0.0
    return Document(form, title, date, fields, items, skew, rng.random() < BLUR_SHARE, **draw_look(rng, split)), None


def plan_receipt(rng: random.Random, split: Split) -> tuple[Document, None]:
    return plan_document(rng, split, "receipt")


def plan_fields(rng: random.Random, split: Split) -> tuple[Document, None]:
    return plan_document(rng, split, rng.choice(("form", "letter")))


def plan_dated(rng: random.Random, split: Split) -> tuple[Document, None]:
    return plan_document(rng, split, rng.choice(("receipt", "letter")))


# -- questions; a wrong answer is drawn as the right one is, so that its form gives nothing away


def ask_field(sitting: Sitting) -> Draft | None:
    done = sitting.asked.get("document_field", ())
    left = [field for field in sitting.scene.fields if field[0] not in done]
    if not left:
        return None
    rng, split = sitting.rng, sitting.split
    key, value = rng.choice(left)
    near = tuple(other for name, other in sitting.scene.fields if name != key and {name, key} == {"To", "From"})
    wrong = value
    while wrong == value:
        wrong = edit(rng, value, split) if value.isdigit() else draw_value(rng, split, key)
    slots = {"field": (FIELDS | LETTER_FIELDS)[key]}
    pool = allowed(CITIES, split) if key == "City" else ()
    vague = (f"{value[: len(value) // 2]}...", f"some {slots['field']}")
    other = partial(draw_value, rng, split, key)
    return Draft("document_field", slots, value, pool, key, near, (wrong,), vague, other=other)


def ask_price(sitting: Sitting) -> Draft | None:
    items, done = sitting.scene.items, sitting.asked.get("document_price", ())
    left = [item for item in items if item[0] not in done]
    if not left:
        return None
    name, cents = sitting.rng.choice(left)
    pool = tuple(map(money, CENTS))
    near = tuple(money(other) for _, other in items)
    return Draft("document_price", {"item": name}, money(cents), pool, name, near)


def ask_total(sitting: Sitting) -> Draft | None:
    """The incorrect total is that of the receipt with another price for one of its items."""
    document, rng = sitting.scene, sitting.rng
    if not document.items or sitting.asked.get("document_total"):
        return None
    wrong = document.total
    while wrong == document.total:
        wrong = document.total - rng.choice(document.items)[1] + rng.choice(CENTS)
    between = f"between {document.total // 100} and {document.total // 100 + 2}"
    # "about 29" is no dodge where the total is 29.00; two to draw from all the same, so that later draws stay theirs
    vague = (between, f"about {document.total // 100}" if document.total % 100 else between)

    def other() -> str:
        return money(sum(rng.choices(CENTS, k=len(document.items))))

    return Draft(
        "document_total", {}, money(document.total), (), "total", wrong=(money(wrong),), vague=vague, other=other
    )


def ask_date(sitting: Sitting) -> Draft | None:
    date = sitting.scene.date
    if not date or sitting.asked.get("document_date"):
        return None
    wrong = date
    while wrong == date:
        place, parts = sitting.rng.randrange(3), date.split()
        parts[place] = draw_date(sitting.rng, sitting.split).split()[place]
        wrong = " ".join(parts)
    vague = (date.split(maxsplit=1)[1], "some day")
    other = partial(draw_date, sitting.rng, sitting.split)
    return Draft("document_date", {}, date, (), "date", wrong=(wrong,), vague=vague, other=other)


KIND = Kind(stage_page, draw_document)
TASKS = {
    "document_field": Task("documents", ask_field, {"documents": plan_fields}, weight=0.5),
    "document_price": Task("documents", ask_price, {"documents": plan_receipt}, "number", weight=0.4),
    "document_total": Task("documents", ask_total, {"documents": plan_receipt}, "number", weight=0.3),
    "document_date": Task("documents", ask_date, {"documents": plan_dated}, weight=0.3),
}
WORDINGS: dict[str, Template] = {
    "document_field": frame("the {field}", more=("Which {field} is written in the image?", "Read the {field}.")),
    "document_price": frame("the price of {item}", more=("How much is {item}?", "What does {item} cost?")),
    "document_total": frame("the total", "the sum of all prices", more=("How much is everything together?",)),
    "document_date": frame("the date", "the day that is written there", more=("Which date is written in the image?",)),
}
