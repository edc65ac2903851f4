"""What few draws or few sprites lead to: no crash, no search without end, no answer that a question gives away."""

from __future__ import annotations

import re

import pytest
from PIL import Image

from phantrol.data.primer import Curriculum, sample
from phantrol.data.primer.curriculum import work_out
from phantrol.data.primer.multiple_choice import OPTION
from phantrol.data.primer.sprite_packs import SpritePack, find_pack
from phantrol.data.primer.words import COLUMNS

PX = 192


@pytest.fixture(autouse=True)
def undrawn(monkeypatch):
    monkeypatch.setattr("phantrol.data.primer.generator.draw", lambda scene, size_px: None)


def test_a_picture_with_all_objects_of_a_colour_is_not_asked_to_explain_their_number():
    curriculum = Curriculum({"count_by_colour": 1.0, "count_by_shape": 1.0, "explain_count": 1.0}, captions=False)
    asked = [turn.task for i in range(60) for turn in sample("test_hard", "count", i, 64, curriculum).turns]
    assert asked.count("explain_count") > 10


# -- few sprites


@pytest.fixture(params=["animals", "misc"])
def stamps_of_one_kind(request, tmp_path):
    folder = tmp_path / request.param
    folder.mkdir()
    for name in ("frog", "dog", "cat", "owl", "bee", "cow", "hen", "ram", "fox"):
        Image.new("RGBA", (9, 9), "red").save(folder / f"{name}.png")
        (folder / f"{name}.txt").write_text(f"A {name}.")
    return str(tmp_path)


def _refuses(sprites, task):
    with pytest.raises(ValueError, match=rf"sprites \(.* has no task {task}; it has shape, "):
        work_out(Curriculum({task: 1.0}, sprites=sprites), "train", 64)


@pytest.mark.parametrize("sprites", [8, 16, 20])
def test_a_beginning_with_animals_alone_asks_no_kinds(sprites):
    for task in ("kinds", "count_by_kind"):
        _refuses(sprites, task)
    curriculum = Curriculum(scenes=("sprites",), sprites=sprites)
    asked = {
        turn.task
        for split in ("train", "test_hard")
        for family in work_out(curriculum, split, 64).leads
        for i in range(20)
        for turn in sample(split, family, i, 64, curriculum).turns
    }
    assert {"objects", "object_existence", "multiple_choice"} < asked


def test_stamps_of_one_kind_are_not_asked_for_it(stamps_of_one_kind):
    for task in ("kinds", "count_by_kind"):
        _refuses(stamps_of_one_kind, task)


def test_a_kind_is_counted_where_a_picture_can_be_full_of_it_and_full_of_others():
    assert find_pack(22).countable_kinds(2) == ("animal",) and find_pack(22).countable_kinds(3) == ()
    assert find_pack(None).countable_kinds(6) == ("animal", "vehicle", "instrument")
    _refuses(22, "count_by_kind")  # two names are no animals, and pictures have up to three objects
    curriculum = Curriculum({"count_by_kind": 1.0}, captions=False, max_objects=2, sprites=22)
    assert {sample("train", "count", i, 64, curriculum).turns[0].answer for i in range(40)} == {"0", "1", "2"}
    # a shark bars a fish beside it, so the two are not counted on
    pack = SpritePack((("dog", "animal"), ("cat", "animal"), ("shark", "other"), ("fish", "other")))
    assert pack.countable_kinds(1) == ()


# -- the values of what was made for a sum


def _asked_values(lead: str, family: str, follow: str, only_sums: bool = True) -> list[tuple[str, str]]:
    """Return (lead question, later question) of task `follow` where the latter is about a single value."""
    curriculum = Curriculum({lead: 1.0, follow: 1.0}, captions=False, questions=4)
    found = []
    for i in range(150):
        first, *later = sample("train", family, i, PX, curriculum).turns
        if first.task != lead or (only_sums and not re.search(r"\bsum\b|add up|together", first.question)):
            continue
        for turn in later:
            question, answer = (
                turn.question.split("\n")[0],
                dict(OPTION.findall(turn.question)).get(turn.answer, turn.answer),
            )
            if turn.task == follow and (answer.isdecimal() or re.search(r"\d", question)):
                found.append((first.question.split("\n")[0], question))
    return found


@pytest.mark.parametrize(
    ("lead", "family", "follow"),
    [("table_sum", "tables", "choice_tables"), ("choice_tables", "multiple_choice", "table_cell")],
)
def test_multiple_choice_hides_no_column_that_was_made_for_its_sum(lead, family, follow):
    """Such values are small, so they are not asked for: whoever has read only questions would know that."""
    asked = _asked_values(lead, family, follow)
    assert len(asked) > 10
    for first, question in asked:
        summed = [name for name in COLUMNS if re.search(rf"\b{name}\b", first)]
        assert len(summed) == 1 and not re.search(rf"\b{summed[0]}\b", question), (first, question)


@pytest.mark.parametrize(
    ("lead", "family", "follow"),
    [("chart_sum", "charts", "choice_charts"), ("choice_charts", "multiple_choice", "chart_value")],
)
def test_nor_a_chart_that_was_made_for_a_sum(lead, family, follow):
    assert _asked_values(lead, family, follow) == []
    assert len(_asked_values("chart_value", "charts", "choice_charts", only_sums=False)) > 10  # made for nothing
