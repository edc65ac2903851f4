"""False premises: half of these questions are about something that is not there, and the right answer says so.

The other half are about something that is: so neither "There is no ..." nor a plain answer is right by its form.
"""

from __future__ import annotations

import random

from phantrol.data.primer.asking import Draft, Sitting, Task, unique
from phantrol.data.primer.shape_tasks import plan_unique_both
from phantrol.data.primer.splits import Split
from phantrol.data.primer.vocabulary import COLOURS, SHAPES, SIZES, Pair
from phantrol.data.primer.wordings import WORDINGS as WORDINGS_OF_OBJECTS
from phantrol.data.primer.wordings import Template

MOST = 5  # objects: more could show every shape there is


def plan_premise(rng: random.Random, split: Split, number: int) -> tuple[list[Pair], tuple]:
    """Draw what is asked for, then whether it is there."""
    attribute, present = rng.choice(("colour", "shape", "size")), rng.random() < 0.5
    if present:
        pairs, target = plan_unique_both(rng, split, number)
        return pairs, ("false_premise", attribute, target, True)
    target = rng.choice(split.pairs)
    same = {"colour": lambda pair: pair[1] == target[1], "shape": lambda pair: pair[0] == target[0]}
    others = [pair for pair in split.pairs if pair != target and not same.get(attribute, lambda pair: False)(pair)]
    return rng.sample(others, number), ("false_premise", attribute, target, False)


def ask_premise(sitting: Sitting) -> Draft | None:
    planned = sitting.lead("false_premise")
    if planned is None:
        return None
    attribute, (colour, shape), present = planned
    mentioned = sitting.split.mentioned
    if attribute == "colour":
        template, slots, noun = "premise_colour", {"shape": shape}, shape
        answers = tuple(other for other in COLOURS if (other, shape) in mentioned)
    elif attribute == "shape":
        template, slots, noun = "premise_shape", {"colour": colour}, f"{colour} object"
        answers = tuple(other for other in SHAPES if (colour, other) in mentioned)
    else:
        template, slots, noun, answers = "premise_size", {"thing": f"{colour} {shape}"}, f"{colour} {shape}", SIZES
    denial = f"There is no {noun} in the image."
    if present:
        thing = next(thing for thing in unique(sitting.scene.things, "noun") if thing.pair == (colour, shape))
        answer = {"colour": thing.colour, "shape": thing.name, "size": thing.size}[attribute]
        wrong = (denial,)
    else:
        answer, wrong = denial, answers
    vague = " or ".join(sitting.rng.sample(answers, 2))
    pool = (denial,) * len(answers) + answers  # to one who does not look, as likely as all the others together
    return Draft(template, slots, answer, pool, "false_premise", wrong=wrong, vague=(vague, f"maybe {noun}"))


TASKS = {
    "false_premise": Task("false_premise", ask_premise, {"shapes": plan_premise}, "free", numbers=(1, MOST), weight=0.7)
}
WORDINGS: dict[str, Template] = {f"premise_{name}": WORDINGS_OF_OBJECTS[name] for name in ("colour", "shape", "size")}
