"""The things Primer can draw and name, and which colour-shape pairs training never sees."""

from __future__ import annotations

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
PLURALS = {shape: f"{shape}s" for shape in SHAPES} | {"cross": "crosses"}
SIZES = ("small", "large")

# name -> code point of its drawing; the order is that of the sprite sheets
SPRITES_BY_KIND = {
    "animal": {
        "dog": 0x1F436, "cat": 0x1F431, "pig": 0x1F437, "frog": 0x1F438, "lion": 0x1F981, "tiger": 0x1F405,
        "monkey": 0x1F412, "rabbit": 0x1F430, "horse": 0x1F40E, "elephant": 0x1F418, "penguin": 0x1F427, "owl": 0x1F989,
        "fish": 0x1F41F, "whale": 0x1F433, "snail": 0x1F40C, "bee": 0x1F41D, "butterfly": 0x1F98B, "turtle": 0x1F422,
        "crab": 0x1F980, "octopus": 0x1F419,
    },
    "food": {
        "apple": 0x1F34E, "banana": 0x1F34C, "lemon": 0x1F34B, "strawberry": 0x1F353, "watermelon": 0x1F349,
        "pineapple": 0x1F34D, "pear": 0x1F350, "carrot": 0x1F955, "corn": 0x1F33D, "bread": 0x1F35E, "cheese": 0x1F9C0,
        "pizza": 0x1F355, "hamburger": 0x1F354, "cake": 0x1F370, "cookie": 0x1F36A, "egg": 0x1F373,
    },
    "vehicle": {
        "car": 0x1F697, "bus": 0x1F68C, "truck": 0x1F69A, "bicycle": 0x1F6B2, "train": 0x1F682, "tractor": 0x1F69C,
        "airplane": 0x2708, "helicopter": 0x1F681, "rocket": 0x1F680, "boat": 0x26F5,
    },
    "thing": {
        "hammer": 0x1F528, "key": 0x1F511, "book": 0x1F4D5, "umbrella": 0x2602, "camera": 0x1F4F7, "scissors": 0x2702,
        "bell": 0x1F514, "guitar": 0x1F3B8, "drum": 0x1F941, "balloon": 0x1F388, "crown": 0x1F451, "hat": 0x1F3A9,
        "shoe": 0x1F45F, "shirt": 0x1F455, "tree": 0x1F333, "cactus": 0x1F335, "tulip": 0x1F337, "clock": 0x23F0,
    },
}  # fmt: skip
SPRITES = tuple(name for names in SPRITES_BY_KIND.values() for name in names)
KIND_OF = {name: kind for kind, names in SPRITES_BY_KIND.items() for name in names}
UNCOUNTED = ("scissors", "bread", "corn", "cheese")
NAMED_KINDS = ("animal", "food", "vehicle")  # "thing" says nothing, so it is never an answer

Pair = tuple[str, str]
ALL_PAIRS: tuple[Pair, ...] = tuple((colour, shape) for colour in COLOURS for shape in SHAPES)
# A Latin square: each colour misses one shape, each shape one or two colours.
HELD_OUT_PAIRS: tuple[Pair, ...] = tuple(
    (colour, shape) for i, colour in enumerate(COLOURS) for j, shape in enumerate(SHAPES) if (i + j) % len(SHAPES) == 0
)
TRAIN_PAIRS: tuple[Pair, ...] = tuple(pair for pair in ALL_PAIRS if pair not in HELD_OUT_PAIRS)


def with_article(name: str) -> str:
    """Return "a dog", "an owl", "bread"."""
    if name in UNCOUNTED:
        return name
    return f"an {name}" if name[0] in "aeiou" else f"a {name}"
