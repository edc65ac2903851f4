"""What the bundled sprites show: their names, each with its kind and the code point of its drawings.

Names were chosen by hand: things that one can point at, tell apart when small, and call by one usual name. No faces
with moods, flags, signs, persons or professions; of look-alikes (ox, bison, buffalo) one at most, and no kind beside
its kinds (a taxi is a car), other than in ALSO_CALLED. No name holds another one as a word ("hotdog", not "hot dog"),
nor a color, a shape or a size, so that a name can be found in a sentence.
"""

from __future__ import annotations

from itertools import chain, zip_longest

Names = dict[str, dict[str, int]]  # kind -> name -> code point

# The sprites that a small model begins with.
CORE: Names = {
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
    "plant": {"tree": 0x1F333, "cactus": 0x1F335, "tulip": 0x1F337},
    "clothing": {"hat": 0x1F3A9, "shoe": 0x1F45F, "shirt": 0x1F455},
    "instrument": {"guitar": 0x1F3B8, "drum": 0x1F941},
    "tool": {"hammer": 0x1F528, "scissors": 0x2702},
    "thing": {
        "key": 0x1F511, "book": 0x1F4D5, "umbrella": 0x2602, "camera": 0x1F4F7, "bell": 0x1F514, "balloon": 0x1F388,
        "crown": 0x1F451, "clock": 0x23F0,
    },
}  # fmt: skip

