"""Several answers to one chat, ranked by their likelihood: the numbers are those of training, one row at a time."""

from __future__ import annotations

import math

import pytest
import torch

from phantrol.data.collate import Collator
from phantrol.data.messages import Example, Message
from phantrol.inference.ranking import Ranking
from phantrol.losses.base import token_logprobs

CHOICES = [["red", "a small blue star", "no"], ["One", "Two"], ["bad", "dab fool"], ["x", "y", "z", "a circle"]]


def mean_logprob(engine, chat, choice):
    """A row of its own, by the collator and the loss of training."""
    contents = [[{"text": one["content"]}] if isinstance(one["content"], str) else one["content"] for one in chat]
    parts = [tuple(part.get("text") or part["image"] for part in content) for content in contents]
    said = [Message(one["role"], content) for one, content in zip(chat, parts, strict=True)]
    example = Example("one", (*said, Message("assistant", (choice,))))
    batch = Collator(engine.processor)([(example,)])
    with torch.inference_mode():
        logprobs = token_logprobs(engine.model, batch)
    last = len(engine.processor.encode([*chat, {"role": "assistant", "content": choice}]).input_ids)
    begins = len(engine.processor.encode(chat, add_generation_prompt=True).input_ids)
    return logprobs[-(last - begins) :].mean().item()


@pytest.mark.parametrize("batch_size", [1, 6, 100])
def test_each_choice_has_the_likelihood_of_its_own_row(engine, chats, batch_size):
    asked = [chats[0], chats[1], chats[4], chats[3]]
    found = dict(engine.rank_each(asked, CHOICES, batch_size))
    for index, (chat, choices) in enumerate(zip(asked, CHOICES, strict=True)):
        alone = [mean_logprob(engine, chat, choice) for choice in choices]
        assert found[index].logprobs == pytest.approx(alone, abs=2e-5)
        assert found[index].best == alone.index(max(alone))


def test_earlier_answers_do_not_count(engine, chats):
    (_, found), *_ = engine.rank_each([chats[5]], [["red", "blue"]])
    assert found.logprobs == pytest.approx([mean_logprob(engine, chats[5], word) for word in ("red", "blue")], abs=2e-5)
    encoding = engine.processor.encode([*chats[5], {"role": "assistant", "content": "blue"}])
    assert encoding.last_answer > encoding.answer_mask.index(True)  # there is an earlier one to be left out


def test_another_picture_is_another_likelihood(engine, chats):
    """The control: rows that were shown the wrong tiles would not pass the test above."""
    said = chats[0][0]["content"][1]
    other = [{"role": "user", "content": [chats[3][0]["content"][0], said]}]
    (_, one), (_, two) = sorted(engine.rank_each([chats[0], other], [CHOICES[0]] * 2))
    assert max(abs(a - b) for a, b in zip(one.logprobs, two.logprobs, strict=True)) > 1e-3


def test_what_cannot_be_ranked_is_said(engine, chats, tmp_path):
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    lost = [{"role": "user", "content": [{"type": "image", "image": broken}, {"type": "text", "text": "What?"}]}]
    found = dict(engine.rank_each([lost, chats[0], chats[0]], [["a", "b"], [], ["a", "b"]]))
    assert "broken.png" in str(found[0]) and "got no choices" in str(found[1])
    assert isinstance(found[2], Ranking) and all(math.isfinite(each) for each in found[2].logprobs)
    assert "the model reads at most" in str(dict(engine.rank_each([chats[1]], [["a " * 5000]]))[0])


def test_the_first_of_equals_is_best():
    assert Ranking((-2.0, -1.0, -1.0)).best == 1
