"""Every answer is true of its scene, every incorrect answer is not, and training never mentions a held-out pair.

The checker reads questions as text and the scene as a list of objects; it shares nothing with the code that asks.
"""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from phantrol.data.primer import SPLITS, TASKS, Curriculum, sample
from phantrol.data.primer.drawing import OUTLINES, draw
from phantrol.data.primer.generator import Turn
from phantrol.data.primer.scene import Scene, Thing
from phantrol.data.primer.vocabulary import COLOURS, HELD_OUT_PAIRS, KIND_OF, SHAPES, SPRITES

COLOUR, SHAPE = "|".join(COLOURS), "|".join(SHAPES)
NOUN = rf"\b(?:(?:{COLOUR}) (?:{SHAPE})|{'|'.join(SPRITES)})\b"
OBJECTS = ("shapes", "sprites")
CURRICULUM = Curriculum(scenes=OBJECTS)
BESIDE = Curriculum({"beside": 1}, questions=1, captions=False, scenes=OBJECTS)
SIDES = {"left": ("x", -1), "right": ("x", 1), "above": ("y", -1), "below": ("y", 1)}
FREE = ("captions", "false_premise", "explain_relation", "explain_size", "explain_count")
PLURAL = {"circles": "circle", "squares": "square", "triangles": "triangle", "stars": "star", "crosses": "cross",
          "hearts": "heart"}  # fmt: skip


def answers_to(question: str, things: tuple[Thing, ...]) -> set[str]:
    """Return all that is true as an answer."""
    text = question.lower()
    names = [f"{thing.colour} {thing.name}" if thing.colour else thing.name for thing in things]
    if "\n" in question:
        options = dict(re.findall(r"^([A-D])\. (.+)$", question, re.MULTILINE))
        true = answers_to(question.split("\n")[0], things)
        return {letter for letter, option in options.items() if option in true}
    if "left to right" in text:
        shape = re.search(rf"\b({'|'.join(PLURAL)})\b", text)
        if shape:
            return {_joined([thing.colour for thing in things if thing.name == PLURAL[shape[0]]])}
        colour = re.search(COLOUR, text)[0]
        return {_joined([thing.name for thing in things if thing.colour == colour])}
    if "corner" in text:
        noun = re.search(NOUN, text)[0]
        (thing,) = (thing for thing, name in zip(things, names, strict=True) if name == noun)
        return {f"{'top' if thing.y < 0.5 else 'bottom'} {'left' if thing.x < 0.5 else 'right'}"}
    if found := re.search(r"larger|smaller", text):
        first, second = (things[names.index(noun)] for noun in re.findall(NOUN, text))
        assert first.size != second.size
        return {thing.noun for thing in (first, second) if (thing.size == "large") == (found[0] == "larger")}
    if (found := re.search(r"left of|right of|above|below", text)) and " or " not in text:
        *asked, other = re.findall(NOUN, text)
        return _beside(asked[0] if asked else None, found[0], things[names.index(other)], things, names)
    if found := re.search(r"(left or (?:to the )?right|right or (?:to the )?left|above or below|below or above)", text):
        one, other = (things[names.index(noun)] for noun in _asked_pair(text))
        if "left" in found[1]:
            return {"left" if one.x < other.x else "right"}
        return {"above" if one.y < other.y else "below"}
    if found := re.search(r"leftmost|rightmost|highest|lowest", text):
        axis = "x" if found[0] in ("leftmost", "rightmost") else "y"
        places = [getattr(thing, axis) for thing in things]
        return {names[places.index(min(places) if found[0] in ("leftmost", "highest") else max(places))]}
    if re.search(r"how many|number of|count the", text):
        if found := re.search(rf"\b({COLOUR}) ({'|'.join(PLURAL)})\b", text):
            return {str(sum(thing.pair == (found[1], PLURAL[found[2]]) for thing in things))}
        if found := re.search(r"\b(animal|vehicle|plant|instrument|tool|building)s\b", text):
            return {str(sum(KIND_OF[thing.name] == found[1] for thing in things))}
        if found := re.search(rf"\b({COLOUR})\b", text):
            return {str(sum(thing.colour == found[1] for thing in things))}
        if found := re.search(rf"\b({SHAPE})(?:e?s)\b", text):
            return {str(sum(thing.name == found[1] for thing in things))}
        return {str(len(things))}
    if "size" in text or "large" in text:
        noun = re.search(NOUN, text)[0]
        return {thing.size for thing, name in zip(things, names, strict=True) if name == noun}
    if "what kind" in text or "which kind" in text or "the kind" in text:
        return {KIND_OF[thing.name] for thing in things}
    if "shape" in text:
        colour = re.search(COLOUR, text)[0]
        return {thing.name for thing in things if thing.colour == colour}
    if "color" in text:
        shape = re.search(SHAPE, text)[0]
        return {thing.colour for thing in things if thing.name == shape}
    if found := re.search(NOUN, text):
        return {"yes" if found[0] in names else "no"}
    if len(things) == 1 and re.search(r"this|the object[.?]|what is in the image|the object in the image", text):
        return {names[0]}
    raise AssertionError(f"the checker cannot read {question!r}")


