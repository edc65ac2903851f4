"""Clients that leave, a server that is full, slow or broken."""

from __future__ import annotations

import dataclasses
import json
import re
import socket
import threading
from concurrent.futures import ThreadPoolExecutor

import openai
import pytest
from asking import CHATS, NAME, PATH, PATIENCE_S, body, patient, to_engine_chat
from pacing import held, slow, watch_pictures

from phantrol.inference.engine import Engine
from phantrol.inference.running import Failure, Piece
from phantrol.inference.sampling import Sampling
from phantrol.inference.scheduler import Scheduler
from phantrol.serving.limits import Limits


def ask_and_leave(running, request, when, route=PATH):
    """Send a request, and hang up once `when` holds, without having read a byte."""
    data = json.dumps(request).encode()
    head = f"POST {route} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    with socket.create_connection(("127.0.0.1", running.port), timeout=PATIENCE_S) as connection:
        connection.sendall(f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data)
        running.until(when)


def metrics(running):
    return patient.get(f"{running.url}/metrics").text


def num_said(running):
    """How many tokens were said to requests that are over; those of the tests before are."""
    running.until(lambda: not running.service.guard.in_flight)
    return float(re.search(r"^phantrol_answer_tokens_total (.*)$", metrics(running), re.MULTILINE)[1])


def test_who_leaves_a_stream_frees_the_row(running, engine):
    running.until(running.is_idle)
    before = num_said(running)
    with held(engine) as (passes, go):
        with patient.stream("POST", running.url + PATH, json=body(stream=True)) as answer:
            lines = answer.iter_lines()  # held: once it is forgotten, httpx leaves
            while '"content":"' not in (line := next(lines)) or '"content":""' in line:
                pass
            running.until(lambda: running.service.scheduler.num_running == 1)  # it joins right after its first word
            running.until(lambda: len(passes) == 20)
        assert num_said(running) == before + 19  # what was said counts, whether heard to its end or not
        go.set()
        running.until(running.is_idle)
        assert len(passes) < 30  # of 200


def test_who_leaves_before_a_whole_answer_frees_the_row(running, engine):
    running.until(running.is_idle)
    before = num_said(running)
    with held(engine) as (passes, go):
        ask_and_leave(running, body(), lambda: len(passes) == 20)
        assert num_said(running) == before + 19
        go.set()
        running.until(running.is_idle)
        assert len(passes) < 30
    assert f'phantrol_requests_total{{route="{PATH}",status="499"}}' in metrics(running)


@pytest.mark.parametrize("route", [PATH, "/v1/phantrol/explain"])
def test_who_leaves_in_the_middle_of_a_body_is_counted_and_is_no_fault(serve, caplog, route):
    head = f"POST {route} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 5000\r\n\r\n"
    with serve() as running:
        with socket.create_connection(("127.0.0.1", running.port), timeout=PATIENCE_S) as connection:
            connection.sendall(head.encode() + b"{")
            running.until(lambda: running.service.guard.in_flight == 1)
        counted = f'phantrol_requests_total{{route="{route}",status='
        running.until(lambda: counted in metrics(running))
        assert f'{counted}"499"}} 1.0' in metrics(running) and f'{counted}"500"' not in metrics(running)
        assert "phantrol_cancelled_requests_total 1.0" in metrics(running)
    assert "a request failed" not in caplog.text


def test_a_neighbour_who_leaves_changes_no_answer(running, engine):
    expected = engine.answer(to_engine_chat(CHATS[2]), max_new_tokens=200).text
    answers = []
    stays = threading.Thread(target=lambda: answers.append(patient.post(running.url + PATH, json=body(2)).json()))
    with slow(engine):
        stays.start()
        running.until(lambda: running.service.scheduler.num_running == 1)
        ask_and_leave(running, body(3), lambda: len(running.service.scheduler.batch.rows) == 2)
        stays.join()
    assert answers[0]["choices"][0]["message"] == {"role": "assistant", "content": expected, "refusal": None}


def test_a_full_server_says_come_again(serve, engine):
    limits = Limits(rows=1, queue=1, answer_tokens=256)
    with serve(limits) as running, held(engine, 1) as (_, go):
        statuses, waits, texts = [], [], []

        def one():
            answer = patient.post(running.url + PATH, json=body(1, max_tokens=20))
            if answer.status_code == 429:
                waits.append(int(answer.headers["retry-after"]))
                assert answer.json()["error"]["code"] == "queue_full"
            else:
                texts.append(answer.json()["choices"][0]["message"]["content"])
            statuses.append(answer.status_code)

        threads = [threading.Thread(target=one) for _ in range(6)]
        for thread in threads:
            thread.start()
        running.until(lambda: len(statuses) == 4)  # one is answered, one waits
        go.set()
        for thread in threads:
            thread.join()
        assert statuses == [429] * 4 + [200] * 2 and len(waits) == 4
        assert all(1 <= wait <= 60 for wait in waits)
        assert texts == [engine.answer(CHATS[1], max_new_tokens=20).text] * 2
        assert patient.post(running.url + PATH, json=body(1, max_tokens=2)).status_code == 200
        with pytest.raises(openai.BadRequestError, match="at most 1"):
            running.client().chat.completions.create(**body(1), n=2)


