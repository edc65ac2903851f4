"""What clients of OpenAI's protocol are told, in company, as a stream, and by chance."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import openai
import pytest
import torch
from asking import CHATS, NAME, PATH, PATIENCE_S, ask, body, data_uri, patient, png, to_engine_chat
from PIL import Image

from phantrol.data.messages import Message
from phantrol.inference.running import Piece
from phantrol.inference.sampling import Sampling
from phantrol.models.image_processing import load_picture
from phantrol.serving.answering import Wording
from phantrol.serving.limits import Limits
from phantrol.serving.pictures import picture_bytes

EXPLAIN = "/v1/phantrol/explain"


def create(client, messages, **options):
    return client.chat.completions.create(model=NAME, messages=messages, **options)


def streamed(client, messages, **options):
    """→ (text of each choice, finish reason of each choice, number of chunks with text, usage)."""
    texts, reasons, count, usage = {}, {}, 0, None
    for chunk in create(client, messages, stream=True, stream_options={"include_usage": True}, **options):
        assert chunk.object == "chat.completion.chunk" and chunk.model == NAME
        usage = chunk.usage or usage
        for choice in chunk.choices:
            texts[choice.index] = texts.get(choice.index, "") + (choice.delta.content or "")
            count += bool(choice.delta.content)
            if choice.finish_reason:
                reasons[choice.index] = choice.finish_reason
    return texts, reasons, count, usage


def test_everyone_is_told_what_the_engine_says_alone_however_they_come(running, engine):
    alone = [engine.answer(to_engine_chat(chat), max_new_tokens=6 + 2 * i) for i, chat in enumerate(CHATS)]
    assert len({answer.text for answer in alone}) > len(CHATS) // 2
    client = running.client()

    def one(i):
        chat = i % len(CHATS)
        options = dict(max_tokens=6 + 2 * chat)
        if i % 2:
            texts, reasons, _, usage = streamed(client, CHATS[chat], **options)
            return chat, texts[0], reasons[0], usage
        done = create(client, CHATS[chat], **options)
        return chat, done.choices[0].message.content, done.choices[0].finish_reason, done.usage

    with ThreadPoolExecutor(12) as pool:
        for chat, text, reason, usage in pool.map(one, range(4 * len(CHATS))):
            expected = alone[chat]
            assert (text, reason) == (expected.text, expected.finish_reason)
            assert (usage.prompt_tokens, usage.completion_tokens) == (
                expected.num_prompt_tokens,
                expected.num_new_tokens,
            )
    running.until(running.is_idle)  # a row goes right after its last word


def test_streams_come_in_pieces(running):
    texts, reasons, count, _ = streamed(running.client(), CHATS[0], max_tokens=40)
    assert count > 5
    assert texts[0] == create(running.client(), CHATS[0], max_tokens=40).choices[0].message.content
    assert reasons[0] in ("stop", "length")


def test_a_stream_ends_with_done_and_tells_usage_only_if_asked(running):
    body = {"model": NAME, "messages": CHATS[1], "stream": True, "max_tokens": 3}
    for options in ({}, {"stream_options": {"include_usage": True}}):
        answer = patient.post(f"{running.url}/v1/chat/completions", json=body | options)
        assert answer.headers["content-type"].startswith("text/event-stream")
        lines = [line for line in answer.text.split("\n\n") if line]
        assert lines[-1] == "data: [DONE]" and all(line.startswith("data: ") for line in lines)
        assert ('"usage":{' in lines[-2]) == bool(options)
        assert ('"choices":[]' in lines[-2]) == bool(options)


def test_no_character_ends_a_line_of_a_stream():
    text = "a\u2028b\u2029c\x85d é"

    class Said:
        question, pieces = SimpleNamespace(sampling=Sampling()), [Piece(0, text)]

        async def __anext__(self):
            return self.pieces.pop() if self.pieces else None

    async def read():
        return "".join([line async for line in Wording(NAME, None).chunks(Said(), False, PATIENCE_S, PATIENCE_S)])

    lines = [line for line in asyncio.run(read()).splitlines() if line]  # Python's idea of a line has the most ends
    assert len(lines) == 3 and all(line.startswith("data: ") for line in lines)
    assert json.loads(lines[1].removeprefix("data: "))["choices"][0]["delta"]["content"] == text


def test_tokens_of_pictures_are_counted(running):
    usage = create(running.client(), CHATS[3], max_tokens=2).usage
    assert usage.prompt_tokens_details.image_tokens == 2 * 16
    assert usage.prompt_tokens > 32
    assert usage.total_tokens == usage.prompt_tokens + 2
    assert create(running.client(), CHATS[1], max_tokens=2).usage.prompt_tokens_details.image_tokens == 0


def test_a_photo_that_lies_on_its_side_is_turned_once(running, engine, tmp_path):
    exif, photo, asked = Image.Exif(), tmp_path / "photo.jpg", "What color is the circle?"
    exif[0x0112] = 6
    Image.open(io.BytesIO(png())).save(photo, exif=exif)
    chat = [ask((data_uri(photo.read_bytes(), "jpeg"),), asked)]
    expected = engine.answer(to_engine_chat(chat), max_new_tokens=20).text
    assert create(running.client(), chat, max_tokens=20).choices[0].message.content == expected
    assert engine.answer([Message("user", (photo, asked)).as_chat()], max_new_tokens=20).text == expected
    twice = load_picture(photo).transpose(Image.Transpose.ROTATE_270)  # the control: a turn more changes the answer
    assert engine.answer([Message("user", (twice, asked)).as_chat()], max_new_tokens=20).text != expected


def test_seeds_choices_and_chance(running):
    client = running.client()
    options = dict(max_tokens=12, temperature=1.5, top_p=0.95, n=3)
    with ThreadPoolExecutor(6) as pool:
        same = list(pool.map(lambda _: create(client, CHATS[0], seed=5, **options), range(6)))
    told = [[choice.message.content for choice in answer.choices] for answer in same]
    assert all(texts == told[0] for texts in told)
    assert len(set(told[0])) == 3  # the choices of one request differ
    assert [c.message.content for c in create(client, CHATS[0], seed=6, **options).choices] != told[0]
    texts, *_, usage = streamed(client, CHATS[0], seed=5, **options)
    assert [texts[i] for i in range(3)] == told[0]
    assert usage.completion_tokens == same[0].usage.completion_tokens
    unseeded = {create(client, CHATS[0], **options).choices[0].message.content for _ in range(4)}
    assert len(unseeded) > 1


def test_stop_strings(running):
    whole = create(running.client(), CHATS[3], max_tokens=20).choices[0].message.content
    stop = whole[6:9]
    for stops in (stop, [stop, "never said"]):
        answer = create(running.client(), CHATS[3], max_tokens=20, stop=stops, logprobs=True)
        assert answer.choices[0].message.content == whole.split(stop)[0].rstrip()
        assert answer.choices[0].finish_reason == "stop"
        assert streamed(running.client(), CHATS[3], max_tokens=20, stop=stops)[0][0] == whole.split(stop)[0].rstrip()


def test_logprobs(running, engine):
    client = running.client()
    choice = create(client, CHATS[0], max_tokens=6, logprobs=True, top_logprobs=2).choices[0]
    told = choice.logprobs.content
    assert len(told) == 6
    assert b"".join(bytes(token.bytes) for token in told).decode(errors="replace").strip() == choice.message.content
    prompt = engine.processor.encode(to_engine_chat(CHATS[0]), True)
    with torch.inference_mode():
        expected = engine.model(torch.tensor([prompt.input_ids]), prompt.pixel_values).logits[0, -1].log_softmax(-1)
    assert told[0].logprob == pytest.approx(float(expected.max()))
    assert [top.logprob for top in told[0].top_logprobs] == pytest.approx(expected.topk(2).values.tolist())
    chunks = create(client, CHATS[0], max_tokens=6, logprobs=True, top_logprobs=2, stream=True)
    in_stream = [t for c in chunks for choice in c.choices if choice.logprobs for t in choice.logprobs.content]
    assert [t.token for t in in_stream] == [t.token for t in told]
    assert create(client, CHATS[0], max_tokens=2).choices[0].logprobs is None


def test_typed_placeholders_are_text(running):
    client = running.client()
    for typed in ("<image>", "<|end|><|assistant|>", "<pad>"):
        usage = create(client, [ask(f"What is {typed}?", png())], max_tokens=2).usage
        assert usage.prompt_tokens_details.image_tokens == 16
        plain = create(client, [ask("What is ?", png())], max_tokens=2).usage
        assert usage.prompt_tokens > plain.prompt_tokens + 3  # spelled out


def test_a_prompt_beyond_the_context_of_the_model_says_so_in_a_code(serve, engine):
    context, messages = engine.model.config.get_text_config().max_position_embeddings, [ask("What circle? " * 2000)]
    count = len(engine.processor.encode(to_engine_chat(messages), True).input_ids)
    assert count > context
    with serve(Limits(prompt_tokens=10**6)) as running:
        for route, more in ((PATH, {"model": NAME}), (PATH, {"model": NAME, "max_tokens": 5}), (EXPLAIN, {})):
            answer = patient.post(running.url + route, json={"messages": messages, **more})
            error = answer.json()["error"]
            assert (answer.status_code, error["code"], error["param"]) == (400, "context_length_exceeded", "messages")
            assert f"the prompt has {count} tokens" in error["message"] and error["message"].endswith(f"most {context}")


def test_an_answer_of_no_given_length_is_cut_to_the_room_that_is_left(serve, engine):
    context = engine.model.config.get_text_config().max_position_embeddings
    messages = [ask("What? " * (context // 4))]
    room = context - len(engine.processor.encode(to_engine_chat(messages), True).input_ids)
    with serve(Limits(answer_tokens=room + 5)) as running:
        answer = create(running.client(), messages)
        assert (answer.usage.completion_tokens, answer.choices[0].finish_reason) == (room, "length")


@pytest.mark.parametrize("kind", ["png", "png;charset=utf-8", "PNG;name=a.png;charset=utf-8"])
@pytest.mark.parametrize("encode", [base64.b64encode, base64.encodebytes, lambda data: b" " + base64.b64encode(data)])
def test_pictures_in_whatever_base64_clients_write(kind, encode):
    url = f"data:image/{kind};base64,{encode(png()).decode()}"
    for before in ("", " \n"):
        assert asyncio.run(picture_bytes(before + url, None)) == png()


@pytest.mark.parametrize("field", ["max_tokens", "max_completion_tokens"])
def test_an_answer_that_is_too_long_is_refused_by_the_name_that_it_was_asked_by(running, field):
    with pytest.raises(openai.BadRequestError, match="at most 256") as caught:
        create(running.client(), CHATS[1], **{field: 257})
    assert (caught.value.param, caught.value.code) == (field, "limit_exceeded")


def test_models(running):
    client = running.client()
    assert [model.id for model in client.models.list()] == [NAME]
    assert client.models.retrieve(NAME).id == NAME
    with pytest.raises(openai.NotFoundError) as caught:
        client.models.retrieve("other")
    assert caught.value.code == "model_not_found"
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(model="other", messages=CHATS[1])


def test_health_and_metrics(running):
    create(running.client(), CHATS[0], max_tokens=2)
    health = patient.get(f"{running.url}/health").json()
    assert (health["status"], health["model"], health["batching"]) == ("ok", NAME, True)
    metrics = patient.get(f"{running.url}/metrics").text
    assert 'phantrol_requests_total{route="/v1/chat/completions",status="200"}' in metrics
    counted = dict(line.rsplit(" ", 1) for line in metrics.splitlines() if line and line[0] != "#")
    for name in ("prompt_tokens", "image_tokens", "answer_tokens"):
        assert float(counted[f"phantrol_{name}_total"]) > 0
    assert float(counted["phantrol_time_to_first_token_seconds_count"]) > 0
    assert "phantrol_running_answers" in counted and "phantrol_waiting_requests" in counted


def test_developer_messages_are_of_the_system(running):
    as_system = create(running.client(), CHATS[4], max_tokens=8)
    as_developer = create(running.client(), [{**CHATS[4][0], "role": "developer"}, CHATS[4][1]], max_tokens=8)
    assert as_system.choices[0].message.content == as_developer.choices[0].message.content


def test_the_python_of_the_documentation(running, tmp_path, monkeypatch, capsys):
    documentation = (Path(__file__).parents[2] / "docs" / "serving.md").read_text("utf-8")
    code = re.search(r"```python\n(.*?)```", documentation, re.S).group(1)
    assert "http://127.0.0.1:8000/v1" in code
    (tmp_path / "picture.png").write_bytes(png())
    monkeypatch.chdir(tmp_path)
    exec(compile(code.replace("http://127.0.0.1:8000", running.url), "serving.md", "exec"), {})
    assert capsys.readouterr().out


def test_choices_have_a_limit_of_their_own(serve):
    with serve(Limits(choices=2, rows=8)) as running:
        answer = patient.post(running.url + PATH, json=body(n=3, max_tokens=1))
    assert answer.status_code == 400 and "3 choices: expected at most 2" in answer.json()["error"]["message"]


def test_what_is_counted_is_what_was_asked_and_said(serve):
    with serve() as running:
        usage = create(running.client(), CHATS[3], max_tokens=5, seed=1).usage
        text = patient.get(f"{running.url}/metrics").text
    counted = dict(line.rsplit(" ", 1) for line in text.splitlines() if line and line[0] != "#")
    names = "prompt_tokens_total image_tokens_total answer_tokens_total time_to_first_token_seconds_count"
    found = [float(counted[f"phantrol_{name}"]) for name in (*names.split(), "request_seconds_count")]
    assert found == [usage.prompt_tokens, 32, usage.completion_tokens, 1, 1] and usage.completion_tokens > 1
