from __future__ import annotations

import re
import time

import numpy as np
import pytest
import torch
from transformers import StopStringCriteria

from phantrol.inference.engine import Engine
from phantrol.inference.options import REFUSED


def test_a_batch_gives_each_chat_the_answer_that_it_gets_alone(engine, chats):
    alone = [engine.answer(chat, max_new_tokens=12) for chat in chats]
    assert len({answer.text for answer in alone}) > len(chats) // 2  # the model listens: the answers differ
    for batch_size in (1, 3, 32):
        assert engine.answer_batch(chats, max_new_tokens=12, batch_size=batch_size) == alone


def test_padding_that_is_not_masked_would_be_seen(engine, chats, monkeypatch):
    alone = [engine.answer(chat, max_new_tokens=12) for chat in chats]
    pad = engine.pad_left

    def pad_without_mask(prompts):
        inputs = pad(prompts)
        return inputs | {"attention_mask": torch.ones_like(inputs["attention_mask"])}

    monkeypatch.setattr(engine, "pad_left", pad_without_mask)
    assert engine.answer_batch(chats, max_new_tokens=12) != alone


def test_answers_depend_on_the_picture(engine, chats):
    chat = chats[0]
    other = [{"role": "user", "content": [chats[5][0]["content"][0], chat[0]["content"][1]]}]
    assert engine.answer(chat).text != engine.answer(other).text


def test_the_answer_is_what_the_model_itself_says_step_by_step(engine, chats):
    """Without generate, without a cache: the most likely token, again and again."""
    for chat in chats[:4]:
        prompt = engine.processor.encode(chat, add_generation_prompt=True)
        ids = list(prompt.input_ids)
        with torch.inference_mode():
            for _ in range(8):
                ids.append(int(engine.model(torch.tensor([ids]), prompt.pixel_values).logits[0, -1].argmax()))
                if ids[-1] == engine.processor.end_of_turn_id:
                    break
        answer = engine.answer(chat, max_new_tokens=8)
        assert answer.text == engine.processor.decode(ids[len(prompt.input_ids) :])
        assert (answer.num_prompt_tokens, answer.num_new_tokens) == (
            len(prompt.input_ids),
            len(ids) - len(prompt.input_ids),
        )


def test_finish_reasons(engine, build_engine, chats):
    cut = engine.answer(chats[0], max_new_tokens=6)
    assert (cut.finish_reason, cut.num_new_tokens) == ("length", 6)
    # the third token of that answer becomes the end of turn
    prompt = engine.processor.encode(chats[0], add_generation_prompt=True)
    inputs = {"input_ids": torch.tensor([prompt.input_ids]), "pixel_values": prompt.pixel_values}
    ids = engine.model.generate(**inputs, max_new_tokens=6, do_sample=False)[0, len(prompt.input_ids) :].tolist()
    ending = build_engine()
    ending.model.generation_config.eos_token_id = [ids[2], 5]
    ending = Engine(ending.model, ending.processor)
    expected = ending.answer(chats[0], max_new_tokens=6)
    assert expected.finish_reason == "stop"
    assert expected.num_new_tokens == ids.index(ids[2]) + 1
    # in a batch where others go on for longer
    batch = ending.answer_batch(chats, max_new_tokens=6)
    assert batch[0] == expected
    assert any(answer.finish_reason == "length" for answer in batch)


def has_a_stop(answer):
    """Whether its third to fifth letters are whole: no text has the half letters of random tokens as a stop string."""
    return len(answer.text) > 6 and "\N{REPLACEMENT CHARACTER}" not in answer.text[2:5]


def test_a_stop_string_ends_one_row_and_not_its_neighbours(engine, chats):
    alone = [engine.answer(chat, max_new_tokens=10) for chat in chats]
    first = next(answer for answer in alone if has_a_stop(answer))
    stop = first.text[2:5]
    stopped = [engine.answer(chat, max_new_tokens=10, stop_strings=[stop]) for chat in chats]
    assert stopped[alone.index(first)].num_new_tokens < 10
    assert stopped[alone.index(first)].finish_reason == "stop"
    assert {answer.num_new_tokens for answer in stopped} != {10}
    assert engine.answer_batch(chats, max_new_tokens=10, stop_strings=[stop]) == stopped