@pytest.mark.parametrize("number", [1, 3], ids=["the prompt is read", "a token is chosen"])
def test_the_queue_itself_is_full_where_the_door_lets_everyone_in(serve, engine, number):
    limits = Limits(rows=1, queue=1, answer_tokens=256)
    with serve(limits) as running, ThreadPoolExecutor(2) as pool, held(engine, number) as (passes, go):
        running.service.guard.limits = dataclasses.replace(limits, queue=64)
        scheduler, request = running.service.scheduler, body(max_tokens=20)
        told = [pool.submit(patient.post, running.url + PATH, json=request)]
        running.until(lambda: len(passes) == number)
        assert patient.get(f"{running.url}/health").json()["running"] == 1  # the row is taken
        told.append(pool.submit(patient.post, running.url + PATH, json=request))
        running.until(lambda: scheduler.num_waiting == 1)
        refused = [patient.post(running.url + PATH, json=request | {"stream": stream}) for stream in (False, True)]
        assert [answer.status_code for answer in refused] == [429, 429] and scheduler.num_waiting == 1
        for answer in refused:
            error = answer.json()["error"]
            said = answer.headers["retry-after"], error["type"], error["code"]
            assert said == ("2", "rate_limit_error", "queue_full")
        go.set()
        texts = [future.result().json()["choices"][0]["message"]["content"] for future in told]
        assert texts == [engine.answer(to_engine_chat(CHATS[0]), max_new_tokens=20).text] * 2


def test_what_takes_too_long_is_ended(serve, engine):
    with serve(Limits(request_s=0.4, answer_tokens=256)) as running, slow(engine, 0.02):
        answer = patient.post(running.url + PATH, json=body())
        assert answer.status_code == 504
        assert answer.json()["error"]["code"] == "timeout"
        assert "not done within 0.4 seconds" in answer.json()["error"]["message"]
        with pytest.raises(openai.APIError, match=r"not done within 0\.4 seconds"):
            for _ in running.client().chat.completions.create(**body(), stream=True):
                pass
        running.until(lambda: not running.service.guard.in_flight)
        assert "phantrol_cancelled_requests_total 0.0" in metrics(running)  # its client stayed to the end
        running.until(running.is_idle)


def test_a_fault_of_the_model_ends_who_was_in_it_and_nobody_else(serve, engine):
    with serve() as running:
        with slow(engine, 0, fails=lambda number: number == 1):
            assert patient.post(running.url + PATH, json=body(1)).status_code == 500
        assert "phantrol_time_to_first_token_seconds_count 0.0" in metrics(running)  # there was none
        with slow(engine, 0, fails=lambda number: number == 4):
            answer = patient.post(running.url + PATH, json=body(1))
            assert answer.status_code == 500
            error = answer.json()["error"]
            assert error["type"] == "server_error" and "0x7f" not in answer.text and "/usr" not in answer.text
        with slow(engine, 0, fails=lambda number: number == 4), pytest.raises(openai.APIError, match="server failed"):
            for _ in running.client().chat.completions.create(**body(1), stream=True):
                pass
        text = running.client().chat.completions.create(**body(1, max_tokens=9)).choices[0].message.content
        assert text == engine.answer(CHATS[1], max_new_tokens=9).text


def test_a_prompt_that_fails_is_alone_in_failing(engine):
    scheduler = Scheduler(engine)  # not started: its turns are taken here
    heard = {chat: [] for chat in (0, 1, 3)}
    for chat, events in heard.items():
        prompt = engine.processor.encode(to_engine_chat(CHATS[chat]), True)
        if chat == 3:
            prompt = type(prompt)(prompt.input_ids, prompt.answer_mask, prompt.pixel_values[:1])  # a picture is lost
        scheduler.submit(prompt, Sampling(max_new_tokens=8), events.append)
    for _ in range(8):
        scheduler.turn()
    assert [type(event) for event in heard[3]] == [Failure]
    for chat in (0, 1):
        text = "".join(event.text for event in heard[chat] if isinstance(event, Piece))
        assert text == engine.answer(to_engine_chat(CHATS[chat]), max_new_tokens=8).text


def submit(scheduler, engine, chat):
    """→ (the ticket, what its request is told)."""
    heard = []
    prompt = engine.processor.encode(to_engine_chat(CHATS[chat]), True)
    return scheduler.submit(prompt, Sampling(max_new_tokens=8), heard.append), heard


