"""What a model's generation config asks of every answer holds in a running batch too, for each row alone."""

from __future__ import annotations

import pytest
import torch

from phantrol.inference.running import Piece, RunningBatch, Ticket
from phantrol.inference.sampling import Sampling, not_followed


def told(engine, chats):
    """What each chat is told in one batch: its pieces."""
    heard = [[] for _ in chats]
    sampling = Sampling(max_new_tokens=12, top_logprobs=0)
    tickets = [
        Ticket(engine.encode(chat, 12), sampling, pieces.append) for chat, pieces in zip(chats, heard, strict=True)
    ]
    batch = RunningBatch(engine)
    batch.admit(batch.read(tickets[:3]))
    batch.step()
    batch.admit(batch.read(tickets[3:]))
    while batch.rows:
        batch.step()
    return [[event for event in events if isinstance(event, Piece)] for events in heard]


@pytest.mark.parametrize("setting", [{"repetition_penalty": 1.8}, {"no_repeat_ngram_size": 1}])
def test_penalties_hold_for_each_row_alone(build_engine, chats, setting):
    engine = build_engine(dtype=torch.float64)
    plain = [engine.answer(chat, max_new_tokens=12).text for chat in chats]
    engine.model.generation_config.update(**setting)
    alone = [engine.answer(chat, max_new_tokens=12).text for chat in chats]
    heard = told(engine, chats)
    assert ["".join(piece.text for piece in pieces) for pieces in heard] == alone != plain
    with torch.inference_mode():
        ids = engine.encode(chats[1], 12).input_ids
        logprobs = engine.model(torch.tensor([ids])).logits[0, -1].log_softmax(-1)
    first = heard[1][0].logprobs[0]
    assert first.logprob == pytest.approx(float(logprobs[first.token]))  # the model's own, whatever was chosen


def test_what_is_not_followed_is_named(build_engine):
    config = build_engine().model.generation_config
    assert not_followed(config) == []
    config.update(repetition_penalty=1.1, num_beams=1, min_length=0, suppress_tokens=[])
    assert not_followed(config) == []
    config.update(num_beams=3, bad_words_ids=[[7]])
    assert not_followed(config) == ["num_beams", "bad_words_ids"]
