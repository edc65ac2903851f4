"""Tokens become text as they come: nothing is taken back, and a stop string ends it."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from phantrol.inference.sampling import TokenLogprob
from phantrol.inference.speaking import Speaker

LETTERS = SimpleNamespace(decode=lambda ids, **options: "".join(map(chr, ids)))  # a token is a letter


def of_letters(*stop):
    return Speaker(SimpleNamespace(num_certain=len), stop, LETTERS)


def test_a_speaker_never_takes_back_what_it_said(engine):
    text = "  né\n\n漢字  and 漢 \n é stop here"
    ids = [i for char in text for i in engine.processor.tokenizer(char, add_special_tokens=False)["input_ids"]]
    for stop in ((), ("stop",), ("\n",), ("字  a",)):
        speaker, said = Speaker(engine, stop), []
        for token in ids:
            speaker.hear(token)
            if speaker.stopped:
                break
            said.append(speaker.say()[0])
        said.append(speaker.end()[0])
        whole = engine.decode(ids)
        expected = min((whole.split(s)[0] for s in stop), key=len, default=whole).rstrip()
        assert "".join(said) == expected
        assert "\ufffd" not in "".join(said)


def test_a_stop_string_that_only_the_end_makes_certain_ends_an_answer(engine, monkeypatch):
    ids = [engine.processor.tokenizer(part, add_special_tokens=False)["input_ids"] for part in ("a red", " é")]
    monkeypatch.setattr(engine, "_byte_ids", frozenset(ids[1]))  # as SentencePiece spells what it has no word for
    speaker = Speaker(engine, ("é",))
    for token in (*ids[0], *ids[1]):
        speaker.hear(token)
    assert speaker.say()[0] == "a red" and not speaker.stopped
    assert speaker.end()[0] == "" and speaker.stopped


@pytest.mark.parametrize(("text", "whole"), [("foop", "f"), ("fooop", "fo"), ("food", "food")])
def test_as_much_is_held_back_as_may_begin_a_stop_string(text, whole):
    speaker, said = of_letters("oop", "x"), []
    for letter in text:
        speaker.hear(ord(letter))
        if not speaker.stopped:
            said.append(speaker.say()[0])
    said.append(speaker.end()[0])
    assert "".join(said) == whole


def test_of_two_stop_strings_the_earlier_in_the_text_ends_it():
    speaker = of_letters("red", "a")
    for letter in "see a red b":  # as a token may hold both
        speaker.hear(ord(letter))
    assert speaker.end()[0] == "see"


@pytest.mark.parametrize("end", ["say", "end"])
def test_nothing_is_told_of_a_token_whose_text_is_not_said(end):
    """The first one of "red" begins just where the text ends."""
    speaker = of_letters("red")
    for letter in "see,red"[: None if end == "end" else 5]:
        speaker.hear(ord(letter), TokenLogprob(ord(letter), -1.0))
    text, told = getattr(speaker, end)()
    assert text == "see," and [each.token for each in told] == [ord(letter) for letter in text]
