"""A batch in which rows come and go says of each request what that request is told alone."""

from __future__ import annotations

import pytest
import torch

import phantrol
from phantrol.inference import joining
from phantrol.inference.engine import Engine
from phantrol.inference.running import End, Failure, Piece, RunningBatch, Ticket
from phantrol.inference.sampling import Sampling
from phantrol.models.tokenizer import train_tokenizer
from phantrol.modifiers.growing_cache import GrowingLayer

TROL, PROMPT_TROL = phantrol.TrolConfig(gate_bias=0.2), phantrol.TrolConfig(gate_bias=0.2, tokens="prompt")
PHANTOM = phantrol.PhantomConfig(init="random")
MODIFIERS = {
    "plain": [],
    "trol": [TROL],
    "trol of the prompt": [PROMPT_TROL],
    "phantom": [PHANTOM],
    "both": [TROL, PHANTOM],
    "both, trol of the prompt": [PROMPT_TROL, PHANTOM],
}
COLD = (5e-324, 1e-50, 1e-40, 1e-30, 1e-6)  # temperatures


@pytest.fixture(scope="module")
def tokenizer():
    words = [a + b + c for a in "bdfgklmn" for b in ("a", "e", "i", "o", "oo") for c in "lmnprst"]
    return train_tokenizer([" ".join(words), "What color is the circle?", "é 漢字"] * 4, 700)


@pytest.fixture(scope="module")
def build(tiny_model, tokenizer):
    """A function that makes an engine in float64, where batches differ from single rows by 1e-15 and not by 1e-7."""
    return lambda modifiers, **options: Engine(
        *tiny_model(tokenizer, modifiers, noise=0.4, dtype=torch.float64, **options)
    )


class Listener:
    """What one request was told: its pieces, joined, and its ends."""

    def __init__(self, engine, chat, **sampling):
        self.events = []
        self.ticket = Ticket(engine.processor.encode(chat, True), Sampling(**sampling), self.events.append)

    @property
    def texts(self):
        count = self.ticket.sampling.num_choices
        return ["".join(e.text for e in self.events if isinstance(e, Piece) and e.choice == i) for i in range(count)]

    @property
    def ends(self):
        return sorted((e.choice, e.reason, e.num_new_tokens) for e in self.events if isinstance(e, End))

    @property
    def logprobs(self):
        return [told for e in self.events if isinstance(e, Piece) for told in e.logprobs]


def play(engine, arrivals):
    """Run a batch; arrivals: {step: [listeners that come before it]}. Return it when all is said."""
    batch = RunningBatch(engine)
    step = 0
    while batch.rows or any(when >= step for when in arrivals):
        batch.drop_cancelled()
        if step in arrivals:
            batch.admit(batch.read([listener.ticket for listener in arrivals[step]]))
        batch.step()
        step += 1
    return batch


def in_company(engine, chats, **sampling):
    """Every chat in one batch that they join at different steps, with answers of different lengths."""
    heard = [Listener(engine, chat, max_new_tokens=6 + 3 * (i % 4), **sampling) for i, chat in enumerate(chats)]
    play(engine, {0: heard[:1], 1: heard[1:3], 4: heard[3:4], 7: heard[4:]})
    return heard


@pytest.mark.parametrize("modifiers", MODIFIERS.values(), ids=MODIFIERS)
def test_who_joins_a_batch_under_way_is_told_what_it_is_told_alone(build, chats, modifiers):
    engine = build(modifiers)
    heard = in_company(engine, chats)
    for i, (chat, listener) in enumerate(zip(chats, heard, strict=True)):
        alone = engine.answer(chat, max_new_tokens=6 + 3 * (i % 4))
        assert listener.texts == [alone.text]
        assert listener.ends == [(0, alone.finish_reason, alone.num_new_tokens)]
    assert len({listener.texts[0] for listener in heard}) > len(chats) // 2  # the model listens: the answers differ


def spoil_anchor(running, joining_cache):
    """As join_caches, but the newcomers' memory of their anchor is lost."""
    JOIN(running, joining_cache)
    for layer in running.layers:
        if type(layer) is joining.AnchorLayer:
            layer.keys[-1], layer.values[-1] = 0, 0


