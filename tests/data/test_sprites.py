"""Sprites: two sheets of the same names, packs of them, folders of stamps, and the fonts beside them."""

from __future__ import annotations

import importlib.metadata
import random
from collections import Counter
from itertools import permutations

import numpy as np
import pytest
from PIL import Image

from phantrol.data.primer import fonts as font_module
from phantrol.data.primer import sample
from phantrol.data.primer.curriculum import Curriculum, work_out
from phantrol.data.primer.fonts import CHARACTERS, fonts, load_font
from phantrol.data.primer.sprite_names import (
    ALSO_CALLED,
    CODE_POINT,
    CORE,
    COUNTED_BY,
    KIND_OF,
    PART_OF,
    SPRITES,
    SPRITES_BY_KIND,
    UNCOUNTED,
)
from phantrol.data.primer.sprite_packs import BUNDLED, find_pack
from phantrol.data.primer.sprites import CELL_PX, COLUMNS, SHEETS, sheet_path, sprite
from phantrol.data.primer.vocabulary import COLOURS, SHAPES, SIZES, with_article
from phantrol.data.sources.primer import PrimerSource


def test_sheets_are_complete_small_and_credited():
    total = 0
    for style in SHEETS:
        path = sheet_path(style)
        total += len(path.read_bytes())
        with path.open("rb") as file:
            assert Image.open(file).size == (COLUMNS * CELL_PX, -(-len(SPRITES) // COLUMNS) * CELL_PX)
        for name in SPRITES:
            box = sprite(style, name, CELL_PX).getchannel("A").point(lambda alpha: 255 * (alpha > 64)).getbbox()
            assert max(box[2] - box[0], box[3] - box[1]) > 0.8 * CELL_PX, name
    assert total <= 1_600_000
    credits = sheet_path("noto").with_name("sprites.txt").read_text("utf-8")
    assert "Apache" in credits and "Creative Commons Attribution 4.0" in credits and str(len(SPRITES)) in credits


@pytest.mark.parametrize("style", SHEETS)
def test_no_two_drawings_of_a_sheet_look_alike(style):
    """On paper, at 32 px and blurred, the most alike are still apart."""
    drawn = []
    for name in SPRITES:
        paper, drawing = Image.new("RGB", (32, 32), "#f6f6f4"), sprite(style, name, 32)
        paper.paste(drawing, mask=drawing)
        drawn.append(np.asarray(paper.reduce(4), float).ravel())
    apart = np.abs(np.stack(drawn)[:, None] - np.stack(drawn)[None]).mean(-1) + 255 * np.eye(len(drawn))
    one, other = np.unravel_index(apart.argmin(), apart.shape)
    assert apart.min() > 7, (SPRITES[one], SPRITES[other])


def test_both_styles_draw_the_same_name_otherwise():
    assert all(sprite("noto", n, 48).tobytes() != sprite("twemoji", n, 48).tobytes() for n in SPRITES)


def test_names_are_many_and_can_be_told_in_a_sentence():
    assert len(SPRITES) == len(set(SPRITES)) == len(set(CODE_POINT.values())) and 290 <= len(SPRITES) <= 330
    words = {name: set(name.split()) for name in SPRITES}
    assert not [(a, b) for a, b in permutations(SPRITES, 2) if words[a] <= words[b]]
    taken = {*COLOURS, *SHAPES, *SIZES, *SPRITES_BY_KIND, "object", "left", "right", "above", "below"}
    assert not [name for name in SPRITES if words[name] & taken]
    assert {*UNCOUNTED, *COUNTED_BY} <= set(SPRITES)


def test_the_core_comes_first_and_a_beginning_has_something_of_all():
    assert sum(map(len, CORE.values())) == 64
    assert set(SPRITES[:64]) == {name for names in CORE.values() for name in names}
    assert {KIND_OF[name] for name in SPRITES[:100]} == set(SPRITES_BY_KIND)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("dog", "a dog"),
        ("owl", "an owl"),
        ("unicorn", "a unicorn"),
        ("umbrella", "an umbrella"),
        ("ufo", "a ufo"),
        ("bread", "bread"),
        ("scissors", "a pair of scissors"),
        ("grapes", "a bunch of grapes"),
        ("ice cream", "an ice cream"),
        ("red circle", "a red circle"),
    ],
)
def test_articles(name, said):
    assert with_article(name) == said


# -- packs


def test_packs_of_the_bundled_sprites():
    assert find_pack(None) is BUNDLED and BUNDLED.names == SPRITES
    assert find_pack(64).names == find_pack("64").names == SPRITES[:64]
    assert find_pack(64) is find_pack(64)
    assert "thing" in BUNDLED.by_kind and "thing" not in BUNDLED.named_kinds
    assert set(BUNDLED.named_kinds) >= {"animal", "food", "vehicle", "plant", "tool", "building"}


