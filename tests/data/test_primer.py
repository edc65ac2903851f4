"""Primer as a source: the same everywhere, splits apart, knobs that do what they say."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import time
from collections import Counter

import pytest
from PIL import Image

from phantrol.data.primer import FAMILIES, SPLITS, TASKS, Curriculum, sample, text_only, wordings
from phantrol.data.primer.sprites import CELL_PX, SHEETS, sheet_path, sprite
from phantrol.data.primer.vocabulary import HELD_OUT_PAIRS, SHAPES, SPRITES
from phantrol.data.sources.primer import SOURCE, PrimerSource

# Texts of version 1. A sample that changes needs a new VERSION, else cached evaluations and seeds lie.
TEXTS_OF_VERSION_1 = "75c83e42a2e5aabbeb647d0b2b074f2467a7e1d553a654fb6408994f90441045"

DIGEST = """
import hashlib
from phantrol.data.sources.primer import PrimerSource
from phantrol.data.primer import SPLITS
texts, pixels = hashlib.sha256(), hashlib.sha256()
for split in SPLITS:
    source = PrimerSource(split)
    for i in range(25):
        for example in source[i]:
            parts = [example.id, example.task, *(m.text for m in example.messages), *(r.text for r in example.rejected)]
            texts.update(chr(0).join(parts).encode())
            for picture in example.messages[0].pictures:
                pixels.update(picture.tobytes())