def _beside(noun: str | None, side: str, other: Thing, things: tuple[Thing, ...], names: list[str]) -> set[str]:
    there = {
        name
        for thing, name in zip(things, names, strict=True)
        if thing is not other
        and {
            "left of": thing.x < other.x,
            "right of": thing.x > other.x,
            "above": thing.y < other.y,
            "below": thing.y > other.y,
        }[side]
    }
    return ({"yes"} if noun in there else {"no"}) if noun else there


def _joined(words: list[str]) -> str:
    return ", ".join(words[:-1]) + " and " + words[-1]


def sentence_is_true(turn: Turn, answer: str, things: tuple[Thing, ...]) -> bool:
    """Judge the sentences of false premises and explanations."""
    names = [f"{thing.colour} {thing.name}" for thing in things]
    if found := re.fullmatch(rf"There is no ({NOUN}|{SHAPE}|(?:{COLOUR}) object) in the image\.", answer):
        what = found[1].removesuffix(" object")
        return not any(what in (name, thing.name, thing.colour) for name, thing in zip(names, things, strict=True))
    if turn.task == "false_premise":
        try:
            return answer in answers_to(turn.question, things)
        except (AssertionError, ValueError):
            return False
    if turn.task == "explain_size":
        larger, smaller = re.fullmatch(
            rf"The ({NOUN}) is larger, because it is large and the ({NOUN}) is small\.", answer
        ).groups()
        return things[names.index(larger)].size == "large" and things[names.index(smaller)].size == "small"
    if turn.task == "explain_relation":
        said, one, side, other = re.fullmatch(rf"(Yes|No), the ({NOUN}) is (.+) the ({NOUN})\.", answer).groups()
        true = one in _beside(None, side, things[names.index(other)], things, names)
        asked = next(word for word in ("left of", "right of", "above", "below") if f" {word} " in turn.question)
        return true and (said == "Yes") == (asked == side)
    number, listed = re.fullmatch(r"(\d): (.+)\.", answer).groups()
    asked = re.search(rf"\b({'|'.join([*PLURAL, *COLOURS])})\b", turn.question)[0]
    right = [n for n, t in zip(names, things, strict=True) if PLURAL.get(asked, asked) in (t.name, t.colour)]
    return int(number) == len(right) and re.findall(NOUN, listed) == right


def caption_is_true(caption: str, things: tuple[Thing, ...]) -> bool:
    phrases = re.findall(rf"(?:(small|large) )?({NOUN})", caption)
    return phrases == [
        (thing.size or "", f"{thing.colour} {thing.name}" if thing.colour else thing.name)
        for thing in sorted(things, key=lambda thing: thing.x)
    ]


