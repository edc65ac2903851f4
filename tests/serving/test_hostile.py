"""Every hostile request gets its refusal in OpenAI's shape, is told nothing of this machine, and harms nobody."""

from __future__ import annotations

import io
import json
import re
import socket
import struct
import subprocess
import sys
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from asking import CHATS, NAME, PATIENCE_S, patient, png
from hostile import HOSTILE, KEYS, PATH, WIRE, body, chat, file, jpeg_of_scans, png_of_size
from openai.types.chat.completion_create_params import CompletionCreateParamsBase
from PIL import Image, PngImagePlugin
from pydantic import ValidationError

from phantrol.data.pictures import picture_size
from phantrol.models.image_processing import load_picture
from phantrol.serving import reading
from phantrol.serving.errors import Refusal
from phantrol.serving.limits import Limits
from phantrol.serving.pictures import decode_picture
from phantrol.serving.protocol import ChatRequest, ConversationRequest, parse

TYPES = {"invalid_request_error", "authentication_error", "permission_error", "rate_limit_error", "server_error"}
TELLING = re.compile(r"0x[0-9a-f]{4,}|/usr|/tmp|/home|/root|/etc/|site-packages|Traceback|\.py\b|<_io")


@pytest.fixture(scope="module")
def http(running):
    with httpx.Client(base_url=running.url, timeout=PATIENCE_S) as client:
        yield client


def test_the_corpus_is_as_large_as_it_says():
    assert len({name for name, *_ in HOSTILE}) == len(HOSTILE) >= 60


@pytest.mark.parametrize(("sent", "status", "words"), [case[1:] for case in HOSTILE], ids=[case[0] for case in HOSTILE])
def test_a_hostile_request_is_refused(http, sent, status, words):
    if isinstance(sent, dict):
        answer = http.post(PATH, json=sent)
    else:
        # as it stands: httpx would tidy the path up
        request = http.build_request(sent.method, "/", content=sent.body, headers=sent.headers)
        request.url = request.url.copy_with(raw_path=sent.path.encode())
        answer = http.send(request)
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["type"] in TYPES
    assert words in error["message"]
    assert len(answer.text) < 1000 and not TELLING.search(answer.text), answer.text


def of(*parts) -> dict:
    return chat({"role": "user", "content": list(parts)})


TEXT, IMAGE = {"type": "text", "text": "What?"}, {"type": "image_url", "image_url": {"url": 1}}
WRONG = [
    (chat(stream="yes"), "stream", "valid boolean"),
    (chat(stream_options=3), "stream_options", "should be"),
    (chat(strict=True), "strict", "does not know"),
    (chat(**{"str": 1}), "str", "does not know"),
    (chat(**{"list[": 1}), "list[", "does not know"),
    (chat(stop={}), "stop", "expected a string, or up to 4 in a list"),
    (chat(top_logprobs=2), "top_logprobs", "without logprobs"),
    (chat(stream_options={}), "stream_options", "without stream"),
    (chat(max_completion_tokens=3), "max_completion_tokens", "differs from max_tokens"),
    (chat({"role": "assistant", "content": "a", "annotations": [1]}), "messages.0.annotations", "expected an empty"),
    (chat(stop=["a", 1]), "stop.1", "valid string"),
    (chat({"role": "user", "content": 1}, temperature=-1), "messages.0.content", "text, or a list of parts"),
    (of(), "messages.0.content", "at least 1 item"),
    (of("What?"), "messages.0.content.0", "should be"),
    (of(TEXT, {"type": "text"}), "messages.0.content.1.text", "is missing"),
    (of(TEXT, {"type": "text", "text": 1}), "messages.0.content.1.text", "valid string"),
    (of(IMAGE), "messages.0.content.0.image_url.url", "valid string"),
    (of({**IMAGE, "image_url": "http://a"}), "messages.0.content.0.image_url", 'expected {"url": "'),
    (chat({"role": "tool", "tool_call_id": "a", "content": "b"}), "messages.0.role", "system, .* has no tools"),
    (of({**TEXT, "cache_control": {}}), "messages.0.content.0.cache_control", "does not know"),
    (of({"type": "audio"}), "messages.0.content.0", "type text or image_url"),
    (of({"type": "a" * 9000}), "messages.0.content.0", "type text or image_url"),
    (of({"text": "What?"}), "messages.0.content.0", "type text or image_url"),
    (chat(model=None), "model", "is missing"),
    (chat(audio={"voice": "alloy"}), "audio", "does not do this"),
    (chat(function_call="auto"), "function_call", "does not do this"),
    (chat(reasoning_effort="low"), "reasoning_effort", "does not do this"),
]


@pytest.mark.parametrize(("sent", "field", "words"), WRONG)
def test_a_refusal_names_the_field_that_is_wrong(sent, field, words):
    with pytest.raises(Refusal, match=words) as caught:
        parse(ChatRequest, body(sent))
    assert caught.value.param == field
    assert caught.value.message.startswith(f"{field}: ") and len(caught.value.message) < 200


