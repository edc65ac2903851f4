from __future__ import annotations

import threading
import time

import pytest
import torch


def stream_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "phantrol-stream"]


def test_the_pieces_are_the_answer(engine, chats):
    pieces_per_answer = []
    for chat in chats:
        answer = engine.answer(chat, max_new_tokens=40)
        stream, pieces = engine.stream(chat, max_new_tokens=40), []
        while True:
            try:
                pieces.append(next(stream))
            except StopIteration as end:
                assert end.value == answer
                break
        assert "".join(pieces) == answer.text
        assert all(pieces)
        pieces_per_answer.append(len(pieces))
    assert max(pieces_per_answer) > 5  # it comes in pieces, not at once
    assert not stream_threads()


def test_no_half_characters_are_sent(engine, monkeypatch, chats):
    """A model that spells é, 漢 and spaces byte by byte, with line ends and doubled spaces between them."""
    text = "  né\n\n漢字  and 漢 \n é"
    tokenizer = engine.processor.tokenizer
    ids = [i for char in text for i in tokenizer(char, add_special_tokens=False)["input_ids"]]
    said = engine.processor.decode(ids)

    def generate(input_ids, streamer=None, **kwargs):
        output = torch.cat([input_ids, torch.tensor([[*ids, engine.processor.end_of_turn_id]])], dim=1)
        if streamer is not None:
            streamer.put(input_ids)
            for token in output[0, input_ids.shape[1] :]:
                streamer.put(token[None])
            streamer.end()
        return output

    monkeypatch.setattr(engine.model, "generate", generate)
    pieces = list(engine.stream(chats[0]))
    assert "".join(pieces) == said == engine.answer(chats[0]).text
    assert "\ufffd" not in "".join(pieces)
    assert len(pieces) > 5


def test_what_was_sent_is_never_written_anew(engine, monkeypatch, chats):
    """A tokenizer that takes back a space once it sees the third token, and brings it back with the fourth."""
    texts = {0: "", 1: "a", 2: "a b", 3: "ab c", 4: "a b c d"}
    monkeypatch.setattr(engine.processor.tokenizer, "decode", lambda ids, **_: texts[len(ids)])
    assert list(engine.stream(chats[1], max_new_tokens=4, min_new_tokens=4)) == ["a", " b", " c d"]


def test_an_error_in_the_model_reaches_the_reader(engine, chats):
    calls = []

    def fail_later(module, args):
        calls.append(1)
        if len(calls) == 3:
            raise RuntimeError("out of memory")

    hook = engine.model.register_forward_pre_hook(fail_later)
    try:
        with pytest.raises(RuntimeError, match="out of memory"):
            list(engine.stream(chats[0], max_new_tokens=20))
    finally:
        hook.remove()
    assert not stream_threads()


def test_closing_the_stream_stops_the_model(engine, chats):
    calls = []
    hook = engine.model.register_forward_pre_hook(lambda module, args: calls.append(time.sleep(0.01)))
    stream = engine.stream(chats[0], max_new_tokens=1000)
    next(stream)
    assert stream_threads()
    stream.close()
    hook.remove()
    assert not stream_threads()  # joined, not left behind
    assert len(calls) < 500  # of 1000, which take ten seconds


def test_two_streams_at_once_do_not_mix(engine, chats):
    expected = [engine.answer(chat, max_new_tokens=16).text for chat in (chats[0], chats[3])]
    one, other = engine.stream(chats[0], max_new_tokens=16), engine.stream(chats[3], max_new_tokens=16)
    texts = ["", ""]
    for _ in range(50):
        texts[0] += next(one, "")
        texts[1] += next(other, "")
    assert texts == expected
