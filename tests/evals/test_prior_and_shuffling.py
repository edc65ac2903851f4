from __future__ import annotations

import pytest
from PIL import Image

from phantrol.evals.benchmark import Row, question_text
from phantrol.evals.prior import TextPrior, answer_by_halves
from phantrol.evals.shuffling import shuffle_pictures


def row(name, question, answer="", *pictures, task="t"):
    content = [*({"type": "image", "image": picture} for picture in pictures), {"type": "text", "text": question}]
    return Row(name, task, [{"role": "user", "content": content}], answer)


def pictures_of(chat):
    return [part["image"] for part in chat[0]["content"] if part["type"] == "image"]


def hide_colours(question):
    return question.replace("red", "COLOUR").replace("blue", "COLOUR")


def test_the_prior_falls_back_from_question_to_form_to_task():
    learnt = [
        row("1", "is it red?", "yes"),
        row("2", "is it red?", "yes"),
        row("3", "is it red?", "no"),
        *(row(str(i), "is it blue?", "no") for i in range(9)),
        *(row(str(i), "how many?", "2") for i in range(30)),
        row("x", "other", "z", task="u"),
    ]
    prior = TextPrior(learnt, hide_colours)
    assert prior.answer(row("a", "is it red?")) == "yes"  # this very question
    assert prior.answer(row("a", "is it COLOUR?")) == "no"  # its form: 10 no, 2 yes
    assert prior.answer(row("a", "where?")) == "2"  # its task
    assert prior.answer(row("a", "where?", task="u")) == "z"
    assert prior.answer(row("a", "where?", task="v")) == ""


def test_of_equally_frequent_answers_the_prior_takes_the_first_in_the_alphabet():
    prior = TextPrior([row("1", "which?", "b"), row("2", "which?", "a")], str)
    assert prior.answer(row("x", "which?")) == "a"


def test_without_training_texts_a_row_never_teaches_itself():
    rows = [row(str(i), f"question {i}", f"answer {i}") for i in range(40)]  # each answer occurs once
    answers = answer_by_halves(rows, str, range(40))
    assert not any(said == each.answer for said, each in zip(answers, rows, strict=True))
    assert all(answers)


def test_without_training_texts_what_the_questions_give_away_is_found():
    rows = [row(str(i), f"question {i % 2}", f"answer {i % 2}") for i in range(40)]
    assert answer_by_halves(rows, str, range(40)) == [each.answer for each in rows]


@pytest.mark.parametrize("question", ["Is circle {} larger?", "Is it? {}{}"])
def test_a_question_and_its_twin_with_the_other_answer_tell_nothing(question):
    """As in HallusionBench (two figures, one text) and in MME (two texts about one picture)."""
    pairs = [(name, answer) for name in range(30) for answer in ("yes", "no")]
    rows = [row(f"{name}/{answer}", question.format(name, answer), answer) for name, answer in pairs]
    said = answer_by_halves(rows, str, [name for name, _ in pairs])
    assert sum(text == each.answer for text, each in zip(said, rows, strict=True)) == 30  # of 60


def test_a_task_of_two_groups_learns_one_from_the_other():
    pairs = [(task, name, answer) for task in range(14) for name in range(2) for answer in ("yes", "no")]
    rows = [row(f"{task}/{name}/{answer}", "Is it?", answer, task=f"t{task}") for task, name, answer in pairs]
    said = answer_by_halves(rows, str, [(task, name) for task, name, _ in pairs])
    assert "" not in said
    assert sum(text == each.answer for text, each in zip(said, rows, strict=True)) == 28  # of 56


def test_the_text_of_a_chat():
    chat = [
        {"role": "system", "content": "brief"},
        {"role": "user", "content": [{"type": "image", "image": "a.png"}, {"type": "text", "text": "what?"}]},
    ]
    assert question_text(Row("1", "t", chat, "x")) == "brief\nwhat?"


def test_no_row_keeps_its_picture_and_each_picture_is_used_once():
    rows = [row(str(i), "what?", "", f"{i}.png", task=f"t{i % 2}") for i in range(20)]
    chats = shuffle_pictures(rows)
    for index, chat in enumerate(chats):
        (picture,) = pictures_of(chat)
        assert picture != f"{index}.png"
        assert int(picture.split(".")[0]) % 2 == index % 2  # of the same task
    assert sorted(pictures_of(chat)[0] for chat in chats) == sorted(f"{i}.png" for i in range(20))
    assert pictures_of(rows[3].chat) == ["3.png"]  # the rows themselves stay as they were
    assert shuffle_pictures(rows) == chats
    assert shuffle_pictures(rows, seed=1) != chats


@pytest.mark.parametrize("colours", [["red", "red", "blue", "blue", "green"], ["red"] * 6 + ["blue"] * 6])
def test_equal_pictures_are_not_swapped_for_each_other(colours):
    def plain(colour):
        return Image.new("RGB", (4, 4), colour)

    rows = [row(str(i), "what?", "", plain(colour)) for i, colour in enumerate(colours)]
    for given, each in zip(shuffle_pictures(rows), rows, strict=True):
        assert pictures_of(given)[0].getpixel((0, 0)) != pictures_of(each.chat)[0].getpixel((0, 0))


def test_copies_under_other_names_are_equal_pictures_too(tmp_path):
    for name, colour in enumerate(["red", "red", "blue", "blue", "green"]):
        (tmp_path / str(name)).mkdir()
        Image.new("RGB", (4, 4), colour).save(tmp_path / str(name) / "image.png")
    rows = [row(str(name), "what?", "", tmp_path / str(name) / "image.png") for name in range(5)]
    for given, each in zip(shuffle_pictures(rows), rows, strict=True):
        assert pictures_of(given)[0].read_bytes() != pictures_of(each.chat)[0].read_bytes()
    with pytest.raises(ValueError, match="too few different"):
        shuffle_pictures(rows[:2])


def test_several_pictures_and_none():
    rows = [
        row("1", "compare", "", "a.png", "b.png"),
        row("2", "what?", "", "c.png"),
        row("3", "what?", "", "d.png"),
        row("4", "what?", "", "a.png"),
        row("5", "1 + 1?", "2", task="text"),
    ]
    chats = shuffle_pictures(rows)
    assert chats[4] is rows[4].chat
    for chat, each in zip(chats, rows, strict=True):
        assert len(pictures_of(chat)) == len(pictures_of(each.chat))
        assert not set(pictures_of(chat)) & set(pictures_of(each.chat))
        assert chat[0]["content"][-1] == each.chat[0]["content"][-1]


def test_a_task_of_one_row_takes_pictures_of_other_tasks():
    rows = [row("1", "what?", "", "a.png", task="rare"), row("2", "what?", "", "b.png"), row("3", "what?", "", "c.png")]
    assert pictures_of(shuffle_pictures(rows)[0]) != ["a.png"]


def test_one_picture_cannot_be_shuffled():
    with pytest.raises(ValueError, match="too few different"):
        shuffle_pictures([row("1", "what?", "", "a.png"), row("2", "why?", "", "a.png")])