print(texts.hexdigest(), pixels.hexdigest())
"""


def test_samples_are_the_same_in_any_process():
    digests = []
    for hash_seed in ("1", "2"):
        env = os.environ | {"PYTHONHASHSEED": hash_seed}
        ran = subprocess.run([sys.executable, "-c", DIGEST], env=env, capture_output=True, text=True, check=True)
        digests.append(ran.stdout)
    assert digests[0] == digests[1]
    assert digests[0].split()[0] == TEXTS_OF_VERSION_1


def test_a_sample_does_not_depend_on_what_was_drawn_before():
    source = PrimerSource()
    first = [_fingerprint(source[i]) for i in range(20)]
    assert [_fingerprint(source[i]) for i in reversed(range(20))] == first[::-1]


def test_the_size_changes_the_pixels_only():
    for i in range(20):
        small, large = PrimerSource(size_px=64)[i], PrimerSource(size_px=224)[i]
        assert [_texts(example) for example in small] == [_texts(example) for example in large]
        for pictures, side in ((small[0].messages[0].pictures, 64), (large[0].messages[0].pictures, 224)):
            assert all(picture.size == (side, side) and picture.mode == "RGB" for picture in pictures)


def test_a_group_shares_one_picture_object():
    source = PrimerSource()
    for i in range(40):
        group = source[i]
        pictures = [example.messages[0].pictures for example in group]
        assert len({id(picture) for few in pictures for picture in few}) <= 1
        assert all(len(few) == (group[0].task != "text_only") for few in pictures)
        questions = [example.messages[0].text for example in group]
        assert len(set(questions)) == len(questions)


def test_splits_share_no_picture():
    seen: dict[str, str] = {}
    for split in SPLITS:
        source = PrimerSource(split, questions_per_picture=1)
        for i in range(300):
            for picture in source[i][0].messages[0].pictures:
                digest = hashlib.sha256(picture.tobytes()).hexdigest()
                assert seen.setdefault(digest, split) == split


def test_val_is_drawn_like_train():
    counts = [Counter(), Counter()]
    for count, split in zip(counts, ("train", "val"), strict=True):
        source = PrimerSource(split)
        for i in range(600):
            count.update(example.task for example in source[i])
    train, val = counts
    assert set(train) == set(val) == set(TASKS)
    for task in train:
        assert abs(train[task] - val[task]) < 5 * (train[task] + val[task]) ** 0.5


def test_test_comp_is_about_held_out_pairs():
    curriculum = Curriculum(questions=3, captions=False)
    for family in ("attributes", "spatial"):
        for i in range(50):
            scene = sample("test_comp", family, i, curriculum=curriculum).scene
            assert {thing.pair for thing in scene.things} <= set(HELD_OUT_PAIRS)


def test_test_comp_asks_yes_and_no_alike_and_half_of_the_noes_are_adversarial():
    curriculum = Curriculum({"existence": 1}, questions=1, captions=False, min_objects=2)
    answers, unbound = Counter(), 0
    for i in range(600):
        drawn = sample("test_comp", "existence", i, curriculum=curriculum)
        turn = drawn.turns[0]
        pair = next(pair for pair in HELD_OUT_PAIRS if f" {' '.join(pair)}" in turn.question)
        answers[turn.answer] += 1
        things = drawn.scene.things
        shown = {thing.colour for thing in things} | {thing.name for thing in things}
        unbound += turn.answer == "no" and shown.issuperset(pair)
    assert abs(answers["yes"] - 300) < 50
    assert 0.4 < unbound / answers["no"] < 0.65


def test_test_hard_has_more_objects_than_training():
    numbers = {split: set() for split in ("train", "test_hard")}
    for split, seen in numbers.items():
        for family in ("count", "existence", "objects"):
            for i in range(60):
                seen.add(len(sample(split, family, i).scene.things))
    assert numbers["train"] == {1, 2, 3} and numbers["test_hard"] == {4, 5, 6}


def test_test_style_draws_the_same_things_otherwise():
    assert {sample(split, "objects", 0).scene.style for split in ("train", "val", "test_hard")} == {"plain"}
    assert sample("test_style", "objects", 0).scene.style == "sketch"
    for name in SPRITES:
        assert sprite("noto", name, 64).tobytes() != sprite("twemoji", name, 64).tobytes()


def test_held_out_wordings_are_new_and_say_known_words():
    tables = [*wordings.WORDINGS.values(), *text_only.WORDINGS.values()]
    known = {word for train, _ in tables for text in train for word in _words(text)}
    for train, held_out in tables:
        assert train and held_out and not set(train) & set(held_out)
        assert {word for text in held_out for word in _words(text)} <= known
    for train, held_out in wordings.WORDINGS.values():
        assert len(train) >= 6 and len(held_out) >= 2


def test_test_para_uses_held_out_wordings_only():
    train, para = (_question_shapes(split) for split in ("train", "test_para"))
    assert train and para and not train & para


def test_wordings_can_be_limited():
    source = PrimerSource(wordings=1, tasks={"count": 1}, questions_per_picture=1, captions=False)
    assert {source[i][0].messages[0].text for i in range(30)} == {wordings.WORDINGS["count"][0][0]}


def test_knobs():
    source = PrimerSource(
        tasks={"shape": 1, "existence": 2}, max_objects=1, questions_per_picture=2, captions=False, pictures=50
    )
    assert len(source) == 50
    for i in range(50):
        assert {example.task for example in source[i]} <= {"shape", "existence"}
        assert 1 <= len(source[i]) <= 2
    with pytest.raises(IndexError):
        source[50]
    assert {example.task for example in PrimerSource(captions=True)[0]} >= {"captions"}
    assert _fingerprint(PrimerSource(start=7)[0]) == _fingerprint(PrimerSource()[7])


def test_families_take_turns_by_weight():
    source = PrimerSource(tasks={"shape": 1, "count": 3})
    families = Counter(source.family(i) for i in range(1000))
    assert abs(families["attributes"] - 250) <= 3 and abs(families["count"] - 750) <= 3


def test_every_family_leads_with_its_own_task():
    for family in FAMILIES:
        for i in range(10):
            assert TASKS[sample("train", family, i).turns[0].task].family == family


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"split": "exam"}, "exam.*train, val, test_comp"),
        ({"size_px": 32}, "64 to 224, got 32"),
        ({"size_px": 448}, "64 to 224, got 448"),
        ({"tasks": {"shapes": 1}}, "shapes; use some of shape, colour_one"),
        ({"tasks": {"shape": 0}}, "above 0, got 0 for shape"),
        ({"tasks": {}}, "none; use some of"),
        ({"tasks": {"left_right": 1}, "max_objects": 1}, "no task left_right"),
        ({"tasks": {"objects": 1}, "split": "test_comp"}, "no task objects"),
        ({"max_objects": 7}, "<= 6, got 1 to 7"),
        ({"min_objects": 3, "max_objects": 2}, "got 3 to 2"),
        ({"questions_per_picture": 0}, "at least 1, got 0"),
        ({"wordings": 0}, "at least 1"),
        ({"pictures": 0}, "got 0 and 0"),
    ],
)
def test_wrong_arguments_are_named(options, words):
    with pytest.raises(ValueError, match=words):
        PrimerSource(**options)


def test_an_unknown_family_is_named():
    with pytest.raises(ValueError, match=r"'colours'.*attributes, existence"):
        sample("train", "colours", 0)


def test_sources_are_plain_values():
    assert SOURCE is PrimerSource
    assert PrimerSource(tasks={"shape": 1.0}) == PrimerSource(tasks=(("shape", 1.0),))
    assert hash(PrimerSource()) == hash(PrimerSource())


def test_sprite_sheets_are_complete_small_and_credited():
    total = 0
    for style in SHEETS:
        path = sheet_path(style)
        total += len(path.read_bytes())
        with path.open("rb") as file:
            assert Image.open(file).size[0] % CELL_PX == 0
        drawings = {sprite(style, name, CELL_PX).tobytes() for name in SPRITES}
        assert len(drawings) == len(SPRITES) >= 60
        for name in SPRITES:
            box = sprite(style, name, CELL_PX).getchannel("A").point(lambda alpha: 255 * (alpha > 64)).getbbox()
            assert max(box[2] - box[0], box[3] - box[1]) > 0.8 * CELL_PX, name
    assert total <= 400_000
    credits = sheet_path("noto").with_name("sprites.txt").read_text()
    assert "Apache" in credits and "Creative Commons Attribution 4.0" in credits


def test_names_do_not_collide():
    assert not set(SPRITES) & set(SHAPES)
    assert len(set(SPRITES)) == len(SPRITES)


def test_it_draws_fast_enough_to_feed_a_training_run():
    source = PrimerSource()
    source[0]
    began = time.process_time()
    for i in range(300):
        source[i]
    assert 300 / (time.process_time() - began) > 300


def _texts(example):
    return (example.id, example.task, *(m.text for m in example.messages), example.rejected)


def _fingerprint(group):
    return [(_texts(example)[1:], *(p.tobytes() for p in example.messages[0].pictures)) for example in group]


def _words(text):
    return {word.strip(".,?").lower() for word in text.split() if "{" not in word}


def _question_shapes(split):
    """Which wordings a split used, found by their fixed words, over tasks that name few things."""
    source = PrimerSource(split, tasks={"count": 1, "objects": 1, "captions": 1}, questions_per_picture=4)
    fixed = {text for name in ("count", "this", "caption") for half in wordings.WORDINGS[name] for text in half}
    return {example.messages[0].text for i in range(200) for example in source[i]} & fixed