@pytest.mark.parametrize("name", CompletionCreateParamsBase.__annotations__)
def test_a_field_that_is_null_is_left_out(name):
    if name not in ("model", "messages"):
        assert parse(ChatRequest, body(chat(**{name: None}))) == parse(ChatRequest, body(chat(**{name: "absent"})))


@pytest.mark.parametrize(
    "sent",
    [
        chat(parallel_tool_calls=True),  # as it is by default
        chat(stream=True, stream_options={"include_usage": None, "include_obfuscation": None}),
        chat({"role": "user", "content": "What?", "name": None, "refusal": None, "audio": None, "function_call": None}),
    ],
)
def test_what_asks_for_nothing_is_taken(http, sent):
    assert http.post(PATH, json=sent).status_code == 200


MANY = [
    (ChatRequest, of(*[{"type": "text"}] * 20_000)),
    (ChatRequest, of(*[{"type": "audio"}] * 20_000)),
    (ChatRequest, chat(*[{"role": "root"}] * 20_000)),
    (ChatRequest, chat(stop=[1] * 20_000)),
    (ChatRequest, chat(modalities=["audio"] * 20_000)),
    (ConversationRequest, {"messages": [{"role": "root"}] * 20_000}),
]


@pytest.mark.parametrize(("kind", "sent"), MANY)
def test_of_many_faults_in_a_list_the_first_is_looked_for(kind, sent):
    with pytest.raises(ValidationError) as found:
        kind.model_validate_json(body(sent))
    assert found.value.error_count() <= 2  # what is no list is no text either, and a message has several fields
    with pytest.raises(Refusal) as told:
        parse(kind, body(sent))
    assert "0" in told.value.param.split(".")


MANY_KEYS = [
    (ChatRequest, chat(**KEYS), None),
    (ConversationRequest, {"messages": CHATS[1], **KEYS}, None),
    (ChatRequest, chat({"role": "user", "content": "What?", **KEYS}), "messages.0"),
    (ChatRequest, of({**TEXT, **KEYS}), "messages.0.content.0"),
    (ChatRequest, of({**IMAGE, "image_url": KEYS}), "messages.0.content.0.image_url"),
    (ChatRequest, chat(stream_options=KEYS), "stream_options"),
    (ChatRequest, chat(metadata=KEYS), "metadata"),
    (ChatRequest, chat(logit_bias=KEYS), "logit_bias"),
]


@pytest.mark.parametrize(("kind", "sent", "field"), MANY_KEYS)
def test_an_object_of_too_many_keys_is_refused_before_they_are_looked_at(kind, sent, field):
    with pytest.raises(ValidationError) as found:
        kind.model_validate_json(body(sent))
    assert found.value.error_count() <= 2  # and not one for each key
    with pytest.raises(Refusal) as told:
        parse(kind, body(sent))
    assert (told.value.status, told.value.param) == (400, field)


MANY_OF_ALL = [
    chat(*[{"role": "user", "content": "a"}] * 60_000),
    chat(metadata=dict.fromkeys(map(str, range(100_001)), 0)),
]


@pytest.mark.parametrize("given", MANY_OF_ALL)
def test_a_body_of_very_many_keys_is_not_parsed(monkeypatch, given):
    sent = body(given)
    monkeypatch.setattr(ChatRequest, "model_validate_json", lambda *_: pytest.fail("it was parsed"))
    with pytest.raises(Refusal, match="too many fields: expected at most 100,000") as told:
        parse(ChatRequest, sent)
    assert told.value.status == 400
    monkeypatch.undo()
    for text in (":" * 390_000, '"' * 390_000, '":' * 90_000):  # are no keys
        assert parse(ChatRequest, body(chat(messages=[{"role": "user", "content": text}])))


def test_as_many_keys_as_are_allowed(http):
    metadata = {f"key {number}": "a" for number in range(16)}
    assert parse(ChatRequest, body(chat(metadata=metadata))).metadata == metadata
    assert parse(ChatRequest, body(chat(metadata=None))).metadata is None
    assert http.post(PATH, json=chat(metadata=metadata, stream_options=None)).status_code == 200
    with pytest.raises(Refusal, match=r"metadata\.key 0: .* valid string"):
        parse(ChatRequest, body(chat(metadata=metadata | {"key 0": 1})))


@pytest.mark.parametrize(("reads", "words"), [("_open", "cannot be read"), ("load", "broken")])
def test_whatever_pillow_raises_is_a_refusal(http, monkeypatch, reads, words):
    """As a broken AVIF makes it: RuntimeError, which is neither ValueError nor OSError."""

    def fail(*_):
        raise RuntimeError("the head makes no sense")

    assert http.post(PATH, json=file(png())).status_code == 200
    monkeypatch.setattr(PngImagePlugin.PngImageFile, reads, fail)
    answer = http.post(PATH, json=file(png()))
    assert answer.status_code == 400 and words in answer.json()["error"]["message"]
    with pytest.raises(ValueError, match="the picture is broken: the head makes no sense"):
        load_picture(png())


