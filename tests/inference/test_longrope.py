"""A decoder whose angles follow the longest row of a batch says to each what it says to it alone, and on the way across
the switch of its angles what it says without a cache."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from transformers import DynamicCache

from phantrol.inference import batches
from phantrol.inference.running import End, Piece, RunningBatch, Ticket
from phantrol.inference.sampling import Sampling
from phantrol.models.longrope import switch_lengths

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
def build_longrope(build_engine):
    options = dict(family="phi3", max_position_embeddings=CONTEXT, original_max_position_embeddings=SWITCH)
    options |= dict(dtype=torch.float64, rope_parameters=LONGROPE, pad_token_id=0)
    return lambda **more: build_engine(**options, **more)


@pytest.fixture(scope="module")
def engine(build_longrope):
    return build_longrope()


@pytest.fixture(scope="module")
def questions():
    words = ["What", "circle", "a", "red"] * max(WORDS)
    return [[{"role": "user", "content": " ".join(words[:number])}] for number in WORDS]


def test_company_changes_no_answer(engine, questions, monkeypatch):
    alone = [engine.answer(chat, max_new_tokens=12) for chat in questions]
    lengths = {answer.num_prompt_tokens for answer in alone}
    assert min(lengths) + 12 <= SWITCH < max(lengths) and any(SWITCH - 12 < length <= SWITCH for length in lengths)
    assert engine.answer_batch(questions, max_new_tokens=12) == alone
    monkeypatch.setattr(batches, "switch_lengths", lambda config: [])  # the control
    assert engine.answer_batch(questions, max_new_tokens=12) != alone


def test_company_changes_no_likelihood(engine, questions, monkeypatch):
    choices = [["red", "a small blue star " * 3]] * len(questions)
    alone = [dict(engine.rank_each([chat], [texts], 1))[0] for chat, texts in zip(questions, choices, strict=True)]

    def differences():
        found = dict(engine.rank_each(questions, choices))
        pairs = [(found[i].logprobs, one.logprobs) for i, one in enumerate(alone)]
        return max(abs(a - b) for some, others in pairs for a, b in zip(some, others, strict=True))

    assert differences() < 1e-9
    monkeypatch.setattr(batches, "switch_lengths", lambda config: [])
    assert differences() > 1e-3


@pytest.fixture(scope="module", params=["all", "prompt"])
def crossing(request, build_longrope):
    """An engine, and chats with and without a picture whose answers of 12 tokens outgrow the switch."""
    engine = build_longrope(tokens=request.param)
    picture = {"type": "image", "image": Image.new("RGB", (40, 40), "red")}
    texts = [{"type": "text", "text": " ".join((["What", "circle", "a", "red"] * 4)[:number])} for number in (15, 8)]
    chats = [[{"role": "user", "content": content}] for content in ([texts[0]], [picture, texts[1]])]
    lengths = [len(engine.encode(chat, 12).input_ids) for chat in chats]
    assert all(SWITCH - 10 < length < SWITCH - 3 for length in lengths), lengths
    return engine, chats


@pytest.mark.parametrize("beams", [1, 3])
def test_an_answer_across_the_switch_is_that_without_a_cache(crossing, beams):
    engine, chats = crossing
    options = dict(max_new_tokens=12, num_beams=beams)
    whole = [engine.answer(chat, use_cache=False, **options) for chat in chats]
    assert all(answer.num_new_tokens == 12 for answer in whole)
    assert [engine.answer(chat, **options) for chat in chats] == whole
    assert engine.answer_batch([chats[0]] * 2, **options) == [whole[0]] * 2


def test_a_served_answer_across_the_switch_is_that_without_a_cache(crossing):
    engine, chats = crossing
    for chat in chats:
        expected = engine.answer(chat, max_new_tokens=12, use_cache=False)
        batch, events = RunningBatch(engine), []
        ticket = Ticket(engine.encode(chat, 12), Sampling(max_new_tokens=12, num_choices=2), events.append)
        batch.admit(batch.read([ticket]))
        while batch.rows:
            batch.step()
        assert [event.num_new_tokens for event in events if isinstance(event, End)] == [12, 12]
        for choice in range(2):
            said = [event.text for event in events if isinstance(event, Piece) and event.choice == choice]
            assert "".join(said) == expected.text


def test_padding_is_not_counted_and_embeddings_are_read_again(crossing):
    engine, chats = crossing
    prompt = engine.pad_left([engine.encode(chats[0], 12)])
    options = dict(max_new_tokens=12, min_new_tokens=12, do_sample=False, pad_token_id=0)
    expected = engine.model.generate(**prompt, use_cache=False, **options)[:, prompt["input_ids"].shape[1] :]
    padded = {name: torch.nn.functional.pad(tensor, (6, 0)) for name, tensor in prompt.items()}
    assert torch.equal(engine.model.generate(**padded, **options)[:, padded["input_ids"].shape[1] :], expected)
    embeds = engine.model.get_input_embeddings()(prompt["input_ids"])
    inputs = {"inputs_embeds": embeds, "attention_mask": prompt["attention_mask"]}
    assert torch.equal(engine.model.generate(**inputs, **options), expected)


def test_what_is_read_again_says_where_its_image_features_are(crossing):
    """The prompt's by what was given, or by its ids; an answer has none, whatever its tokens."""
    model = crossing[0].model
    image, prompt = model.config.image_token_id, torch.arange(5, 5 + SWITCH - 2)[None]
    prompt[0, 3:7] = image
    ids = torch.cat([prompt, torch.tensor([[8, image, 9]])], dim=1)
    is_image = (ids == image) & (torch.arange(SWITCH + 1) < SWITCH - 2)
    cache = DynamicCache(config=model.config.text_config)
    embeds = model.get_input_embeddings()(ids)
    model(inputs_embeds=embeds[:, :-1], past_key_values=cache)
    given = {"past_key_values": cache, "inputs_embeds": embeds[:, :-3], "next_sequence_length": 1}
    for told in ({"input_ids": ids}, {"input_ids": ids[:, -3:], "image_mask": is_image[:, :-3]}):
        again = model.prepare_inputs_for_generation(**given, **told)
        assert torch.equal(again["inputs_embeds"], embeds) and torch.equal(again["image_mask"], is_image)
    assert "image_mask" not in model.prepare_inputs_for_generation(**given, input_ids=ids[:, -3:])