def test_why_an_answer_ended(engine, chats):
    """A stop string may end on the last token that is allowed; and time may end an answer before."""
    alone = [engine.answer(chat, max_new_tokens=10) for chat in chats]
    chat, whole = next(pair for pair in zip(chats, alone, strict=True) if has_a_stop(pair[1]))
    stopped = engine.answer(chat, max_new_tokens=10, stop_strings=[whole.text[2:5]])
    last = engine.answer(chat, max_new_tokens=stopped.num_new_tokens, stop_strings=[whole.text[2:5]])
    assert last == stopped and last.finish_reason == "stop"
    assert engine.answer(chat, max_new_tokens=stopped.num_new_tokens).finish_reason == "length"
    assert engine.answer(chat, max_new_tokens=10, max_time=0.0).finish_reason == "length"


def test_padding_that_looks_like_an_end_of_turn_is_not_counted(build_engine, chats):
    """Where the tokenizer pads with the token that ends a turn, as many do."""
    engine = build_engine()
    first = next(answer for answer in (engine.answer(chat, 10) for chat in chats) if has_a_stop(answer))
    options = dict(max_new_tokens=10, stop_strings=[first.text[2:5]])
    stopped = [engine.answer(chat, **options) for chat in chats]
    assert len({answer.num_new_tokens for answer in stopped}) > 1
    engine.processor.tokenizer.pad_token_id = engine.end_ids[0]
    assert engine.pad_id == engine.processor.end_of_turn_id
    assert engine.answer_batch(chats, **options) == stopped
    assert engine.answer_batch(chats, num_beams=2, **options) == [
        engine.answer(chat, num_beams=2, **options) for chat in chats
    ]


def test_stop_strings_leave_the_tokenizer_of_the_prompts_alone(engine, chats):
    """Another thread may just have switched its special tokens off, to spell a text that somebody typed."""
    backend, stop = engine.processor.tokenizer.backend_tokenizer, ["never said before"]
    prompt = engine.encode(chats[0], 4)
    backend.encode_special_tokens = True
    engine._generate([prompt], 4, {"stop_strings": stop})
    assert backend.encode_special_tokens
    StopStringCriteria(engine.processor.tokenizer, ["nor this"])  # the control
    assert not backend.encode_special_tokens


def test_the_model_is_put_into_eval_mode_and_keeps_no_gradients(build_engine, chats):
    engine = build_engine(attention_dropout=0.9)
    engine.model.train()
    first = engine.answer(chats[0])
    assert not engine.model.training
    assert engine.answer(chats[0]) == first
    assert all(parameter.grad is None and parameter.requires_grad for parameter in engine.model.parameters())


def test_sampling_is_an_option(engine, chats):
    texts = set()
    for seed in range(4):
        torch.manual_seed(seed)
        texts.add(engine.answer(chats[0], max_new_tokens=8, do_sample=True, temperature=5.0).text)
    assert len(texts) > 1


def test_answers_come_as_they_are_ready_and_refused_chats_beside_them(engine, chats, monkeypatch):
    wrong = [{"role": "user", "content": " "}]
    asked = [chats[0], wrong, *chats[1:]]
    alone = [engine.answer(chat, max_new_tokens=6) for chat in chats]
    sizes = []
    generate = engine._generate
    monkeypatch.setattr(
        engine, "_generate", lambda prompts, *rest: sizes.append(len(prompts)) or generate(prompts, *rest)
    )
    got = list(engine.answer_each(asked, max_new_tokens=6, batch_size=2))
    assert sorted(index for index, _ in got) == list(range(len(asked)))
    assert all(size <= 2 for size in sizes) and len(sizes) > 2
    answers = dict(got)
    assert isinstance(answers.pop(1), ValueError)
    assert [answers[index] for index in sorted(answers)] == alone


def test_the_next_prompts_are_read_while_the_model_is_at_work(engine, chats, monkeypatch):
    many = chats * 3
    read, seen = [], []
    encode, generate = engine.encode, engine._generate
    monkeypatch.setattr(engine, "encode", lambda chat, tokens: read.append(chat) or encode(chat, tokens))

    def slowly(prompts, *rest):
        deadline = time.monotonic() + 240
        first = not seen
        while first and len(read) < 3 and time.monotonic() < deadline:  # batch 1 is one prompt; two more come meanwhile
            time.sleep(0.01)
        seen.append(len(read))
        return generate(prompts, *rest)

    monkeypatch.setattr(engine, "_generate", slowly)
    coming = engine.answer_each(many, max_new_tokens=2, batch_size=1)
    next(coming)
    assert seen[0] >= 3
    coming.close()
    stopped = len(read)
    time.sleep(0.1)
    assert len(read) == stopped < len(many)  # and nothing is read after that


def test_no_chats_no_answers(engine):
    assert engine.answer_batch([]) == []


