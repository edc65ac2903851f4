"""Which sprites a source shows: the bundled pack, a beginning of it, or a folder of stamps."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property, lru_cache

from phantrol.data.primer.sprite_names import ALSO_CALLED, KIND_OF, PART_OF, SPRITES
from phantrol.data.primer.stamps import TUXPAINT, read_stamps

FEWEST = 8
NO_KIND = "thing"  # says nothing, so it is never an answer
COUNTED_KINDS = ("animal", "vehicle", "instrument")  # of which nobody doubts what belongs to them


@dataclass(frozen=True)
class SpritePack:
    """Sprites by name.

    items   (name, kind) of each
    folder  of the stamps that they are, "" for the bundled sheets
    """

    items: tuple[tuple[str, str], ...]
    folder: str = ""

    @cached_property
    def names(self) -> tuple[str, ...]:
        return tuple(name for name, _ in self.items)

    @cached_property
    def kind_of(self) -> dict[str, str]:
        return dict(self.items)

    @cached_property
    def by_kind(self) -> dict[str, tuple[str, ...]]:
        kinds = dict.fromkeys(kind for _, kind in self.items)
        return {kind: tuple(name for name, own in self.items if own == kind) for kind in kinds}

    @cached_property
    def named_kinds(self) -> tuple[str, ...]:
        """The kinds that are an answer to "What kind of thing is this?"."""
        return tuple(kind for kind in self.by_kind if kind != NO_KIND)

    def countable_kinds(self, most: int) -> tuple[str, ...]:
        """Return the kinds of which a picture can show `most` names, or as many without any of them."""
        others = Counter(self.kind_of[name] for name in self._unbarred)
        return tuple(
            kind
            for kind in COUNTED_KINDS
            if len(self.by_kind.get(kind, ())) >= most and others.total() - others[kind] >= most
        )

    @cached_property
    def _unbarred(self) -> tuple[str, ...]:
        """The names that `pick` finds beside whatever else is shown."""
        known = set(self.names)
        return tuple(name for name in self.names if known.isdisjoint(ALSO_CALLED.get(name, ())))

    def pick(self, rng: random.Random, without: Collection[str] = (), kind: str | None = None) -> str:
        """Return a name, each as likely, of one kind if it is given and has any that is neither in `without` nor could
        be said of a drawing there; where the whole pack has no such name, one that is not in `without`."""
        barred = {*without, *(other for name in without for other in ALSO_CALLED.get(name, ()))}
        if all(name in barred for name in self.names):
            barred = {*without}
        left = [name for name in self.by_kind[kind] if name not in barred] if kind else []
        while not left:
            name = rng.choice(self.names)
            left = [name] if name not in barred else []
        return rng.choice(left)

    def others(self, name: str) -> tuple[str, ...]:
        """Return all names but those that could be said of this drawing besides its own."""
        also = ALSO_CALLED.get(name, ())
        return tuple(other for other in self.names if other not in also) if also else self.names


def is_in_a_drawing(name: str, shown: Collection[str]) -> bool:
    """Return whether the thing is a part of what the drawings show, as butter is of pancakes."""
    return not set(PART_OF.get(name, ())).isdisjoint(shown)


BUNDLED = SpritePack(tuple((name, KIND_OF[name]) for name in SPRITES))


@lru_cache(maxsize=16)
def find_pack(sprites: int | str | None) -> SpritePack:
    """Return a pack.

    sprites  None for all that are bundled, a number for so many of them (64 are the core, things a child knows),
             "tuxpaint" for the stamps of Tux Paint where Debian puts them, else a folder of such stamps
    Raises ValueError for a number out of range, and for a folder that is none, or that holds too few usable stamps.
    """
    if sprites is None:
        return BUNDLED
    if isinstance(sprites, int) or sprites.isdecimal():
        if not FEWEST <= int(sprites) <= len(SPRITES):
            raise ValueError(f"sprites must be {FEWEST} to {len(SPRITES)} of the bundled ones, got {sprites}")
        return SpritePack(BUNDLED.items[: int(sprites)])
    folder = TUXPAINT if sprites == "tuxpaint" else sprites
    stamps = read_stamps(folder)
    if len(stamps) < FEWEST:
        raise ValueError(
            f"{folder} holds {len(stamps)} stamps that can be used, expected at least {FEWEST}: PNG files, each with "
            "its name in a .txt file beside it, in a folder a kind (animals, food, ...)"
        )
    return SpritePack(tuple((name, stamp.kind) for name, stamp in stamps.items()), str(folder))
