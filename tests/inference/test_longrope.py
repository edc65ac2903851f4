"""A decoder whose angles follow the longest row of a batch says to each what it says to it alone."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from phantrol.inference import longrope
from phantrol.inference.longrope import switch_lengths
from phantrol.inference.running import RunningBatch

SWITCH, CONTEXT = 40, 256
LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "short_factor": [1.0] * 4,
    "long_factor": [4.0, 8.0, 16.0, 32.0],
    "original_max_position_embeddings": SWITCH,
    "factor": CONTEXT / SWITCH,
}
WORDS = (3, 60, 12, 15, 17, 17, 33, 3, 90, 18)  # of each question: before the switch, beyond it, and on the way to it


@pytest.fixture(scope="module")
def engine(build_engine):
    options = dict(family="phi3", max_position_embeddings=CONTEXT, original_max_position_embeddings=SWITCH)
    return build_engine(dtype=torch.float64, rope_parameters=LONGROPE, pad_token_id=0, **options)


@pytest.fixture(scope="module")
def questions():
    words = ["What", "circle", "a", "red"] * max(WORDS)
    return [[{"role": "user", "content": " ".join(words[:number])}] for number in WORDS]


def test_company_changes_no_answer(engine, questions, monkeypatch):
    alone = [engine.answer(chat, max_new_tokens=12) for chat in questions]
    lengths = {answer.num_prompt_tokens for answer in alone}
    assert min(lengths) + 12 <= SWITCH < max(lengths) and any(SWITCH - 12 < length <= SWITCH for length in lengths)
    assert engine.answer_batch(questions, max_new_tokens=12) == alone
    monkeypatch.setattr(longrope, "switch_lengths", lambda model: [])  # the control
    assert engine.answer_batch(questions, max_new_tokens=12) != alone


def test_company_changes_no_likelihood(engine, questions, monkeypatch):
    choices = [["red", "a small blue star " * 3]] * len(questions)
    alone = [dict(engine.rank_each([chat], [texts], 1))[0] for chat, texts in zip(questions, choices, strict=True)]

    def differences():
        found = dict(engine.rank_each(questions, choices))
        pairs = [(found[i].logprobs, one.logprobs) for i, one in enumerate(alone)]
        return max(abs(a - b) for some, others in pairs for a, b in zip(some, others, strict=True))

    assert differences() < 1e-9
    monkeypatch.setattr(longrope, "switch_lengths", lambda model: [])
    assert differences() > 1e-3


def test_requests_run_one_at_a_time(engine, build_engine):
    assert f"a row of more than {SWITCH} tokens" in RunningBatch(engine).fault
    short = build_engine(family="phi3", max_position_embeddings=SWITCH)  # which has no other factors to go on with
    assert RunningBatch(short).fault is None


def test_where_the_angles_of_a_configuration_change():
    def found(rope):
        config = SimpleNamespace(rope_parameters=rope, max_position_embeddings=CONTEXT)
        return switch_lengths(SimpleNamespace(config=SimpleNamespace(get_text_config=lambda decoder: config)))

    assert found(LONGROPE) == [SWITCH]
    assert found({"sliding_attention": {"rope_type": "default"}, "full_attention": LONGROPE}) == [SWITCH]
    assert found(LONGROPE | {"original_max_position_embeddings": CONTEXT}) == []  # never beyond it
    assert found({"rope_type": "dynamic", "factor": 2.0}) == found(None) == []