def test_a_pack_gives_each_name_as_often():
    rng, pack = random.Random(0), find_pack(64)
    seen = Counter(pack.pick(rng) for _ in range(6400))
    assert set(seen) == set(pack.names) and max(seen.values()) < 160 and min(seen.values()) > 55
    assert {pack.pick(rng, kind="food") for _ in range(500)} == set(pack.by_kind["food"])
    assert "dog" not in {pack.pick(rng, ["dog"], "animal") for _ in range(300)}
    # a kind that has no other name gives way
    assert pack.pick(rng, pack.by_kind["tool"], "tool") not in pack.by_kind["tool"]


@pytest.mark.parametrize("sprites", [0, 7, 10_000, "5"])
def test_numbers_out_of_range_are_named(sprites):
    with pytest.raises(ValueError, match=rf"sprites must be 8 to {len(SPRITES)} .* got {sprites}"):
        find_pack(sprites)


def test_a_curriculum_of_64_shows_and_says_no_others():
    others = set(SPRITES[64:])
    source = PrimerSource(scenes=("sprites",), sprites=64)
    shown, said = set(), set()
    for i in range(150):
        _, drawn = source.draw(i)
        shown |= {thing.name for thing in drawn.scene.things}
        said |= {r.text for turn in drawn.turns for r in turn.rejected} | {turn.answer for turn in drawn.turns}
    assert not (shown | said) & others and len(shown) > 55
    everything = PrimerSource(scenes=("sprites",))
    assert {thing.name for i in range(150) for thing in everything.draw(i)[1].scene.things} & others


def test_the_style_chooses_the_sheet():
    curriculum = Curriculum({"objects": 1.0}, captions=False, max_objects=1)
    plain, sketch = (sample(split, "objects", 3, 96, curriculum) for split in ("val", "test_style"))
    assert (plain.scene.style, sketch.scene.style) == ("plain", "sketch")
    assert plain.scene.stamps == sketch.scene.stamps == ""


# -- stamps


@pytest.fixture
def stamps(tmp_path):
    """A folder in the form that Tux Paint has."""
    names = {
        "animals": ["A frog.", "A cat.", "An owl.", "A singing dinosaur.", "A cat."],
        "food": ["A pear.", "Some bread.", "An orange."],
        "vehicles/air": ["A rocket."],
        "household": ["A key.", "A lamp.", "A cup!", ""],
        "people": ["A fireman."],
    }
    for folder, sentences in names.items():
        for i, sentence in enumerate(sentences):
            path = tmp_path / "stamps" / folder / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            drawing = Image.new("RGBA", (60, 40))
            drawing.paste((20 * i, 90, 200, 255), (10, 10, 50, 30))
            drawing.save(path)
            path.with_suffix(".txt").write_text(f"{sentence}\nde.utf8=Etwas anderes.\n", "utf-8")
    nameless = Image.new("RGBA", (8, 8), "red")
    nameless.save(tmp_path / "stamps" / "animals" / "nameless.png")
    return tmp_path / "stamps"


def test_a_folder_of_stamps_is_a_pack(stamps):
    pack = find_pack(str(stamps))
    assert dict(pack.items) == {
        "frog": "animal", "cat": "animal", "owl": "animal", "pear": "food", "bread": "food", "rocket": "vehicle",
        "key": "thing", "lamp": "thing", "cup": "thing",
    }  # fmt: skip
    source = PrimerSource(scenes=("sprites",), sprites=str(stamps), size_px=64)
    for i in range(30):
        _, drawn = source.draw(i)
        assert {thing.name for thing in drawn.scene.things} <= set(pack.names)
    drawing = sprite(str(stamps), "frog", 40)
    assert drawing.size == (40, 40) and drawing.getchannel("A").getbbox() == (0, 10, 40, 30)


