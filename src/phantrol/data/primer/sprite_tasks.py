"""Questions about sprites: names, kinds, existence."""

from __future__ import annotations

import random

from phantrol.data.primer.asking import Draft, Sitting
from phantrol.data.primer.spatial_tasks import ask_outermost, nouns
from phantrol.data.primer.splits import Split
from phantrol.data.primer.vocabulary import KIND_OF, NAMED_KINDS, SPRITES_BY_KIND, with_article


def draw_sprite(rng: random.Random, without: list[str] | set[str] = ()) -> str:
    """Draw a kind evenly, then a name of this kind, so that each kind is as likely."""
    while True:
        name = rng.choice(_NAMES[rng.choice(_KINDS)])
        if name not in without:
            return name


def plan_sprites(rng: random.Random, split: Split, number: int) -> tuple[list[str], object]:
    names: list[str] = []
    for _ in range(number):
        names.append(draw_sprite(rng, names))
    return names, None


def plan_kind(rng: random.Random, split: Split, number: int) -> tuple[list[str], object]:
    return [rng.choice(_NAMES[rng.choice(NAMED_KINDS)])], None


def ask_object(sitting: Sitting) -> Draft | None:
    """Ask what the one object is, or what the outermost of several is."""
    things = sitting.scene.things
    if len(things) > 1:
        return ask_outermost(sitting)
    if sitting.asked.get("objects"):
        return None
    pool, vague = nouns(sitting, things[0])
    return Draft("this", {}, things[0].noun, pool, things[0].noun, vague=vague)


def ask_kind(sitting: Sitting) -> Draft | None:
    things = sitting.scene.things
    if len(things) > 1 or sitting.asked.get("kinds") or KIND_OF[things[0].name] not in NAMED_KINDS:
        return None
    return Draft("kind", {}, KIND_OF[things[0].name], NAMED_KINDS, things[0].name)


def ask_sprite_existence(sitting: Sitting) -> Draft | None:
    """Half of the absent names are of the kind of an object in the picture."""
    rng = sitting.rng
    shown = [thing.name for thing in sitting.scene.things]
    before = sitting.asked.get("object_existence")
    present = before[-1] not in shown if before else rng.random() < 0.5
    if present:
        name = rng.choice(shown)
    elif rng.random() < 0.5:
        name = rng.choice([name for name in _NAMES[KIND_OF[rng.choice(shown)]] if name not in shown])
    else:
        name = draw_sprite(rng, shown)
    answer = "yes" if present else "no"
    slots = {"a_thing": with_article(name)}
    return Draft("existence", slots, answer, ("yes", "no"), name, vague=("yes or no", "no or yes", "maybe"))


_KINDS = tuple(SPRITES_BY_KIND)
_NAMES = {kind: tuple(names) for kind, names in SPRITES_BY_KIND.items()}