def spoil_second_pass(running, joining_cache):
    """As join_caches, but the slots of the second pass lose a token."""
    JOIN(running, joining_cache)
    for layer in running.layers[running.sequence_state.first_pass_slots :]:
        if isinstance(layer, GrowingLayer):
            layer.keys[:, :, -1:] = 0


JOIN = joining.join_caches


@pytest.mark.parametrize(
    ("modifiers", "spoil"), [([PHANTOM], spoil_anchor), ([TROL], spoil_second_pass)], ids=["anchor", "second pass"]
)
def test_a_state_that_is_joined_wrongly_would_be_heard(build, chats, monkeypatch, modifiers, spoil):
    engine = build(modifiers)
    right = [listener.texts for listener in in_company(engine, chats)]
    monkeypatch.setattr("phantrol.inference.running.join_caches", spoil)
    assert [listener.texts for listener in in_company(engine, chats)] != right


def test_padding_that_is_not_masked_would_be_heard(build, chats, monkeypatch):
    engine = build([TROL])
    right = [listener.texts for listener in in_company(engine, chats)]
    monkeypatch.setattr(
        "phantrol.inference.running._pad_mask",
        lambda mask, length: torch.nn.functional.pad(mask, (length - mask.shape[1], 0), value=1),
    )
    assert [listener.texts for listener in in_company(engine, chats)] != right


def test_a_seed_gives_the_same_answer_alone_and_in_company(build, chats):
    engine = build([TROL, PHANTOM])
    sampling = dict(temperature=1.5, top_p=0.9, seed=11, num_choices=2)
    heard = in_company(engine, chats, **sampling)
    for i, (chat, listener) in enumerate(zip(chats, heard, strict=True)):
        alone = Listener(engine, chat, max_new_tokens=6 + 3 * (i % 4), **sampling)
        play(engine, {0: [alone]})
        assert listener.texts == alone.texts
        assert listener.ends == alone.ends
    assert any(listener.texts[0] != listener.texts[1] for listener in heard)
    other = in_company(engine, chats, **sampling | {"seed": 12})
    assert [listener.texts for listener in other] != [listener.texts for listener in heard]


def test_a_cancelled_row_leaves_and_its_padding_with_it(build, chats):
    engine = build([TROL, PHANTOM])
    batch = RunningBatch(engine)
    longest = max(chats, key=lambda chat: len(engine.processor.encode(chat, True).input_ids))
    long, short = Listener(engine, longest, max_new_tokens=50), Listener(engine, chats[1], max_new_tokens=12)
    batch.admit(batch.read([long.ticket, short.ticket]))
    batch.step()
    width = batch._mask.shape[1]
    long.ticket.cancel()
    batch.drop_cancelled()
    assert len(batch.rows) == 1
    kept = len(short.ticket.prompt.input_ids) + 1
    assert batch._mask.shape == (1, kept) and kept < width
    assert {tuple(layer.keys.shape[:3:2]) for layer in batch._cache.layers if isinstance(layer, GrowingLayer)} == {
        (1, kept)
    }
    heard = len(long.events)
    while batch.rows:
        batch.step()
    assert len(long.events) == heard
    assert short.texts == [engine.answer(chats[1], max_new_tokens=12).text]
    assert batch._cache is None  # nothing is kept of those who left


def test_logprobs_are_the_model_s_own(build, chats):
    engine = build([PHANTOM])
    listener = Listener(engine, chats[0], max_new_tokens=6, top_logprobs=3)
    play(engine, {0: [listener], 2: [Listener(engine, chats[3], max_new_tokens=4)]})
    prompt = listener.ticket.prompt
    ids = list(prompt.input_ids)
    assert len(listener.logprobs) == 6
    with torch.inference_mode():
        for told in listener.logprobs:
            logprobs = engine.model(torch.tensor([ids]), prompt.pixel_values).logits[0, -1].log_softmax(-1)
            assert told.token == int(logprobs.argmax())
            assert told.logprob == pytest.approx(float(logprobs.max()))
            assert [token for token, _ in told.top] == logprobs.topk(3).indices.tolist()
            ids.append(told.token)