def test_a_jpeg_may_have_scans_and_whatever_bytes_follow_it():
    """Of a photo that moves, say: a film stands behind it, and holds the marker of a scan by chance."""
    for data in (jpeg_of_scans(1), jpeg_of_scans(20), jpeg_of_scans(1) + b"film\xff\xda\x7f" * 1000):
        assert decode_picture(data, Limits()).size == (16, 16)


def test_text_does_not_wait_for_the_pictures_of_others(serve, engine, monkeypatch):
    decode, go = reading.decode_picture, threading.Event()
    monkeypatch.setattr(reading, "decode_picture", lambda *args: decode(*args) if go.wait(PATIENCE_S) else None)
    with serve() as running, ThreadPoolExecutor(2) as pool:
        try:
            shown = [pool.submit(patient.post, running.url + PATH, json=file(png())) for _ in range(2)]
            running.until(lambda: running.service.reader._places.locked())
            answer = patient.post(running.url + PATH, json=chat(*CHATS[1]), timeout=PATIENCE_S / 4).json()
            assert answer["choices"][0]["message"]["content"] == engine.answer(CHATS[1], max_new_tokens=2).text
        finally:
            go.set()
        assert [each.result().status_code for each in shown] == [200] * 2


def test_opening_a_picture_does_not_touch_the_warnings_of_the_process(monkeypatch, tmp_path):
    """What one thread puts back, another one may have set."""
    path, opened, meanwhile = tmp_path / "a.png", Image.open, []
    path.write_bytes(png())
    monkeypatch.setattr(Image, "open", lambda *args, **kw: (meanwhile.append(warnings.filters), opened(*args, **kw))[1])
    before = warnings.filters
    for read, source in ((decode_picture, (png(), Limits())), (load_picture, (png(),)), (picture_size, (path,))):
        read(*source)
    assert len(meanwhile) == 3 and all(filters is before for filters in meanwhile)


SILENT = """
import sys
from pathlib import Path
from phantrol.data.pictures import picture_size

large, broken = map(Path, sys.argv[1:])

def read(function, *args):
    try:
        print(function.__name__, "read", function(*args))
    except Exception as error:
        print(function.__name__, error)

read(picture_size, large)
from phantrol.models.image_processing import load_picture
read(load_picture, large)
from phantrol.serving.limits import Limits
from phantrol.serving.pictures import decode_picture
read(decode_picture, large.read_bytes(), Limits())
read(decode_picture, broken.read_bytes(), Limits())
"""


def test_a_picture_that_pillow_warns_of_is_not_in_the_log(tmp_path):
    large, broken, exif = tmp_path / "large.png", tmp_path / "broken.jpg", io.BytesIO()
    large.write_bytes(png_of_size(12_000, 10_000))  # Pillow warns from 89 million pixels on
    tag = struct.pack("<HHLL", 0x010F, 2, 1000, 26)  # a text of 1000 bytes that are not there
    Image.new("RGB", (4, 4)).save(exif, "JPEG", exif=b"Exif\0\0II*\0" + struct.pack("<LH", 8, 1) + tag + b"\0" * 4)
    broken.write_bytes(exif.getvalue())
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        for file in (large, broken):
            Image.open(io.BytesIO(file.read_bytes()))
    assert {each.category for each in told} == {Image.DecompressionBombWarning, UserWarning}  # Pillow would say so
    done = subprocess.run([sys.executable, "-c", SILENT, large, broken], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    *refused, read = done.stdout.splitlines()
    assert len(refused) == 3 and all("12000 x 10000" in line for line in refused)
    assert read.startswith("decode_picture read")
    assert "PIL" not in done.stderr


@pytest.mark.parametrize(("sent", "statuses"), [case[1:] for case in WIRE], ids=[case[0] for case in WIRE])
def test_what_is_no_http_is_refused(running, sent, statuses):
    with socket.create_connection(("127.0.0.1", running.port), timeout=PATIENCE_S) as connection:
        connection.sendall(sent)
        answer = b""
        while piece := connection.recv(65536):  # to its end: whoever sends such things is not heard again
            answer += piece
    assert int(answer.split()[1]) in statuses and answer.count(b"HTTP/1.1 ") == 1, answer
    assert not TELLING.search(answer.decode("latin-1"))
    assert set(json.loads(answer.partition(b"\r\n\r\n")[2])["error"]) == {"message", "type", "param", "code"}


def test_after_all_of_it_the_server_answers_as_before(running, http, engine):
    """Runs last in this file: whatever came before left nothing behind."""
    answer = http.post(PATH, json={"model": NAME, "messages": CHATS[1], "max_tokens": 8}).json()
    assert answer["choices"][0]["message"]["content"] == engine.answer(CHATS[1], max_new_tokens=8).text
    running.until(running.is_idle)
    assert running.service.guard.in_flight == 0


def test_a_sound_request_is_not_refused(http):
    """The corpus would pass on a server that refuses everything."""
    assert http.post(PATH, json={"model": NAME, "messages": CHATS[0], "max_tokens": 2}).status_code == 200
