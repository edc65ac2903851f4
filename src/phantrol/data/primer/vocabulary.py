"""The things Primer can draw and name, and which colour-shape pairs training never sees."""

from __future__ import annotations

from phantrol.data.primer.sprite_names import COUNTED_BY, KIND_OF, SPRITES, SPRITES_BY_KIND, UNCOUNTED

__all__ = [
    "ALL_PAIRS", "COLOURS", "HELD_OUT_PAIRS", "KIND_OF", "NAMED_KINDS", "PLURALS", "SHAPES", "SIZES", "SPRITES",
    "SPRITES_BY_KIND", "TRAIN_PAIRS", "Pair", "with_article",
]  # fmt: skip

COLOURS = {
    "red": (214, 40, 40),
    "green": (46, 150, 60),
    "blue": (40, 90, 220),
    "yellow": (246, 208, 30),
    "orange": (245, 130, 20),
    "purple": (128, 50, 170),
    "pink": (250, 130, 190),
    "black": (30, 30, 34),
}
SHAPES = ("circle", "square", "triangle", "star", "cross", "heart")
# "thing" says nothing, so it is never an answer
NAMED_KINDS = tuple(kind for kind in SPRITES_BY_KIND if kind != "thing")
BEGIN_LIKE_YOU = ("ufo", "unicorn")
PLURALS = {shape: f"{shape}s" for shape in SHAPES} | {"cross": "crosses"}
SIZES = ("small", "large")

Pair = tuple[str, str]
ALL_PAIRS: tuple[Pair, ...] = tuple((colour, shape) for colour in COLOURS for shape in SHAPES)
# A Latin square: each colour misses one shape, each shape one or two colours.
HELD_OUT_PAIRS: tuple[Pair, ...] = tuple(
    (colour, shape) for i, colour in enumerate(COLOURS) for j, shape in enumerate(SHAPES) if (i + j) % len(SHAPES) == 0
)
TRAIN_PAIRS: tuple[Pair, ...] = tuple(pair for pair in ALL_PAIRS if pair not in HELD_OUT_PAIRS)


def with_article(name: str) -> str:
    """Return "a dog", "an owl", "bread", "a pair of scissors"."""
    if name in UNCOUNTED:
        return name
    if name in COUNTED_BY:
        return f"a {COUNTED_BY[name]} of {name}"
    return f"an {name}" if name[0] in "aeiou" and name not in BEGIN_LIKE_YOU else f"a {name}"