def test_a_prompt_in_chunks_across_the_switch_is_refused(engine, questions):
    chat = questions[WORDS.index(60)]
    assert len(engine.encode(chat, 1).input_ids) > SWITCH
    with pytest.raises(ValueError, match=rf"got the last 7 of 42 tokens.* at \[{SWITCH}\]: expected the ids of all"):
        engine.answer(chat, max_new_tokens=1, prefill_chunk_size=7)


def test_a_later_turn_across_the_switch_wants_the_pictures_of_all_turns(crossing):
    engine, chats = crossing
    prompt, options = engine.pad_left([engine.encode(chats[1], 12)]), dict(do_sample=False, pad_token_id=0)
    first = engine.model.generate(**prompt, max_new_tokens=2, return_dict_in_generate=True, **options)
    ids = torch.cat([first.sequences, first.sequences[:, :8].clamp(max=20)], dim=1)
    with pytest.raises(ValueError, match="the pictures of 1 tiles are not given: expected those of all turns"):
        engine.model.generate(ids, past_key_values=first.past_key_values, max_new_tokens=1, **options)


def test_drafted_tokens_across_the_switch_are_refused(crossing):
    engine, chats = crossing
    with pytest.raises(ValueError, match=r"may outgrow the switch of longrope.*nor prompt_lookup_num_tokens"):
        engine.answer(chats[0], max_new_tokens=12, prompt_lookup_num_tokens=4)
    whole = engine.answer(chats[0], max_new_tokens=2, use_cache=False)
    assert engine.answer(chats[0], max_new_tokens=2, prompt_lookup_num_tokens=4) == whole


def test_requests_run_one_at_a_time(engine, build_engine):
    assert f"a row of more than {SWITCH} tokens" in RunningBatch(engine).fault
    short = build_engine(family="phi3", max_position_embeddings=SWITCH)  # which has no other factors to go on with
    assert RunningBatch(short).fault is None


def test_where_the_angles_of_a_configuration_change():
    def found(rope):
        config = SimpleNamespace(rope_parameters=rope, max_position_embeddings=CONTEXT)
        return switch_lengths(SimpleNamespace(get_text_config=lambda decoder: config))

    assert found(LONGROPE) == [SWITCH]
    assert found({"sliding_attention": {"rope_type": "default"}, "full_attention": LONGROPE}) == [SWITCH]
    assert found(LONGROPE | {"original_max_position_embeddings": CONTEXT}) == []  # never beyond it
    assert found({"rope_type": "dynamic", "factor": 2.0}) == found(None) == []
