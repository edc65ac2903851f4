"""Questions about sprites: names, kinds, existence."""

from __future__ import annotations

import random

from phantrol.data.primer.asking import Draft, Sitting
from phantrol.data.primer.spatial_tasks import ask_outermost, nouns
from phantrol.data.primer.splits import Split
from phantrol.data.primer.sprite_packs import is_in_a_drawing
from phantrol.data.primer.vocabulary import with_article


def plan_sprites(rng: random.Random, split: Split, number: int) -> tuple[list[str], object]:
    names: list[str] = []
    for _ in range(number):
        names.append(split.pack.pick(rng, names))
    return names, None


def plan_kind(rng: random.Random, split: Split, number: int) -> tuple[list[str], object]:
    """The kind is drawn evenly, so that each is as likely; in other scenes each name is, so that they are not asked."""
    return [split.pack.pick(rng, kind=rng.choice(split.pack.named_kinds))], "kind"


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
    pack, thing = sitting.split.pack, sitting.scene.things[0]
    if sitting.focus != "kind" or sitting.asked.get("kinds"):
        return None
    return Draft("kind", {}, pack.kind_of[thing.name], pack.named_kinds, thing.name)


def ask_sprite_existence(sitting: Sitting) -> Draft | None:
    """Half of the absent names are of the kind of an object in the picture."""
    rng, pack = sitting.rng, sitting.split.pack
    shown = [thing.name for thing in sitting.scene.things]
    before = sitting.asked.get("object_existence")
    present = before[-1] not in shown if before else rng.random() < 0.5
    if present:
        name = rng.choice(shown)
    elif rng.random() < 0.5:
        name = pack.pick(rng, shown, pack.kind_of[rng.choice(shown)])
    else:
        name = pack.pick(rng, shown)
    if not present and is_in_a_drawing(name, shown):
        return None
    answer = "yes" if present else "no"
    slots = {"a_thing": with_article(name)}
    return Draft("existence", slots, answer, ("yes", "no"), name, vague=("yes or no", "no or yes", "maybe"))