MORE: Names = {
    "animal": {
        "mouse": 0x1F401, "cow": 0x1F404, "sheep": 0x1F411, "rooster": 0x1F413, "bear": 0x1F43B, "panda": 0x1F43C,
        "koala": 0x1F428, "wolf": 0x1F43A, "fox": 0x1F98A, "camel": 0x1F42B, "dolphin": 0x1F42C, "shark": 0x1F988,
        "crocodile": 0x1F40A, "snake": 0x1F40D, "caterpillar": 0x1F41B, "ant": 0x1F41C, "ladybug": 0x1F41E,
        "spider": 0x1F577, "scorpion": 0x1F982, "mosquito": 0x1F99F, "turkey": 0x1F983, "unicorn": 0x1F984,
        "eagle": 0x1F985, "duck": 0x1F986, "swan": 0x1F9A2, "dove": 0x1F54A, "parrot": 0x1F99C, "peacock": 0x1F99A,
        "flamingo": 0x1F9A9, "bat": 0x1F987, "deer": 0x1F98C, "gorilla": 0x1F98D, "lizard": 0x1F98E, "rhino": 0x1F98F,
        "hippo": 0x1F99B, "shrimp": 0x1F990, "lobster": 0x1F99E, "jellyfish": 0x1FABC, "giraffe": 0x1F992,
        "zebra": 0x1F993, "hedgehog": 0x1F994, "kangaroo": 0x1F998, "llama": 0x1F999, "raccoon": 0x1F99D,
        "skunk": 0x1F9A8, "beaver": 0x1F9AB, "sloth": 0x1F9A5, "seal": 0x1F9AD, "squirrel": 0x1F43F,
        "dinosaur": 0x1F995,
    },
    "food": {
        "hotdog": 0x1F32D, "taco": 0x1F32E, "burrito": 0x1F32F, "sandwich": 0x1F96A, "chili": 0x1F336,
        "tomato": 0x1F345, "eggplant": 0x1F346, "grapes": 0x1F347, "peach": 0x1F351, "cherries": 0x1F352,
        "kiwi": 0x1F95D, "coconut": 0x1F965, "avocado": 0x1F951, "blueberries": 0x1FAD0, "cucumber": 0x1F952,
        "broccoli": 0x1F966, "potato": 0x1F954, "onion": 0x1F9C5, "garlic": 0x1F9C4, "salad": 0x1F957, "steak": 0x1F969,
        "bacon": 0x1F953, "spaghetti": 0x1F35D, "fries": 0x1F35F, "sushi": 0x1F363, "croissant": 0x1F950,
        "pretzel": 0x1F968, "pancakes": 0x1F95E, "waffle": 0x1F9C7, "butter": 0x1F9C8, "doughnut": 0x1F369,
        "chocolate": 0x1F36B, "candy": 0x1F36C, "lollipop": 0x1F36D, "ice cream": 0x1F366, "popcorn": 0x1F37F,
        "peanut": 0x1F95C,
    },
    "drink": {
        "coffee": 0x2615, "milk": 0x1F95B, "wine": 0x1F377, "beer": 0x1F37A, "cocktail": 0x1F378, "juice": 0x1F9C3,
    },
    "vehicle": {
        "motorcycle": 0x1F3CD, "scooter": 0x1F6F4, "skateboard": 0x1F6F9, "ambulance": 0x1F691, "rickshaw": 0x1F6FA,
        "ship": 0x1F6A2, "sled": 0x1F6F7, "wheelchair": 0x1F9BD, "ufo": 0x1F6F8,
    },
    "plant": {
        "rose": 0x1F339, "sunflower": 0x1F33B, "hibiscus": 0x1F33A, "clover": 0x1F340, "seedling": 0x1F331,
    },
    "clothing": {
        "dress": 0x1F457, "jeans": 0x1F456, "shorts": 0x1FA73, "coat": 0x1F9E5, "bikini": 0x1F459, "scarf": 0x1F9E3,
        "gloves": 0x1F9E4, "socks": 0x1F9E6,
    },
    "instrument": {
        "violin": 0x1F3BB, "trumpet": 0x1F3BA, "saxophone": 0x1F3B7, "piano": 0x1F3B9, "accordion": 0x1FA97,
        "flute": 0x1FA88, "maracas": 0x1FA87,
    },
    "tool": {
        "wrench": 0x1F527, "screwdriver": 0x1FA9B, "saw": 0x1FA9A, "axe": 0x1FA93,
    },
    "building": {
        "house": 0x1F3E0, "church": 0x26EA, "mosque": 0x1F54C, "castle": 0x1F3F0, "factory": 0x1F3ED, "hut": 0x1F6D6,
        "stadium": 0x1F3DF, "hospital": 0x1F3E5,
    },
    "thing": {
        "laptop": 0x1F4BB, "phone": 0x1F4F1, "television": 0x1F4FA, "radio": 0x1F4FB, "printer": 0x1F5A8,
        "gamepad": 0x1F3AE, "joystick": 0x1F579, "microphone": 0x1F3A4, "headphones": 0x1F3A7, "battery": 0x1F50B,
        "plug": 0x1F50C, "bulb": 0x1F4A1, "flashlight": 0x1F526, "candle": 0x1F56F, "bed": 0x1F6CF, "chair": 0x1FA91,
        "couch": 0x1F6CB, "door": 0x1F6AA, "window": 0x1FA9F, "mirror": 0x1FA9E, "toilet": 0x1F6BD, "bathtub": 0x1F6C1,
        "basket": 0x1F9FA, "bucket": 0x1FAA3, "broom": 0x1F9F9, "ladder": 0x1FA9C, "razor": 0x1FA92,
        "toothbrush": 0x1FAA5, "sponge": 0x1F9FD, "teapot": 0x1FAD6, "spoon": 0x1F944, "knife": 0x1F52A,
        "vase": 0x1F3FA, "envelope": 0x2709, "mailbox": 0x1F4EB, "newspaper": 0x1F4F0, "calendar": 0x1F4C5,
        "clipboard": 0x1F4CB, "paperclip": 0x1F4CE, "pushpin": 0x1F4CC, "pencil": 0x270F, "crayon": 0x1F58D,
        "paintbrush": 0x1F58C, "palette": 0x1F3A8, "ruler": 0x1F4CF, "scroll": 0x1F4DC, "abacus": 0x1F9EE,
        "microscope": 0x1F52C, "telescope": 0x1F52D, "stethoscope": 0x1FA7A, "syringe": 0x1F489, "pill": 0x1F48A,
        "thermometer": 0x1F321, "bandage": 0x1FA79, "magnet": 0x1F9F2, "globe": 0x1F30D, "magnifying glass": 0x1F50D,
        "padlock": 0x1F512, "hourglass": 0x231B, "watch": 0x231A, "ring": 0x1F48D, "gem": 0x1F48E, "lipstick": 0x1F484,
        "glasses": 0x1F453, "handbag": 0x1F45C, "backpack": 0x1F392, "suitcase": 0x1F9F3, "briefcase": 0x1F4BC,
        "coin": 0x1FA99, "anchor": 0x2693, "gear": 0x2699, "shield": 0x1F6E1, "bomb": 0x1F4A3, "megaphone": 0x1F4E3,
        "gift": 0x1F381, "trophy": 0x1F3C6, "medal": 0x1F3C5, "dice": 0x1F3B2, "puzzle": 0x1F9E9, "kite": 0x1FA81,
        "basketball": 0x1F3C0, "baseball": 0x26BE, "volleyball": 0x1F3D0, "soccer ball": 0x26BD, "parachute": 0x1FA82,
        "tent": 0x26FA, "fountain": 0x26F2, "ferris wheel": 0x1F3A1, "traffic light": 0x1F6A6, "snowman": 0x26C4,
        "pumpkin": 0x1F383, "robot": 0x1F916, "ghost": 0x1F47B, "skull": 0x1F480, "tooth": 0x1F9B7, "bone": 0x1F9B4,
        "brain": 0x1F9E0, "feather": 0x1FAB6, "leaf": 0x1F341, "mushroom": 0x1F344, "log": 0x1FAB5,
        "yarn": 0x1F9F6, "fire": 0x1F525, "snowflake": 0x2744, "cloud": 0x2601, "sun": 0x2600, "moon": 0x1F319,
        "rainbow": 0x1F308, "volcano": 0x1F30B, "mountain": 0x26F0,
    },
}  # fmt: skip
UNCOUNTED = (
    "bread", "corn", "cheese", "garlic", "broccoli", "salad", "bacon", "spaghetti", "sushi", "butter", "popcorn",
    "coffee", "milk", "wine", "beer", "juice", "yarn", "fire",
)  # fmt: skip
# Words for one drawing that are plural, and what they are counted by.
COUNTED_BY = {
    "scissors": "pair", "jeans": "pair", "shorts": "pair", "gloves": "pair", "socks": "pair", "maracas": "pair",
    "glasses": "pair", "headphones": "pair", "grapes": "bunch", "cherries": "bunch",
    "blueberries": "bunch", "fries": "portion", "pancakes": "stack",
}  # fmt: skip
# Pairs of names of which one could be said of the other's drawing too: never in one picture, and neither is asked for,
# nor a wrong answer, where the other is.
_PAIRS = (
    ("fish", "shark"), ("bear", "panda"), ("monkey", "gorilla"), ("candy", "lollipop"), ("bread", "croissant"),
    ("bread", "pretzel"), ("sandwich", "hamburger"), ("boat", "ship"), ("car", "ambulance"), ("house", "hut"),
    ("clock", "watch"), ("mountain", "volcano"), ("leaf", "clover"), ("leaf", "seedling"), ("gem", "ring"),
    ("fire", "candle"),
)  # fmt: skip
# Names that lie in another's drawing, plain to see: where it is shown, "Is there a strawberry?" has no sure answer.
PART_OF: dict[str, tuple[str, ...]] = {
    "strawberry": ("cake",), "cheese": ("pizza", "hamburger", "sandwich"), "butter": ("pancakes", "waffle"),
    "tomato": ("salad",),
}  # fmt: skip


def _both_ways(pairs: tuple[tuple[str, str], ...]) -> dict[str, tuple[str, ...]]:
    found: dict[str, tuple[str, ...]] = {}
    for one, other in pairs:
        found[one] = (*found.get(one, ()), other)
        found[other] = (*found.get(other, ()), one)
    return found


def _in_turns(names: Names) -> list[str]:
    """Return a name of each kind in turn, so that a beginning of the pack has something of all."""
    return [name for row in zip_longest(*names.values()) for name in row if name is not None]


ALSO_CALLED = _both_ways(_PAIRS)
CODE_POINT = {name: point for table in (CORE, MORE) for names in table.values() for name, point in names.items()}
KIND_OF = {name: kind for table in (CORE, MORE) for kind, names in table.items() for name in names}
SPRITES_BY_KIND = {kind: (*CORE.get(kind, ()), *MORE.get(kind, ())) for kind in dict.fromkeys(KIND_OF.values())}
# The order of the sheets: the core, then the rest, a name of each kind in turn.
SPRITES: tuple[str, ...] = (*chain.from_iterable(CORE.values()), *_in_turns(MORE))