def _asked_pair(text: str) -> tuple[str, str]:
    """The thing asked about comes after "is", the other one after "of", "above" or "below"."""
    nouns = re.findall(NOUN, text)
    if re.match(r"(left|right|above|below) or", text):  # "Left or right of the other, where is the thing?"
        nouns = nouns[::-1]
    assert len(nouns) == 2
    return nouns[0], nouns[1]


def _is_right(turn: Turn, answer: str, things: tuple[Thing, ...]) -> bool:
    if turn.task == "captions":
        return caption_is_true(answer, things)
    if turn.task in FREE:
        return sentence_is_true(turn, answer, things)
    return answer in answers_to(turn.question, things)


@pytest.fixture(scope="module")
def drawn():
    return {
        split: [sample(split, f, i, curriculum=CURRICULUM) for f in _families(split) for i in range(120)]
        for split in SPLITS
    }


def _families(split):
    """Return the families that ask about objects."""
    kinds = {kind for kind in OBJECTS if kind in SPLITS[split].scene_kinds}
    return list(dict.fromkeys(task.family for task in TASKS.values() if kinds & set(task.kinds)))


@pytest.mark.parametrize("split", SPLITS)
def test_every_answer_is_true_and_every_incorrect_one_is_false(drawn, split):
    tasks = set()
    for one in drawn[split]:
        for turn in one.turns:
            tasks.add(turn.task)
            assert _is_right(turn, turn.answer, one.scene.things), (turn, one.scene)
            if turn.task not in FREE:
                assert len(answers_to(turn.question, one.scene.things)) == 1, turn
                assert turn.answer in turn.pool
            wrong, vague = turn.rejected
            assert (wrong.kind, vague.kind) == ("incorrect", "ambiguous")
            assert not _is_right(turn, wrong.text, one.scene.things), (turn, one.scene)
            assert vague.text not in (turn.answer, wrong.text) and not (
                turn.task == "captions" and caption_is_true(vague.text, one.scene.things)
            )
    assert len(tasks) >= (25 if split == "test_comp" else 29)


def test_the_checker_sees_a_lie(drawn):
    """Negative control: the same questions about another scene are often answered wrongly."""
    one, lies, total = drawn["train"], 0, 0
    for i, asked in enumerate(one):
        for turn in asked.turns:
            if turn.task in ("count", "captions"):
                total += 1
                lies += not _is_right(turn, turn.answer, one[i - 7].scene.things)
    assert lies > 0.5 * total > 50


def test_vague_answers_hedge(drawn):
    turns = [turn for one in drawn["train"] for turn in one.turns if turn.task not in FREE]
    hedges = [turn.rejected[1].text for turn in turns]
    share = sum(" or " in text or text == "maybe" for text in hedges) / len(hedges)
    assert share > 0.8


def test_hedges_are_right_answers_elsewhere():
    answers = [turn.answer for i in range(100) for turn in sample("train", "text_only", i).turns]
    assert any(" or " in answer for answer in answers) and "maybe" in answers and "animal" in answers


def mentions(turn: Turn) -> set[tuple[str, str]]:
    """Return every colour-shape pair that the turn says or suggests."""
    said = [turn.question, turn.answer, *(rejected.text for rejected in turn.rejected)]
    pairs = {pair for text in said for pair in re.findall(rf"\b({COLOUR}) ({SHAPE})", text)}
    colours, shapes = (set(re.findall(rf"\b({words})", turn.question.split("\n")[0])) for words in (COLOUR, SHAPE))
    options = " ".join([*turn.question.split("\n")[1:], *said[1:]])
    if turn.task in ("shape", "multiple_choice") and len(colours) == 1 and not shapes:
        pairs |= {(colour, shape) for colour in colours for shape in re.findall(rf"\b({SHAPE})\b", options)}
    if turn.task in ("colour_one", "colour_several", "multiple_choice") and len(shapes) == 1 and not colours:
        pairs |= {(colour, shape) for shape in shapes for colour in re.findall(rf"\b({COLOUR})\b", options)}
    return pairs


