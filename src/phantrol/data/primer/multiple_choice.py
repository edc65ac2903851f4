"""Multiple choice: another task's question with four options, answered by a letter."""

from __future__ import annotations

from phantrol.data.primer.asking import Ask, Draft, Sitting
from phantrol.data.primer.shape_tasks import ask_colour, ask_shape
from phantrol.data.primer.sprite_tasks import ask_object
from phantrol.data.primer.wordings import WORDINGS, choose_wording

LETTERS = ("A", "B", "C", "D")
INNER: dict[str, tuple[Ask, ...]] = {"shapes": (ask_shape, ask_colour), "sprites": (ask_object,)}


def ask_multiple_choice(sitting: Sitting) -> Draft | None:
    """Draw the letter evenly. The other options come from the question's pool, one of them near if there is one."""
    rng = sitting.rng
    if sitting.asked.get("multiple_choice"):
        return None
    inner = rng.choice(INNER[sitting.scene.kind])(sitting)
    if inner is None:
        return None
    near = sorted(set(inner.near) - {inner.answer})
    options = [rng.choice(near)] if near else []
    rest = [answer for answer in inner.pool if answer != inner.answer and answer not in options]
    options += rng.sample(rest, len(LETTERS) - 1 - len(options))
    rng.shuffle(options)
    right = rng.randrange(len(LETTERS))
    options.insert(right, inner.answer)
    wording = choose_wording(rng, WORDINGS[inner.template], sitting.split.held_out_wording, sitting.wordings)
    question = wording.format(**inner.slots)
    lines = "\n".join(f"{letter}. {option}" for letter, option in zip(LETTERS, options, strict=True))
    return Draft("letter", {}, LETTERS[right], LETTERS, inner.key, prefix=f"{question}\n{lines}\n")