def test_what_is_no_folder_of_stamps_is_named(stamps, tmp_path):
    with pytest.raises(ValueError, match=r"no folder of sprites at .*nowhere"):
        PrimerSource(sprites=str(tmp_path / "nowhere"))
    with pytest.raises(ValueError, match=r"0\.png"):
        PrimerSource(sprites=str(stamps / "animals" / "0.png"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"empty holds 0 stamps .* at least 8"):
        PrimerSource(sprites=str(tmp_path / "empty"))
    with pytest.raises(ValueError, match="holds 3 stamps"):
        PrimerSource(sprites=str(stamps / "animals"))


def test_a_broken_or_empty_stamp_is_named(stamps):
    (stamps / "food" / "0.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"food.0\.png is not a picture that can be used"):
        sprite(str(stamps), "pear", 41)
    Image.new("RGBA", (9, 9)).save(stamps / "food" / "1.png")
    with pytest.raises(ValueError, match=r"food.1\.png.*empty"):
        sprite(str(stamps), "bread", 41)


# -- fonts


def test_test_style_has_fonts_of_its_own():
    assert not set(fonts("train")) & set(fonts("test_style"))
    assert fonts("train") == fonts("val") == fonts("test_hard")
    assert len({name for split in ("train", "test_style") for name in fonts(split)}) == 3


@pytest.mark.parametrize("name", ["aileron", "cousine", "tinos"])
def test_every_font_has_every_character(name):
    font = load_font(name, 24)
    lacking = font.getmask("\ufffe").getbbox(), bytes(font.getmask("\ufffe"))
    for character in CHARACTERS.replace(" ", ""):
        assert (font.getmask(character).getbbox(), bytes(font.getmask(character))) != lacking, character
    assert font.layout_engine == 0  # basic
    assert load_font(name, 24) is font


def test_fonts_write_otherwise():
    drawn = {name: bytes(load_font(name, 24).getmask("Quick 42")) for name in ("aileron", "cousine", "tinos")}
    assert len(set(drawn.values())) == 3


def test_the_extra_is_refused_where_it_is_missing_and_used_where_it_is_there(monkeypatch, tmp_path):
    font_module._installed.cache_clear()
    monkeypatch.setattr(font_module, "entry_points", lambda group: ())
    with pytest.raises(ValueError, match=r"Roboto.*pip install 'phantrol\[fonts\]'"):
        fonts("test_style", extra=True)
    with pytest.raises(ValueError, match="not installed"):
        PrimerSource("test_style", extra_fonts=True)
    assert fonts("train", extra=True) == fonts("train")
    with pytest.raises(ValueError, match=r"unknown font 'Roboto'"):
        load_font("Roboto", 20)

    file = tmp_path / "font.ttf"
    file.write_bytes(font_module.font_path("tinos").read_bytes())
    (tmp_path / "fake_fonts.py").write_text(
        f"files = {{name: {str(file)!r} for name in {(*font_module.EXTRA, 'Other')!r}}}"
    )
    monkeypatch.syspath_prepend(tmp_path)
    entry = importlib.metadata.EntryPoint("fake", "fake_fonts:files", "fonts_ttf")
    monkeypatch.setattr(font_module, "entry_points", lambda group: (entry,) if group == "fonts_ttf" else ())
    font_module._installed.cache_clear()
    assert fonts("test_style", extra=True) == ("tinos", *font_module.EXTRA)
    source = PrimerSource("test_style", 224, {"chart_value": 1.0, "ocr_text": 1.0}, extra_fonts=True)
    assert {source.draw(i)[1].scene.font for i in range(60)} == {"tinos", *font_module.EXTRA}
    for cache in (font_module._installed, load_font, work_out):
        cache.cache_clear()


def test_what_could_be_said_of_a_drawing_is_neither_asked_for_nor_a_wrong_answer():
    """A shark is a fish: "Is there a fish?" would have no sure answer."""
    assert all(name in ALSO_CALLED[other] for name, others in ALSO_CALLED.items() for other in others)
    assert set(ALSO_CALLED) <= set(SPRITES)
    core = set(SPRITES[:64])  # no pair of it, so that samples of the core are what they were in version 2
    assert not any(core & set(others) for name, others in ALSO_CALLED.items() if name in core)
    said, shown = 0, Counter()
    for family in ("objects", "existence", "captions", "multiple_choice", "diagrams"):
        for i in range(600):
            drawn = sample("train", family, i, 192, Curriculum(scenes=("sprites", "diagrams"), questions=3))
            names = getattr(drawn.scene, "names", None) or [thing.name for thing in drawn.scene.things]
            drawings = names if set(names) <= set(SPRITES) else ()  # not the words of a diagram
            also = {other for name in drawings for other in ALSO_CALLED.get(name, ())}
            assert not also & set(names), names
            shown.update(also)
            for turn in drawn.turns:
                texts = [turn.question, *(wrong.text for wrong in turn.rejected)]
                words = set(" ".join(texts).lower().replace("?", " ").replace(".", " ").replace(",", " ").split())
                assert turn.task == "multiple_choice" or not also & words, (turn, names)
                said += 1
    assert said > 3000 and len(shown) > 15


def test_what_is_a_part_of_a_drawing_is_not_denied(monkeypatch):
    """A cake has a strawberry on it: "Is there a strawberry?" has no sure answer."""
    monkeypatch.setattr("phantrol.data.primer.generator.draw", lambda scene, size_px: None)
    assert {name for part, wholes in PART_OF.items() for name in (part, *wholes)} <= set(SPRITES)
    tasks = ("object_existence", "existence_random", "existence_adversarial")
    curriculum = Curriculum(dict.fromkeys(tasks, 1.0), captions=False, scenes=("sprites",), sprites=64)
    asked = 0
    for family in ("objects", "existence"):
        for i in range(1500):
            drawn = sample("test_hard", family, i, 64, curriculum)
            shown = {thing.name for thing in drawn.scene.things}
            for turn in drawn.turns:
                parts = [part for part in PART_OF if part in turn.question]
                asked += len(parts)
                assert turn.answer == "yes" or not any(shown & set(PART_OF[part]) for part in parts), turn
    assert asked > 100
