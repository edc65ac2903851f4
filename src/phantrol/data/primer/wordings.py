"""How Primer puts its questions: for each template, wordings to train on and wordings held out for `test_para`.

Held-out wordings say known words in a new order, so that a model that never read anything else can understand them.
"""

from __future__ import annotations

import random

Wordings = tuple[str, ...]
Template = tuple[Wordings, Wordings]  # (wordings of training, wordings of test_para)

FRAMES = (
    "What is {}?",
    "What is {} in the image?",
    "Name {}.",
    "Tell me {}.",
    "Can you tell me {}?",
    "Look at the image and name {}.",
)
HELD_OUT_FRAMES = ("In the image, what is {}?", "Look at the image and tell me {}.")


def frame(*phrases: str, more: Wordings = ()) -> Template:
    """Return six wordings that ask for the first phrase, two for each other phrase, and two held out; plus `more`."""
    first, *others = phrases
    train = [text.replace("{}", first) for text in FRAMES]
    train += [text.replace("{}", phrase) for phrase in others for text in FRAMES[:2]]
    return (*train, *more), tuple(text.replace("{}", first) for text in HELD_OUT_FRAMES)


# template -> (wordings of training, wordings of test_para)
WORDINGS: dict[str, Template] = {
    "shape": (
        (
            "What shape is the {colour} object?",
            "What is the shape of the {colour} object?",
            "Which shape is the {colour} object?",
            "Name the shape of the {colour} object.",
            "What shape is the {colour} object in the image?",
            "Which shape does the {colour} object have?",
        ),
        ("In the image, what shape is the {colour} object?", "What shape does the {colour} object have?"),
    ),
    "colour": (
        (
            "What color is the {shape}?",
            "What is the color of the {shape}?",
            "Which color is the {shape}?",
            "Name the color of the {shape}.",
            "What color is the {shape} in the image?",
            "Which color does the {shape} have?",
        ),
        ("In the image, what color is the {shape}?", "What color does the {shape} have?"),
    ),
    "size": (
        (
            "Is the {thing} large or small?",
            "Is the {thing} small or large?",
            "What size is the {thing}?",
            "What is the size of the {thing}?",
            "Which size is the {thing}?",
            "Name the size of the {thing}.",
        ),
        ("In the image, is the {thing} large or small?", "What size does the {thing} have?"),
    ),
    "existence": (
        (
            "Is there {a_thing} in the image?",
            "Is there {a_thing}?",
            "Does the image show {a_thing}?",
            "Is {a_thing} in the image?",
            "Can you see {a_thing}?",
            "Does the image have {a_thing}?",
        ),
        ("In the image, is there {a_thing}?", "Can you see {a_thing} in the image?"),
    ),
    "count": (
        (
            "How many objects are there?",
            "How many objects are in the image?",
            "How many objects does the image show?",
            "How many objects can you see?",
            "What is the number of objects?",
            "Count the objects.",
        ),
        ("In the image, how many objects are there?", "Count the objects in the image."),
    ),
    "count_by_colour": (
        (
            "How many {colour} objects are there?",
            "How many {colour} objects are in the image?",
            "How many {colour} objects does the image show?",
            "How many objects are {colour}?",
            "What is the number of {colour} objects?",
            "Count the {colour} objects.",
        ),
        ("In the image, how many {colour} objects are there?", "Count the {colour} objects in the image."),
    ),
    "count_by_shape": (
        (
            "How many {shapes} are there?",
            "How many {shapes} are in the image?",
            "How many {shapes} does the image show?",
            "How many {shapes} can you see?",
            "What is the number of {shapes}?",
            "Count the {shapes}.",
        ),
        ("In the image, how many {shapes} are there?", "Count the {shapes} in the image."),
    ),
    "left_right": (
        (
            "Is the {thing} left or right of the {other}?",
            "Is the {thing} right or left of the {other}?",
            "Is the {thing} to the left or to the right of the {other}?",
            "Where is the {thing}, left or right of the {other}?",
            "Where is the {thing}, right or left of the {other}?",
            "Is the {thing} to the right or to the left of the {other}?",
        ),
        (
            "In the image, is the {thing} left or right of the {other}?",
            "Left or right of the {other}, where is the {thing}?",
        ),
    ),
    "above_below": (
        (
            "Is the {thing} above or below the {other}?",
            "Is the {thing} below or above the {other}?",
            "Is the {thing} placed above or below the {other}?",
            "Where is the {thing}, above or below the {other}?",
            "Where is the {thing}, below or above the {other}?",
            "Is the {thing} placed below or above the {other}?",
        ),
        (
            "In the image, is the {thing} above or below the {other}?",
            "Above or below the {other}, where is the {thing}?",
        ),
    ),
    "outermost": (
        (
            "What is the {side} object?",
            "Which is the {side} object?",
            "Name the {side} object.",
            "What is the {side} object in the image?",
            "Which object is the {side}?",
            "What object is the {side}?",
        ),
        ("In the image, what is the {side} object?", "Name the {side} object in the image."),
    ),
    "this": (
        (
            "What is this?",
            "What object is this?",
            "What is in the image?",
            "Name the object.",
            "What is the object?",
            "Which object is this?",
        ),
        ("What is the object in the image?", "Name the object in the image."),
    ),
    "kind": (
        (
            "What kind of thing is this?",
            "Which kind of thing is this?",
            "What kind of thing is in the image?",
            "What kind of thing is the object?",
            "Name the kind of the object.",
            "Which kind of thing does the image show?",
        ),
        ("In the image, what kind of thing is this?", "What kind of thing does the image show?"),
    ),
    "caption": (
        (
            "Describe the image.",
            "What does the image show?",
            "Describe what you see.",
            "What can you see?",
            "What do you see in the image?",
            "Describe the objects.",
        ),
        ("Describe the objects in the image.", "What can you see in the image?"),
    ),
    "letter": (
        (
            "Answer with the letter.",
            "Answer with one letter.",
            "Name the right letter.",
            "Which letter is right?",
            "Name the letter of the right answer.",
            "Which letter has the right answer?",
        ),
        ("Answer with the right letter.", "What letter is right?"),
    ),
}


def choose_wording(rng: random.Random, wordings: Template, held_out: bool, limit: int | None) -> str:
    """Return one of (wordings of training, wordings of test_para); `limit` keeps only the first so many of training."""
    train, para = wordings
    return rng.choice(para if held_out else train[:limit])
