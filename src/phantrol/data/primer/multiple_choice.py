"""Multiple choice: another task's question with four options, answered by a letter."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping
from functools import partial

from phantrol.data.primer.asking import Ask, Draft, Sitting, Task
from phantrol.data.primer.shape_tasks import ask_colour, ask_shape
from phantrol.data.primer.splits import Split
from phantrol.data.primer.sprite_tasks import ask_object

LETTERS = ("A", "B", "C", "D")
INNER: dict[str, tuple[Ask, ...]] = {"shapes": (ask_shape, ask_colour), "sprites": (ask_object,)}
WEIGHT = 0.3  # of the choice among a kind's questions
OPTION = re.compile(r"^([A-D])\. (.+)$", re.MULTILINE)


def ask_multiple_choice(sitting: Sitting) -> Draft | None:
    """Ask about objects."""
    if sitting.asked.get("multiple_choice"):
        return None
    return _offer(sitting, sitting.rng.choice(INNER[sitting.scene.kind])(sitting))


def choose_among(kind: str, tasks: Mapping[str, Task]) -> Task:
    """Return a task that asks the questions of other tasks about one kind of picture with options."""
    names = tuple(name for name, task in tasks.items() if task.answer in ("short", "number"))
    own = f"choice_{kind}"

    def plan(rng: random.Random, split: Split) -> tuple[object, tuple]:
        name = rng.choice(names)
        scene, focus = tasks[name].plans[kind](rng, split)
        return scene, (own, name, focus)

    def ask(sitting: Sitting) -> Draft | None:
        if sitting.asked.get(own):
            return None
        planned = sitting.lead(own)
        if planned is None:
            name = sitting.rng.choice(names)
        else:  # whatever is asked from here on has to know what the scene was built for
            name, sitting.focus = planned
        return _offer(sitting, tasks[name].ask(sitting))  # what was asked before is not asked again with options

    return Task("multiple_choice", ask, {kind: plan}, "letter", weight=WEIGHT)


def rotations(question: str, letter: str) -> tuple[tuple[str, str], ...]:
    """Return the question with its options moved on by 0, 1, 2 and 3 places, each with the letter that is then right.

    A model knows the answer only if it finds it in every place (circular evaluation).
    Raises ValueError if the question has no four options, or the letter is none of them.
    """
    options = [text for _, text in OPTION.findall(question)]
    if len(options) != len(LETTERS) or letter not in LETTERS:
        raise ValueError(f"expected four options A to D and one of these letters, got {letter!r} for {question!r}")
    turned = []
    for shift in range(len(LETTERS)):
        moved = iter(options[-shift:] + options[:-shift] if shift else options)
        text = OPTION.sub(lambda found, moved=moved: f"{found[1]}. {next(moved)}", question)
        turned.append((text, LETTERS[(LETTERS.index(letter) + shift) % len(LETTERS)]))
    return tuple(turned)


def _offer(sitting: Sitting, inner: Draft | None) -> Draft | None:
    """Draw the letter evenly. The other options come from the question's pool, one of them near if there is one.

    Where some answers are likelier, the wrong ones are drawn as the right one was, and four of which two are the same
    are not offered: of four distinct ones that came about alike, each is as likely to be right. To draw only a wrong
    one again would leave the right one to be the likeliest.
    """
    if inner is None:
        return None
    rng = sitting.rng
    near = sorted(set(inner.near) - {inner.answer, *inner.odd})
    options = [rng.choice(near)] if near else []
    uneven = len(set(inner.pool)) < len(inner.pool)
    draw = inner.other or (partial(rng.choice, inner.pool) if uneven else None)
    if draw:  # edits of the right answer would give it away: it is what they have in common
        options += [draw() for _ in range(len(LETTERS) - 1 - len(options))]
        if len({inner.answer, *options}) < len(LETTERS):
            return None
    else:
        rest = [answer for answer in inner.pool if answer != inner.answer and answer not in options]
        if len(rest) < len(LETTERS) - 1 - len(options):
            return None
        options += rng.sample(rest, len(LETTERS) - 1 - len(options))
    rng.shuffle(options)
    right = rng.randrange(len(LETTERS))
    options.insert(right, inner.answer)
    lines = "\n".join(f"{letter}. {option}" for letter, option in zip(LETTERS, options, strict=True))
    return Draft("letter", {}, LETTERS[right], LETTERS, inner.key, prefix=f"{sitting.word(inner)}\n{lines}\n")