def test_a_sliding_window_runs_alone_and_says_so(build, chats):
    engine = build([TROL], family="mistral", sliding_window=6)
    assert "cannot be padded" in RunningBatch(engine).fault
    listener = Listener(engine, chats[3], max_new_tokens=8, num_choices=2)
    play(engine, {0: [listener]})
    assert listener.texts == [engine.answer(chats[3], max_new_tokens=8).text] * 2
    assert RunningBatch(build([TROL])).fault is None


def test_stop_strings_end_an_answer_and_are_not_said(build, chats):
    engine = build([TROL])
    whole = next(a for a in (engine.answer(chat, max_new_tokens=12).text for chat in chats) if len(a) > 20)
    chat = next(chat for chat in chats if engine.answer(chat, max_new_tokens=12).text == whole)
    for stop in (whole[4:6], whole[9:14], whole[:1], "never said"):
        listener = Listener(engine, chat, max_new_tokens=12, stop=(stop, "nor this"), top_logprobs=0)
        play(engine, {0: [listener]})
        assert listener.texts == [whole.split(stop)[0].rstrip()]
        assert listener.ends[0][1] == (
            "stop" if stop in whole else engine.answer(chat, max_new_tokens=12).finish_reason
        )
        assert len(listener.logprobs) <= listener.ends[0][2]


def test_nothing_is_told_of_the_token_that_ends_the_turn(build, chats):
    engine = build([])
    options = dict(max_new_tokens=6, top_logprobs=0)
    whole, cut = (Listener(engine, chats[0], **options) for _ in range(2))
    play(engine, {0: [whole]})
    said = [told.token for told in whole.logprobs]
    last = next(i for i, token in enumerate(said) if i and token not in said[:i])
    engine.end_ids = [said[last]]
    play(engine, {0: [cut]})
    assert [told.token for told in cut.logprobs] == said[:last] and cut.ends == [(0, "stop", last + 1)]


def test_the_tokens_of_all_choices_are_counted(engine, chats):
    listener = Listener(engine, chats[0], max_new_tokens=5, temperature=1.0, seed=0, num_choices=3)
    play(engine, {0: [listener]})
    assert len(listener.ends) == 3 and listener.ticket.num_new_tokens == sum(count for _, _, count in listener.ends)


@pytest.mark.parametrize("temperature", COLD)
def test_a_temperature_next_to_0_is_0_and_nobody_s_fault(engine, chats, temperature):
    """In float32, which models are served in: the smaller ones are 0 there."""
    assert engine.model.dtype == torch.float32

    def told(temperature):
        cold = Listener(engine, chats[0], max_new_tokens=8, temperature=temperature, seed=3)
        warm = [Listener(engine, chat, max_new_tokens=8, temperature=1.5, seed=11) for chat in chats[1:3]]
        play(engine, {0: [cold, warm[0]], 2: [warm[1]]})
        return [(listener.texts, listener.ends) for listener in (cold, *warm)]

    assert told(temperature) == told(0.0)
    assert told(0.0) != told(1.5)


@pytest.mark.parametrize("temperature", [0.0, 1.5])
@pytest.mark.parametrize("overflow", [float("nan"), float("inf"), -float("inf")])
def test_a_request_whose_numbers_overflow_fails_alone(build, chats, monkeypatch, caplog, temperature, overflow):
    engine = build([])

    def told(ill: bool):
        first, second, ill_one = (
            Listener(engine, chat, max_new_tokens=8, temperature=temperature, seed=3, num_choices=2)
            for chat in chats[:3]
        )

        def say(batch, rows, logits):
            for i, row in enumerate(rows):
                if ill and row.ticket is ill_one.ticket and row.choice == 1 and len(row.speaker.ids) == 3:
                    logits[i, 1 if overflow > 0 else slice(None)] = overflow
            return own_say(batch, rows, logits)

        monkeypatch.setattr(RunningBatch, "_say", say)
        play(engine, {0: [first, ill_one], 2: [second]})
        return first, second, ill_one

    own_say = RunningBatch._say
    *well, other = told(ill=False)
    *still_well, failed = told(ill=True)
    assert [(w.texts, w.ends) for w in still_well] == [(w.texts, w.ends) for w in well]
    assert [type(event) for event in failed.events].count(Failure) == 1 and type(failed.events[-1]) is Failure
    assert other.ends and not failed.ends and "not finite" in str(failed.events[-1].error)
    assert caplog.text.count("a request failed: the model's logits are not finite") == 1  # the client is told to look