@pytest.mark.parametrize("broken", ["who leaves", "who comes"])
def test_a_fault_between_two_steps_ends_who_was_running_and_nobody_else(engine, monkeypatch, broken):
    def fail(*args):
        raise RuntimeError("out of memory")

    scheduler = Scheduler(engine)  # not started: what its turn raises would end its thread
    (_, heard), (leaver, _) = submit(scheduler, engine, 0), submit(scheduler, engine, 1)
    scheduler.turn()
    assert scheduler.num_running == 2
    with monkeypatch.context() as patch:
        if broken == "who leaves":
            patch.setattr(scheduler.batch._cache, "batch_select_indices", fail)
            leaver.cancel()
        else:
            patch.setattr(scheduler, "_take_waiting", fail)
        scheduler.turn()
    assert isinstance(heard[-1], Failure) and "out of memory" in str(heard[-1].error)
    assert scheduler.num_running == 0
    _, heard = submit(scheduler, engine, 0)
    for _ in range(8):
        scheduler.turn()
    text = "".join(event.text for event in heard if isinstance(event, Piece))
    assert text == engine.answer(to_engine_chat(CHATS[0]), max_new_tokens=8).text


def test_looks_inside_the_model_take_turns_with_the_batch(engine):
    scheduler = Scheduler(engine)
    ticket, _ = submit(scheduler, engine, 0)
    looks = [scheduler.between_steps(lambda engine: ticket.num_new_tokens) for _ in range(3)]
    for count in (1, 2, 3):
        scheduler.turn()
        assert [look.done() for look in looks] == [True] * count + [False] * (3 - count)
    assert [look.result() for look in looks] == [0, 2, 3]  # a turn that reads a prompt says two tokens


def test_a_look_whose_client_has_left_is_not_taken(serve, engine, monkeypatch):
    looks, route, num_pictures = [], "/v1/phantrol/explain", watch_pictures(monkeypatch)
    monkeypatch.setattr("phantrol.serving.page.maps_as_json", lambda *args: looks.append(args) or {})
    with serve() as running, held(engine) as (passes, go):
        calls = running.service.scheduler._calls
        stream = running.client().chat.completions.create(**body(), stream=True)
        running.until(lambda: len(passes) == 20)
        ask_and_leave(running, {"messages": CHATS[0]}, lambda: calls and num_pictures(), route)
        running.until(lambda: calls[0][1].cancelled())
        running.until(lambda: not num_pictures(), PATIENCE_S / 4)  # though its turn has not come: it is held for longer
        go.set()
        running.until(lambda: not calls)
        assert patient.post(running.url + route, json={"messages": CHATS[1]}).json() == {}
        assert len(looks) == 1 and looks[0][1] == CHATS[1]  # who stays gets a look
        stream.close()
        running.until(lambda: f'phantrol_requests_total{{route="{route}",status="499"}} 1.0' in metrics(running))


def test_a_model_that_cannot_batch_answers_one_at_a_time_and_says_so(tiny_model, engine, serve_engine):
    import torch

    from phantrol.modifiers.trol import TrolConfig

    tokenizer = engine.processor.tokenizer
    sliding = Engine(
        *tiny_model(tokenizer, [TrolConfig()], family="mistral", sliding_window=6, noise=0.4, dtype=torch.float64)
    )
    with serve_engine(sliding) as running:
        health = patient.get(f"{running.url}/health").json()
        assert health["batching"] is False and "one at a time" in health["why_not"]
        texts = [None] * 4

        def one(chat):
            answer = patient.post(running.url + PATH, json=body(chat, max_tokens=10))
            texts[chat] = answer.json()["choices"][0]["message"]["content"]

        threads = [threading.Thread(target=one, args=(chat,)) for chat in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert texts == [sliding.answer(to_engine_chat(chat), max_new_tokens=10).text for chat in CHATS[:4]]


def test_a_look_inside_the_model_waits_for_its_turn_and_changes_no_answer(running, engine):
    expected = engine.answer(to_engine_chat(CHATS[3]), max_new_tokens=80).text
    maps = {"model": NAME, "messages": [*CHATS[0][:1]]}
    typed = {"model": NAME, "messages": [{"role": "user", "content": "What is <image>?"}], "max_tokens": 3}
    with slow(engine, 0.002):
        stream = running.client().chat.completions.create(**body(3, max_tokens=80), stream=True)
        text, looks, typing = "", [], []
        for number, chunk in enumerate(stream):
            text += chunk.choices[0].delta.content or ""
            if number % 8 == 0:
                looks.append(patient.post(f"{running.url}/v1/phantrol/explain", json=maps))
                typing.append(patient.post(running.url + PATH, json=typed).json())
    assert text == expected
    assert len(looks) > 3 and {look.status_code for look in looks} == {200}
    assert len({look.text for look in looks}) == 1
    assert len({told["usage"]["prompt_tokens"] for told in typing}) == 1
    too_long = [{"role": "user", "content": "é漢" * 400}]
    refused = patient.post(f"{running.url}/v1/phantrol/explain", json={"messages": too_long})
    assert refused.status_code == 400 and refused.json()["error"]["code"] == "context_length_exceeded"
    assert patient.post(f"{running.url}/v1/phantrol/explain", json={"messages": []}).status_code == 400
