from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from phantrol.data.messages import Example, Message, Rejected

PICTURE = Image.new("RGB", (4, 4), "red")


def test_parts_keep_their_order():
    message = Message("user", ("before ", PICTURE, "after"))
    assert message.text == "before after"
    assert message.pictures == (PICTURE,)
    assert message.as_chat() == {
        "role": "user",
        "content": [
            {"type": "text", "text": "before "},
            {"type": "image", "image": PICTURE},
            {"type": "text", "text": "after"},
        ],
    }


def test_a_path_stays_unopened(tmp_path):
    message = Message("user", (tmp_path / "later.png", "What is this?"))
    assert message.as_chat()["content"][0] == {"type": "image", "image": tmp_path / "later.png"}
    assert message.pictures == (tmp_path / "later.png",)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Message("bot", ("hi",)), "unknown role 'bot'.*system, user, assistant"),
        (lambda: Message("user", "hi"), "bare str"),
        (lambda: Message("user", Path("a.png")), "bare"),
        (lambda: Message("user", (3,)), "got int"),
        (lambda: Rejected("red", "silly"), "incorrect, ambiguous"),
        (lambda: Example("e7", (Message("user", ("hi",)),)), "example e7.*got user"),
        (lambda: Example("e7", ()), "no message"),
    ],
)
def test_errors_say_what_was_got_and_expected(make, words):
    with pytest.raises(ValueError, match=words):
        make()


def test_examples_are_frozen_and_lists_become_tuples():
    example = Example("e", [Message("user", ["hi"]), Message("assistant", ["yes"])], [Rejected("no", "incorrect")])
    assert isinstance(example.messages, tuple) and isinstance(example.rejected, tuple)
    assert isinstance(example.messages[0].parts, tuple)
    with pytest.raises(AttributeError):
        example.task = "other"
