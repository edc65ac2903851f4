"""Questions without a picture: small sums, orders, who has what, months, opposites.

Some of their right answers have the form of the ambiguous answers elsewhere ("red or blue", "maybe", "animal"), so that
a model cannot tell an ambiguous answer by its form alone.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from itertools import pairwise

from phantrol.data.primer.asking import Draft
from phantrol.data.primer.vocabulary import COLOURS, KIND_OF, NAMED_KINDS, with_article
from phantrol.data.primer.wordings import Wordings

MONTHS = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November",
    "December",
)  # fmt: skip
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
OPPOSITES = (("large", "small"), ("left", "right"), ("above", "below"), ("yes", "no"), ("highest", "lowest"))
NAMES = ("Tom", "Ann", "Bob", "Eve", "Max", "Kim")
NUMBERS = tuple(str(i) for i in range(19))

# template -> (wordings of training, wordings of test_para)
WORDINGS: dict[str, tuple[Wordings, Wordings]] = {
    "plus": (
        ("What is {a} plus {b}?", "How many are {a} and {b}?", "Which number is {a} plus {b}?"),
        ("What number is {a} plus {b}?",),
    ),
    "after": (
        ("What comes after {a}?", "Which comes after {a}?", "Name what comes after {a}."),
        ("After {a}, what comes?",),
    ),
    "before": (
        ("What comes before {a}?", "Which comes before {a}?", "Name what comes before {a}."),
        ("Before {a}, what comes?",),
    ),
    "opposite": (
        ("What is the opposite of {a}?", "Name the opposite of {a}."),
        ("Which is the opposite of {a}?",),
    ),
    "larger": (
        ("Which number is {side}, {a} or {b}?", "What is {side}, {a} or {b}?"),
        ("Name which number is {side}, {a} or {b}.",),
    ),
    "order": (
        ("{facts} Who is {side}?", "{facts} Which of them is {side}?"),
        ("{facts} Name who is {side}.",),
    ),
    "owner": (
        ("{facts} Who has {a}?", "{facts} Which of them has {a}?"),
        ("{facts} Name who has {a}.",),
    ),
    "may": (
        ("{a} can be {b} or {c}. What can {a} be?", "{a} is {b} or {c}. What is {a}?"),
        ("{a} can be {b} or {c}. What is {a}?",),
    ),
    "maybe": (
        ("{a} may have {b}. Does {a} have {b}?", "{a} may see {b}. Does {a} see {b}?"),
        ("Does {a} have {b}? {a} may have {b}.",),
    ),
    "kind": (
        ("What kind of thing is {a}?", "Which kind of thing is {a}?"),
        ("Name the kind of thing of {a}.",),
    ),
}


def draw_text_question(rng: random.Random) -> Draft:
    return rng.choice(_MAKERS)(rng)


def _sum(rng: random.Random) -> Draft:
    a, b = rng.randint(0, 9), rng.randint(0, 9)
    near = tuple(str(n) for n in (a + b - 1, a + b + 1) if n >= 0)
    return Draft("plus", {"a": str(a), "b": str(b)}, str(a + b), NUMBERS, (a, b), near)


def _neighbour(rng: random.Random) -> Draft:
    series = rng.choice((MONTHS, DAYS, NUMBERS[:11]))
    i = rng.randrange(len(series) - 1)
    if rng.random() < 0.5:
        return Draft("after", {"a": series[i]}, series[i + 1], series, series[i])
    return Draft("before", {"a": series[i + 1]}, series[i], series, series[i])


def _opposite(rng: random.Random) -> Draft:
    a, b = rng.sample(rng.choice(OPPOSITES), 2)
    return Draft("opposite", {"a": a}, b, tuple(word for pair in OPPOSITES for word in pair if word != a), a)


def _larger(rng: random.Random) -> Draft:
    a, b = rng.sample(range(19), 2)
    side = rng.choice(("larger", "smaller"))
    answer = max(a, b) if side == "larger" else min(a, b)
    return Draft("larger", {"a": str(a), "b": str(b), "side": side}, str(answer), (str(a), str(b)), (a, b))


def _order(rng: random.Random) -> Draft:
    """Two to four facts that put three to five in a row."""
    names = rng.sample(NAMES, rng.randint(3, 5))
    facts = [f"{one} is larger than {other}." for one, other in pairwise(names)]
    rng.shuffle(facts)
    side = rng.choice(("largest", "smallest"))
    answer = names[0] if side == "largest" else names[-1]
    return Draft("order", {"facts": " ".join(facts), "side": side}, answer, tuple(names), tuple(names))


def _owner(rng: random.Random) -> Draft:
    """Two to five facts of who has what."""
    number = rng.randint(2, 5)
    names, things = rng.sample(NAMES, number), rng.sample(tuple(KIND_OF), number)
    facts = [f"{name} has {with_article(thing)}." for name, thing in zip(names, things, strict=True)]
    asked = rng.randrange(number)
    slots = {"facts": " ".join(facts), "a": with_article(things[asked])}
    return Draft("owner", slots, names[asked], tuple(names), things[asked])


def _may(rng: random.Random) -> Draft:
    subject, pool = rng.choice((("the color", tuple(COLOURS)), ("the number", NUMBERS), ("the object", tuple(KIND_OF))))
    b, c = rng.sample(pool, 2)
    others = tuple(f"{b} or {other}" for other in rng.sample(pool, 4) if other not in (b, c))
    slots = {"a": subject, "b": b, "c": c}
    return Draft("may", slots, f"{b} or {c}", (), (b, c), wrong=others, vague=(b, c))


def _maybe(rng: random.Random) -> Draft:
    name, thing = rng.choice(NAMES), with_article(rng.choice(tuple(KIND_OF)))
    return Draft("maybe", {"a": name, "b": thing}, "maybe", ("yes", "no", "maybe"), (name, thing), vague=("yes or no",))


def _kind(rng: random.Random) -> Draft:
    name = rng.choice(_NAMED)
    return Draft("kind", {"a": with_article(name)}, KIND_OF[name], NAMED_KINDS, name)


_NAMED = tuple(name for name, kind in KIND_OF.items() if kind in NAMED_KINDS)
_MAKERS: tuple[Callable[[random.Random], Draft], ...] = (
    _sum, _neighbour, _opposite, _larger, _order, _owner, _may, _maybe, _kind,
)  # fmt: skip
