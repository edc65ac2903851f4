"""Requests that mean harm, or come from a broken client, each with the refusal that it must get.

(name, what is sent, status, words of the message); what is sent is a JSON body, raw bytes of a body, or `Raw`.
"""

from __future__ import annotations

import dataclasses
import gzip
import io
import json
import struct
import zlib

from asking import NAME, ask, data_uri, png
from PIL import Image

PATH = "/v1/chat/completions"
JSON = {"Content-Type": "application/json"}


@dataclasses.dataclass(frozen=True)
class Raw:
    """A request in all its parts."""

    body: bytes = b""
    method: str = "POST"
    path: str = PATH
    headers: dict = dataclasses.field(default_factory=lambda: JSON)


def chat(*messages, **changes) -> dict:
    given = {"model": NAME, "messages": list(messages) or [{"role": "user", "content": "What?"}], "max_tokens": 2}
    return {key: value for key, value in (given | changes).items() if value != "absent"}


def picture(url: str) -> dict:
    return chat(ask("What?", (url,)))


def file(data: bytes, kind: str = "png") -> dict:
    return picture(data_uri(data, kind))


def png_of_size(width: int, height: int) -> bytes:
    """A file that claims a size, with next to no pixels behind it."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(b"\0" * 64)) + chunk(b"IEND", b"")


def saved(kind: str) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4)).save(buffer, kind)
    return buffer.getvalue()


def jpeg_of_scans(times: int) -> bytes:
    """A progressive JPEG whose last scan, with its table, is there so many times: each costs a pass over all pixels."""
    buffer = io.BytesIO()
    Image.new("L", (16, 16), 128).save(buffer, "JPEG", progressive=True)
    data = buffer.getvalue()
    table = data.rindex(b"\xff\xc4", 0, data.rindex(b"\xff\xda"))
    return data[:table] + data[table:-2] * times + data[-2:]


def body(given: dict) -> bytes:
    return json.dumps(given).encode()


SVG = b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>'
EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(/etc/passwd) (r) file\n%%EOF\n"
NO_URL, NOT_ALLOWED = "expected a picture as data", "fetches no pictures"
UNREADABLE, BROKEN = "cannot be read", "broken"
KEYS = dict.fromkeys(map(str, range(30_000)), 0)
PRIVATE_USE = "".join(map(chr, range(0xE000, 0xF900)))

ADDRESSES = [
    ("a host that was not allowed", picture("https://example.org/a.png"), 400, NOT_ALLOWED),
    ("loopback", picture("http://127.0.0.1:22/a.png"), 400, NOT_ALLOWED),
    ("loopback by name", picture("http://localhost/a.png"), 400, NOT_ALLOWED),
    ("loopback of IPv6", picture("http://[::1]/a.png"), 400, NOT_ALLOWED),
    ("loopback as one number", picture("http://2130706433/a.png"), 400, NOT_ALLOWED),
    ("loopback in octal", picture("http://0177.0.0.1/a.png"), 400, NOT_ALLOWED),
    ("the metadata of a cloud", picture("http://169.254.169.254/latest/meta-data/"), 400, NOT_ALLOWED),
    ("a private network", picture("http://10.0.0.1/a.png"), 400, NOT_ALLOWED),
    ("a user before the host", picture("http://example.org@127.0.0.1/a.png"), 400, NOT_ALLOWED),
    ("a file", picture("file:///etc/passwd"), 400, NO_URL),
    ("a path", picture("/etc/passwd"), 400, NO_URL),
    ("a relative path", picture("../../etc/passwd"), 400, NO_URL),
    ("ftp", picture("ftp://example.org/a.png"), 400, NO_URL),
    ("gopher", picture("gopher://127.0.0.1:6379/_FLUSHALL"), 400, NO_URL),
    ("javascript", picture("javascript:alert(1)"), 400, NO_URL),
    ("an empty address", picture(""), 400, NO_URL),
    ("a line end in an address", picture("http://example.org/\r\nX-Header: 1"), 400, "ASCII"),
    ("a very long address", picture("http://example.org/" + "a" * 5000), 400, "ASCII"),
    ("letters that look alike", picture("http://exampl\u0435.org/a.png"), 400, "ASCII"),
    ("a broken address", picture("http://[::1/a.png"), 400, "is none"),
    ("a port that is none", picture("http://example.org:99999/a.png"), 400, "is none"),
]
PICTURES = [
    ("a data URI of text", picture("data:text/plain;base64,AAAA"), 400, "expected data:image"),
    ("white space before a data URI", picture(" \ndata:text/plain;base64,AAAA"), 400, "expected data:image"),
    ("a data URI without base64", picture("data:image/png,AAAA"), 400, "expected data:image"),
    ("base64 with other letters", picture("data:image/png;base64,@@@@"), 400, "not base64"),
    ("base64 cut off", picture("data:image/png;base64,AAA"), 400, "not base64"),
    ("base64 of white space", picture("data:image/png;base64,\r\n \t"), 400, UNREADABLE),
    ("base64 of letters that look alike", picture("data:image/png;base64,\u0410\u0410\u0410\u0410"), 400, "not base64"),
    ("endless parameters", picture("data:image/png" + ";a=b" * 50_000 + ";base64,AAAA"), 400, "expected data:image"),
    ("a picture of no bytes", file(b""), 400, UNREADABLE),
    ("noise", file(bytes(range(256)) * 4), 400, UNREADABLE),
    ("half a picture", file(png(size=(300, 300))[:200]), 400, BROKEN),
    ("a picture with a flipped byte", file(png()[:60] + b"\xff" + png()[61:]), 400, BROKEN),
    ("a bomb: few bytes, many pixels", file(png_of_size(30_000, 30_000)), 400, "too large"),
    ("a bomb beyond Pillow's own limit", file(png_of_size(2**31 - 1, 2**31 - 1)), 400, "too large"),
    ("one pixel row too many", file(png_of_size(1000, 1001)), 400, "too large"),
    ("a JPEG of very many scans", file(jpeg_of_scans(80), "jpeg"), 400, "too many scans: expected at most 64"),
    ("no pixels", file(png_of_size(0, 10)), 400, UNREADABLE),
    ("SVG", file(SVG, "svg+xml"), 400, UNREADABLE),
    ("PostScript, which Pillow hands to another program", file(EPS), 400, UNREADABLE),
    ("TIFF", file(saved("TIFF"), "tiff"), 400, UNREADABLE),
    ("PPM", file(saved("PPM")), 400, UNREADABLE),
    ("a web page", file(b"<!doctype html><script>alert(1)</script>"), 400, UNREADABLE),
    ("a pickle", file(b"\x80\x04\x8c\x05posix\x8c\x06system\x93\x8c\x02id\x85R."), 400, UNREADABLE),
    ("more pictures than allowed", chat(ask("What?", *[png()] * 4)), 400, "4 pictures"),
    ("a picture of the assistant", chat({**ask("a", png()), "role": "assistant"}), 400, "shows a picture"),
    ("a picture of the system", chat({**ask("a", png()), "role": "system"}), 400, "shows a picture"),
    ("a picture without a question", chat(ask(png())), 400, "without text"),
]
BODIES = [
    ("nothing", Raw(b""), 400, "no JSON"),
    ("no JSON", Raw(b"{"), 400, "no JSON"),
    ("a list", Raw(b"[]"), 400, ""),
    ("a number", Raw(b"1"), 400, ""),
    ("nested without end", Raw(b'{"messages":' + b"[" * 100_000), 400, ""),
    ("Latin-1", Raw(body(chat()).replace(b"What?", b"caf\xe9")), 400, "no JSON"),
    ("UTF-16", Raw(json.dumps(chat()).encode("utf-16")), 400, "no JSON"),
    ("half a surrogate pair", Raw(body(chat({"role": "user", "content": "\ud800"}))), 400, "no JSON"),
    ("NaN", Raw(body(chat(temperature=float("nan")))), 400, "temperature"),
    ("infinity", Raw(body(chat(temperature=float("inf")))), 400, "temperature"),
    ("a huge number", Raw(body(chat()).replace(b'"max_tokens": 2', b'"max_tokens": 1' + b"0" * 5000)), 400, ""),
    ("a body beyond the limit", Raw(b" " * 700_000), 413, "larger than"),
    ("a zipped body", Raw(gzip.compress(body(chat())), headers=JSON | {"Content-Encoding": "gzip"}), 415, "Encoding"),
    ("a form", Raw(body(chat()), headers={"Content-Type": "text/plain"}), 415, "application/json"),
    ("no content type", Raw(body(chat()), headers={}), 415, "application/json"),
    ("a host of elsewhere", Raw(body(chat()), headers=JSON | {"Host": "evil.example"}), 403, "localhost"),
    ("a host that looks local", Raw(body(chat()), headers=JSON | {"Host": "localhost.evil.example"}), 403, "localhost"),
    ("a host behind a user", Raw(body(chat()), headers=JSON | {"Host": "localhost:80@evil.example"}), 403, "localhost"),
    ("a port that is a word", Raw(body(chat()), headers=JSON | {"Host": "localhost:evil"}), 403, "localhost"),
]
FIELDS = [
    ("no model", chat(model="absent"), 400, "model: this field is missing"),
    ("another model", chat(model="gpt-5"), 404, "has one model"),
    ("a path as model", chat(model="../../etc/passwd"), 404, "has one model"),
    ("no messages", chat(messages=[]), 400, "messages"),
    ("messages that are none", chat(messages="What?"), 400, "messages"),
    ("more messages than allowed", chat(*[{"role": "user", "content": "a"}] * 7), 400, "7 messages"),
    ("an unknown role", chat({"role": "root", "content": "a"}), 400, "role"),
    ("a tool's message", chat({"role": "tool", "content": "a", "tool_call_id": "1"}), 400, "role"),
    ("content that is a number", chat({"role": "user", "content": 1}), 400, "content"),
    ("no content", chat({"role": "user"}), 400, "content"),
    ("null content", chat({"role": "user", "content": None}), 400, "content"),
    ("no parts", chat({"role": "user", "content": []}), 400, "content"),
    ("an unknown part", chat({"role": "user", "content": [{"type": "audio", "text": "a"}]}), 400, "content"),
    ("a file by the engine's own part", chat({"role": "user", "content": [{"type": "image", "image": "/etc/passwd"}]}),
     400, "content"),
    ("an empty question", chat({"role": "user", "content": " \n"}), 400, "without text"),
    ("text beyond the limit", chat({"role": "user", "content": "a" * 30_000}), 400, "characters"),
    ("tokens beyond the limit", chat({"role": "user", "content": "é漢" * 400}), 400, "tokens"),
    ("all characters of the private use area", chat({"role": "user", "content": PRIVATE_USE}), 400, "private use"),
    ("an answer that never ends", chat(max_tokens=10**9), 400, "at most 256"),
    ("an answer of no tokens", chat(max_tokens=0), 400, "max_tokens"),
    ("a negative length", chat(max_tokens=-1), 400, "max_tokens"),
    ("half a token", chat(max_tokens=1.5), 400, "max_tokens"),
    ("a length as text", chat(max_tokens="2"), 400, "max_tokens"),
    ("true as a length", chat(max_tokens=True), 400, "max_tokens"),
    ("two lengths", chat(max_completion_tokens=3), 400, "differ"),
    ("many choices", chat(n=1000), 400, "choices"),
    ("no choices", chat(n=0), 400, "n: "),
    ("a negative temperature", chat(temperature=-1), 400, "temperature"),
    ("top_p above 1", chat(top_p=2), 400, "top_p"),
    ("a seed of 100 digits", Raw(body(chat(seed=10**100))), 400, "seed"),
    ("five stop strings", chat(stop=list("abcde")), 400, "stop"),
    ("an empty stop string", chat(stop=""), 400, "stop"),
    ("an endless stop string", chat(stop="a" * 10_000), 400, "stop"),
    ("logprobs of everything", chat(logprobs=True, top_logprobs=10**6), 400, "top_logprobs"),
    ("top_logprobs alone", chat(top_logprobs=2), 400, "without logprobs"),
    ("stream_options alone", chat(stream_options={"include_usage": True}), 400, "without stream"),
    ("tools, which are not there", chat(tools=[{"type": "function"}]), 400, "tools: this server does not do this"),
    ("JSON mode, which is not there", chat(response_format={"type": "json_object"}), 400,
     "response_format.type: this server does not do this"),
    ("a penalty, which is not there", chat(frequency_penalty=1.0), 400, "frequency_penalty: this server does not do"),
    ("an earlier call of a tool", chat({"role": "assistant", "content": "a", "tool_calls": [{"id": "1"}]}), 400,
     "messages.0.tool_calls: this server does not do this"),
    ("an earlier call of a tool without words", chat({"role": "assistant", "content": None, "tool_calls": [{}]}), 400,
     "messages.0.tool_calls: this server does not do this"),
    ("an unknown field", chat(trust_remote_code=True), 400, "does not know"),
    ("a field with an endless name", chat(**{"a" * 9000: 1}), 400, "does not know"),
    ("fields without end", chat(**KEYS), 400, "30003 fields: expected at most 64"),
    ("fields of a message without end", chat({"role": "user", "content": "a", **KEYS}), 400,
     "messages.0: 30002 fields: expected at most 64"),
    ("metadata without end", chat(metadata=KEYS), 400, "metadata: 30000 entries: expected at most 16"),
]  # fmt: skip
ROUTES = [
    ("a route that is none", Raw(method="GET", path="/v1/completion"), 404, "no such route"),
    ("a path upwards", Raw(method="GET", path="/page/../../../../etc/passwd"), 404, "no such route"),
    ("a path upwards, encoded", Raw(method="GET", path="/page/%2e%2e%2f%2e%2e%2fetc%2fpasswd"), 404, "no such route"),
    ("a model with a path", Raw(method="GET", path="/v1/models/..%2f..%2fetc%2fpasswd"), 404, "has one model"),
    ("GET where POST is meant", Raw(method="GET"), 405, "no such method"),
    ("DELETE of a model", Raw(method="DELETE", path="/v1/models/tiny"), 405, "no such method"),
    ("a method that is none", Raw(method="BREW"), 405, "no such method"),
    ("a request from another origin asks for leave", Raw(method="OPTIONS"), 405, "no such method"),
    ("the framework's own pages", Raw(method="GET", path="/openapi.json"), 404, "no such route"),
    ("the framework's own documentation", Raw(method="GET", path="/docs"), 404, "no such route"),
]
HOSTILE = [*ADDRESSES, *PICTURES, *BODIES, *FIELDS, *ROUTES]

# bytes on the wire that are no HTTP, or no whole request: (name, bytes, status lines that may come back; none: silence)
WIRE = [
    ("noise", bytes(range(256)), (400,)),
    ("the greeting of TLS", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 64, (400,)),
    ("two lengths", b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab", (400,)),
    ("a negative length", b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n", (400,)),
    ("headers without end", b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 100_000, (400, 431)),
    ("a chunk that is none",
     b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
     b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", (400,)),
    ("a length beyond the limit, and no body",
     b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
     b"Content-Length: 99999999999999999999\r\n\r\n", (400, 413)),
    ("a length and chunks, of which a proxy may believe the other one",
     b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
     b"Content-Length: 46\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
     b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n", (400,)),
    ("no host", b"GET /v1/models HTTP/1.1\r\n\r\n", (400,)),
]  # fmt: skip
