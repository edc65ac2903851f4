"""Rows that are no example, each with its reason, and pictures that are none."""

from __future__ import annotations

import pytest

from phantrol.data.broken import REASONS, BrokenRow
from phantrol.data.layouts import read_draft
from phantrol.data.pictures import place

A = {"from": "gpt", "value": "red"}
Q = {"from": "human", "value": "What?"}
BROKEN = {
    "no row": (5, "wrong-type"),
    "a list": ([Q, A], "wrong-type"),
    "nothing known": ({"foo": 1}, "unknown-layout"),
    "a question alone": ({"question": "a"}, "unknown-layout"),
    "no turns": ({"conversations": []}, "wrong-type"),
    "turns as text": ({"conversations": "hello"}, "wrong-type"),
    "turns as broken JSON": ({"conversations": "[{'from'"}, "bad-json"),
    "a turn as text": ({"conversations": ["What?", "red"]}, "wrong-type"),
    "a role that nobody has": ({"conversations": [Q, {"from": "tool", "value": "red"}]}, "wrong-type"),
    "no role": ({"conversations": [Q, {"value": "red"}]}, "wrong-type"),
    "no text": ({"conversations": [Q, {"from": "gpt", "value": None}]}, "wrong-type"),
    "an object as text": ({"conversations": [Q, {"from": "gpt", "value": {"a": 1}}]}, "wrong-type"),
    "a part that is no object": ({"messages": [{"role": "user", "content": ["a"]}]}, "wrong-type"),
    "a part of another kind": ({"messages": [{"role": "user", "content": [{"type": "video"}]}, A]}, "wrong-type"),
    "true as an answer": ({"question": "a", "answer": True}, "wrong-type"),
    "a list as an answer": ({"question": "a", "answer": ["b"]}, "wrong-type"),
    "the user has the last word": ({"conversations": [Q, A, Q]}, "turns"),
    "the assistant begins": ({"conversations": [A, Q, A]}, "turns"),
    "no assistant": ({"conversations": [Q]}, "turns"),
    "a wrong answer beside an earlier turn": ({"conversations": [Q, A | {"rejected": "blue"}, Q, A]}, "turns"),
    "a wrong conversation without an answer": (
        {"prompt": "a", "chosen": "b", "rejected": [Q | {"from": "user"}]},
        "turns",
    ),
    "a kind of wrong answer that there is not": (
        {"question": "a", "answer": "b", "rejected": "c", "rejected_type": "ambigous"},
        "wrong-type",
    ),
    "a number as the kind of a wrong answer": (
        {"question": "a", "answer": "b", "rejected": "c", "rejected_type": 0},
        "wrong-type",
    ),
    "more <image> than images": ({"image": "red.png", "question": "<image><image>", "answer": "a"}, "image-count"),
    "fewer <image> than images": ({"images": ["red.png"] * 2, "question": "<image>", "answer": "a"}, "image-count"),
    "<image> and no image": ({"question": "<image>?", "answer": "a"}, "image-count"),
    "a number too high": ({"image": "red.png", "question": "<image2>?", "answer": "a"}, "image-count"),
    "images twice": (
        {"images": ["red.png"], "messages": [{"role": "user", "content": [{"type": "image", "image": "red.png"}]}, A]},
        "image-count",
    ),
    "no image, but <image>": ({"images": [None], "question": "<image>?", "answer": "a"}, "image-count"),
    "a null too few": ({"image": ["red.png", None], "question": "<image><image>", "answer": "a"}, "image-count"),
    "an object of something else": ({"image": {"foo": 1}, "question": "<image>?", "answer": "a"}, "wrong-type"),
    "a web address": ({"image": "https://a.b/c.png", "question": "<image>?", "answer": "a"}, "image-remote"),
    "a video": ({"video": "a.mp4", "conversations": [{"from": "human", "value": "<video>\nWhat?"}, A]}, "image-count"),
    "a video, then a question": ({"question": "<video>What?", "answer": "a"}, "image-count"),
    "a sound behind": ({"question": "What is said?\n<audio>", "answer": "a"}, "image-count"),
    "a picture as Qwen-VL has it": ({"question": "Picture 1: <img>a.png</img>\nWhat?", "answer": "a"}, "image-count"),
    "bytes of a web data set": (
        {"jpg": {"bytes": b"x", "path": None}, "question": "a", "answer": "b"},
        "image-unreadable",
    ),
    "a number as an image": ({"image": 7, "question": "<image>?", "answer": "a"}, "wrong-type"),
    "bytes that are no picture": (
        {"image": {"bytes": b"no"}, "question": "<image>?", "answer": "a"},
        "image-unreadable",
    ),
    "no bytes": ({"image": {"bytes": b""}, "question": "<image>?", "answer": "a"}, "image-unreadable"),
    "broken base64": (
        {"image": "data:image/png;base64,???", "question": "<image>?", "answer": "a"},
        "image-unreadable",
    ),
    "base64 with other letters": (
        {"image": "data:image/png;base64,é", "question": "<image>?", "answer": "a"},
        "image-unreadable",
    ),
    "a broken address": ({"image": "http://[::1/a.png", "question": "<image>?", "answer": "a"}, "image-unreadable"),
    "turns as JSON with a number too long": ({"conversations": "[" + "9" * 5000 + "]"}, "bad-json"),
    "turns as JSON nested too deeply": ({"conversations": "[" * 100_000}, "bad-json"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_row(name, pictures):
    row, reason = BROKEN[name]
    with pytest.raises(BrokenRow) as met:
        place(read_draft(row), pictures)
    assert met.value.reason == reason and reason in REASONS


@pytest.mark.parametrize(
    ("said", "kind"),
    [("ambiguous", "ambiguous"), (" Ambiguous", "ambiguous"), ("INCORRECT", "incorrect"), (None, "incorrect")],
)
def test_the_kind_of_a_wrong_answer(said, kind):
    row = {"question": "a", "answer": "b", "rejected": "c", "rejected_type": said}
    assert read_draft(row).rejected == (("c", kind),)
    assert read_draft(row | {"rejected_type": float("nan")}).rejected == (("c", "incorrect"),)
    assert read_draft({"question": "a", "answer": "b", "rejected_type": "another"}).rejected == ()


@pytest.mark.parametrize(
    "images", [[None], [None, None], {"bytes": None, "path": None}, [{"bytes": None, "path": None}]]
)
def test_nulls_are_no_images(images, pictures):
    """As columns of Arrow have them in rows of text alone."""
    assert place(read_draft({"images": images, "question": "a", "answer": "b"}), pictures)[0].parts == ("a",)
    beside = [*(images if isinstance(images, list) else [images]), "red.png"]
    (question, _) = place(read_draft({"images": beside, "question": "<image>a", "answer": "b"}), pictures)
    assert question.parts == (pictures / "red.png", "a")


@pytest.mark.parametrize(
    "name", ["img_path", "image_file", "image_url", "photo", "jpg", "jpeg", "png", "webp", "Image_Path", "file_name"]
)
def test_pictures_lie_under_many_names(name, pictures):
    (question, _) = place(read_draft({name: "red.png", "question": "a", "answer": "b"}), pictures)
    assert question.parts == (pictures / "red.png", "a")
    both = place(
        read_draft({"image_url": "http://a.b/c.png", name: "red.png", "question": "a", "answer": "b"}), pictures
    )
    assert name == "image_url" or both[0].parts == question.parts


@pytest.mark.parametrize(
    "asked",
    [
        "What does <video> do in HTML?",
        "Mend this:\n<video>\n<source src=a.mp4>\n</video>",
        'Why is <img src="a.png"> broken?',
        "<videogame> or <audiobook>?",
    ],
)
def test_questions_about_html_are_text(asked, pictures):
    row = {"conversations": [{"from": "human", "value": asked}, {"from": "gpt", "value": "<video>"}]}
    assert place(read_draft(row), pictures)[0].parts == (asked,)
    row = {"image": "red.png", "question": "<image><video>\nWhat?", "answer": "a"}
    assert place(read_draft(row), pictures)[0].parts[1] == "<video>\nWhat?"