@pytest.mark.parametrize("split", ["train", "val", "test_style", "test_para", "test_hard"])
def test_held_out_pairs_are_never_mentioned_nor_drawn(drawn, split):
    for one in drawn[split]:
        assert not {(thing.colour, thing.name) for thing in one.scene.things} & set(HELD_OUT_PAIRS)
        for turn in one.turns:
            assert not mentions(turn) & set(HELD_OUT_PAIRS), turn


def test_held_out_pairs_are_found_where_they_are(drawn):
    """Negative control of the search, and what `test_comp` is for."""
    for task in ("shape", "colour_several", "existence", "left_right", "captions", "multiple_choice"):
        turns = [turn for one in drawn["test_comp"] for turn in one.turns if turn.task == task]
        about = sum(bool(mentions(turn) & set(HELD_OUT_PAIRS)) for turn in turns)
        assert turns and about / len(turns) > 0.85, task


def test_no_held_out_pair_hides_in_the_texts_without_picture():
    for split in ("train", "val"):
        for i in range(200):
            assert not any(mentions(turn) for turn in sample(split, "text_only", i).turns)


def test_each_colour_misses_one_shape_and_no_shape_is_missing_everywhere():
    assert [colour for colour, _ in HELD_OUT_PAIRS] == list(COLOURS)
    assert {shape for _, shape in HELD_OUT_PAIRS} == set(SHAPES)


@pytest.mark.parametrize("split", SPLITS)
def test_objects_lie_in_the_picture_and_do_not_overlap(drawn, split):
    for one in drawn[split]:
        things = one.scene.things
        for i, thing in enumerate(things):
            assert min(thing.x, thing.y) - thing.radius >= 0 and max(thing.x, thing.y) + thing.radius <= 1
            for other in things[:i]:
                apart = max(abs(thing.x - other.x), abs(thing.y - other.y))
                assert apart > thing.radius + other.radius
        assert list(things) == sorted(things, key=lambda thing: thing.x)


def test_what_is_asked_for_beside_a_thing_is_clearly_there_and_nothing_else_nearly():
    for split, apart in (("train", 0.14), ("test_hard", 0.098)):
        for i in range(100):
            (turn,), things = (one := sample(split, "spatial", i, curriculum=BESIDE)).turns, one.scene.things
            (place,) = (thing for thing in things if re.findall(NOUN, turn.question)[-1] == thing.noun)
            axis, sign = SIDES[re.search("left|right|above|below", turn.question)[0]]
            far = {t.noun: sign * (getattr(t, axis) - getattr(place, axis)) for t in things if t is not place}
            assert far.pop(turn.answer) >= apart - 1e-9 and all(other <= -0.06 for other in far.values()), turn


@pytest.mark.parametrize("style", ["plain", "sketch"])
@pytest.mark.parametrize("name", [*OUTLINES, "dog"])
def test_what_is_drawn_stays_in_its_box_and_fills_it(name, style):
    colour = "blue" if name in OUTLINES else None
    for angle in (-12.0, 0.0, 12.0):
        thing = Thing(name, colour, None, 0.5, 0.5, 0.25, angle if colour else 0.0)
        scene = Scene("shapes", (thing,), style, 5)
        box = _ink(draw(scene, 224), draw(replace(scene, things=()), 224))
        assert min(box[:2]) >= 0.25 * 224 - 2 and max(box[2:]) <= 0.75 * 224 + 2
        assert max(box[2] - box[0], box[3] - box[1]) > 0.75 * 0.5 * 224


def _ink(picture, paper):
    from PIL import ImageChops

    return ImageChops.difference(picture, paper).convert("L").point(lambda v: 255 * (v > 24)).getbbox()