@pytest.mark.parametrize(
    ("call", "complaint"),
    [
        (lambda engine, chat: engine.answer(chat, max_new_tokens=0), "max_new_tokens is 0"),
        (lambda engine, chat: engine.answer_batch([chat], batch_size=0), "batch_size is 0"),
        (lambda engine, chat: list(engine.rank_each([chat], [["a", "b"]], batch_size=0)), "batch_size is 0"),
        (lambda engine, chat: engine.answer([]), "chat is empty"),
        (lambda engine, chat: engine.answer_batch([chat, [{"role": "user", "content": " "}]]), "without text"),
        (lambda engine, chat: engine.answer(chat, max_new_tokens=5000), "reads at most 2048"),
        (lambda engine, chat: engine.stream([]), "chat is empty"),  # already before the first piece is asked for
    ],
)
def test_faulty_requests_say_what_is_wrong(engine, chats, call, complaint):
    with pytest.raises(ValueError, match=complaint):
        call(engine, chats[0])


@pytest.mark.parametrize("name", REFUSED)
def test_options_that_an_answer_cannot_have_are_refused_before_anything_is_said(engine, chats, name, monkeypatch):
    monkeypatch.setattr(engine, "_generate", None)
    for call in (
        lambda **options: engine.answer(chats[0], **options),
        lambda **options: engine.answer_batch(chats, **options),
        lambda **options: engine.stream(chats[0], **options),
    ):
        with pytest.raises(ValueError, match=f"^got the option {name}, expected others of `generate`: .+$"):
            call(**{name: 2})


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (dict(temperature=1.9), "got temperature=1.9 without do_sample=True: add it"),
        (dict(top_p=0.9, do_sample=False), "got top_p=0.9 without do_sample=True"),
        (dict(top_k=3), "got top_k=3 without do_sample=True"),
        (dict(num_beams=0), "num_beams is 0: expected a whole number, 1 or more"),
        (dict(num_beams="2"), "num_beams is '2': expected a whole number"),
        (dict(do_sample=True, top_p=2), "top_p is 2: expected a number from 0 to 1"),
        (dict(do_sample=True, top_k=-1), "top_k is -1: expected a whole number, 0 or more"),
        (
            dict(do_sample=True, temperature=0),
            "temperature is 0: expected a number above 0, or neither it nor do_sample",
        ),
        (dict(do_sample=True, temperature=float("nan")), "temperature is nan"),
    ],
)
def test_options_that_would_fail_or_not_be_looked_at_are_refused(engine, chats, options, complaint):
    for call in (engine.answer, lambda *args, **options: engine.answer_batch(chats, **options)):
        with pytest.raises(ValueError, match=f"^{re.escape(complaint)}[^\n]*$"):
            call(chats[0], **options)


@pytest.mark.parametrize("options", [{}, dict(num_beams=2), dict(do_sample=True, temperature=0.7)])
@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
def test_a_model_whose_numbers_are_none_gives_no_empty_answer(build_engine, chats, options, broken):
    engine = build_engine()
    with torch.no_grad():
        next(engine.model.projector.parameters())[0] = broken
    engine.answer(chats[1], max_new_tokens=3, **options)  # shows no picture
    with pytest.raises(ValueError, match="logits are not finite: its weights hold NaN"):
        engine.answer_batch(chats[:2], max_new_tokens=3, **options)
    if not options:
        with pytest.raises(ValueError, match="not finite"):
            list(engine.stream(chats[0], max_new_tokens=3))
        with pytest.raises(ValueError, match="not finite"):
            list(engine.rank_each([chats[0]], [["red", "blue"]]))


def test_numbers_of_chance_may_be_of_any_kind(engine, chats):
    """transformers asks temperature for a float, and top_k for an int."""
    for options in (dict(temperature=2, top_k=np.int64(3)), dict(temperature=np.float32(0.7))):
        torch.manual_seed(0)
        said = engine.answer(chats[0], max_new_tokens=3, do_sample=True, **options)
        torch.manual_seed(0)
        plain = {name: value.item() if hasattr(value, "item") else float(value) for name, value in options.items()}
        assert engine.answer(chats[0], max_new_tokens=3, do_sample=True, **plain) == said


def test_what_the_generation_config_says_of_its_output_does_not_matter(build_engine, chats):
    engine = build_engine()
    expected = engine.answer_batch(chats, max_new_tokens=4)
    engine.model.generation_config.update(return_dict_in_generate=True)
    assert engine.answer_batch(chats, max_new_tokens=4) == expected
