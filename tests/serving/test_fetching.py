"""Remote pictures: from allowed hosts alone, through the address that was looked at, within one time and one size."""

from __future__ import annotations

import asyncio
import ssl
from dataclasses import replace
from pathlib import Path

import pytest
from asking import NAME, PATIENCE_S, ask, data_uri, patient, png

from phantrol.serving.errors import Refusal
from phantrol.serving.fetching import Fetcher, is_public, resolve
from phantrol.serving.limits import Limits

LIMITS = Limits(image_s=PATIENCE_S, image_bytes=20_000)
HURRIED = replace(LIMITS, image_s=0.5)
OK = b"HTTP/1.1 200 OK\r\n"
FILE = png()


def answers(data: bytes, pause_s: float = 0.0, repeats: int = 1):
    """A handler of connections that answers with `data`, several times with pauses."""

    async def handle(reader, writer):
        handle.heard.append(await reader.readuntil(b"\r\n\r\n"))
        try:
            for _ in range(repeats):
                writer.write(data)
                await writer.drain()
                handle.sent_bytes += len(data)
                await asyncio.sleep(pause_s)
        except OSError:
            pass
        writer.close()

    handle.heard, handle.sent_bytes = [], 0
    return handle


def fetch(handle, url="http://pictures.example:{port}/a.png?b=c", addresses=("127.0.0.1",), public=True, **options):
    """Fetch from a server that runs only for it; names resolve to `addresses`, all of which count as public or not."""
    asked = []

    async def look_up(host, port):
        asked.append(host)
        return list(addresses)

    async def both():
        server = await asyncio.start_server(handle, "127.0.0.1", 0, ssl=options.get("tls"))
        port = server.sockets[0].getsockname()[1]
        allowed = [name.format(port=port) for name in options.get("allowed", ["pictures.example:{port}"])]
        limits = options.get("limits", LIMITS)
        fetcher = Fetcher(allowed, limits, look_up, (lambda a: True) if public else is_public)
        async with server:
            return await fetcher.fetch(url.format(port=port))

    try:
        return asyncio.run(both())
    finally:
        fetch.asked = asked


def test_a_picture_of_an_allowed_host(caplog):
    handle = answers(OK + b"Content-Length: %d\r\n\r\n" % len(FILE) + FILE)
    assert fetch(handle) == FILE
    assert fetch.asked == ["pictures.example"]  # once
    request = handle.heard[0].decode()
    assert request.startswith("GET /a.png?b=c HTTP/1.1\r\n") and "Host: pictures.example:" in request
    assert "authorization" not in request.lower() and "cookie" not in request.lower()
    chunked = OK + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
    assert fetch(answers(chunked)) == b"abc"
    assert fetch(answers(chunked), allowed=["Pictures.EXAMPLE.:{port}"]) == b"abc"


@pytest.fixture
def tls(monkeypatch):
    """What a server needs to prove that it is pictures.example, by a certificate that is trusted here until 2120."""
    certificate = Path(__file__).with_name("pictures.example.pem")  # a test's own, with its key: it protects nothing
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)
    return context


def test_a_picture_by_https(tls):
    """The connection goes to an address; the certificate must be that of the name."""
    handle = answers(OK + b"Content-Length: 1\r\n\r\na")
    assert fetch(handle, "https://pictures.example:{port}/", tls=tls) == b"a"


@pytest.mark.parametrize(("host", "trusted"), [("other.example", True), ("pictures.example", False)])
def test_who_cannot_prove_a_name_is_asked_for_nothing(tls, monkeypatch, host, trusted):
    if not trusted:
        monkeypatch.delenv("SSL_CERT_FILE")
    handle = answers(OK + b"Content-Length: 1\r\n\r\na")
    with pytest.raises(Refusal, match="could not be fetched"):
        fetch(handle, f"https://{host}:{{port}}/", tls=tls, allowed=[f"{host}:{{port}}"])
    assert not handle.heard


ODD = "expected at most 2048 characters of ASCII, without spaces"
REFUSED = {
    "a redirect": (dict(handle=answers(b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1/\r\n\r\n")), "answered 302"),
    "an error": (dict(handle=answers(b"HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n")), "answered 500"),
    "no HTTP": (dict(handle=answers(b"SSH-2.0-OpenSSH\r\n\r\n")), "could not be fetched"),
    "silence": (dict(handle=answers(b"", pause_s=2), limits=HURRIED), "did not come within"),
    "a slow body": (
        dict(handle=answers(OK + b"Content-Length: 9\r\n\r\na", pause_s=2), limits=HURRIED),
        "did not come within",
    ),
    "slow headers": (dict(handle=answers(OK + b"X: 1\r\n", pause_s=2), limits=HURRIED), "did not come within"),
    "an endless body": (dict(handle=answers(OK + b"\r\n" + b"a" * 9000, repeats=10**4)), "larger than"),
    "a body cut off": (dict(handle=answers(OK + b"Content-Length: 99\r\n\r\na")), "could not be fetched"),
    "endless headers": (dict(handle=answers(b"X: " + b"a" * 60_000, repeats=10**4)), "could not be fetched"),
    "a private address": (dict(handle=answers(OK), public=False), "no public address"),
    "one private address of two": (
        dict(handle=answers(OK), public=False, addresses=("93.184.215.14", "10.0.0.1")),
        "no public address",
    ),
    "a name that leads nowhere": (dict(handle=answers(OK), addresses=()), "no public address"),
    "another host": (dict(handle=answers(OK), url="http://other.example:{port}/"), "not allowed"),
    "a host that ends alike": (dict(handle=answers(OK), url="http://evil-pictures.example:{port}/"), "not allowed"),
    "another port": (dict(handle=answers(OK), url="http://pictures.example:1/"), "not allowed"),
    "no port where one was allowed": (dict(handle=answers(OK), url="http://pictures.example/"), "not allowed"),
    "another port where none was allowed": (dict(handle=answers(OK), allowed=["pictures.example"]), "not allowed"),
    "the port of another scheme": (
        dict(handle=answers(OK), url="https://pictures.example:80/", allowed=["pictures.example"]),
        "not allowed",
    ),
    "a user": (dict(handle=answers(OK), url="http://a:b@pictures.example:{port}/"), "not allowed"),
    "a backslash": (dict(handle=answers(OK), url="http://pictures.example:{port}\\@other.example/"), "not allowed"),
    "a backslash in the path": (dict(handle=answers(OK), url="http://pictures.example:{port}/a\\b"), "not allowed"),
    "a space": (dict(handle=answers(OK), url="http://pictures.example:{port}/a b"), ODD),
    "a line end": (dict(handle=answers(OK), url="http://pictures.example:{port}/\r\nX: y"), ODD),
    "a control character": (dict(handle=answers(OK), url="http://pictures.example:{port}/\x7f"), ODD),
    "a letter beyond ASCII": (dict(handle=answers(OK), url="http://pictures.example:{port}/ü"), ODD),
    "an endless address": (dict(handle=answers(OK), url="http://pictures.example:{port}/" + "a" * 2048), ODD),
    "another scheme": (dict(handle=answers(OK), url="ftp://pictures.example:{port}/"), "expected a picture as data"),
    "TLS that is none": (
        dict(handle=answers(OK), url="https://pictures.example:{port}/", limits=HURRIED),
        "did not come|not be fetched",
    ),
    "nobody allowed": (dict(handle=answers(OK), allowed=[]), "fetches no pictures"),
}


@pytest.mark.parametrize(("options", "words"), REFUSED.values(), ids=REFUSED)
def test_what_is_refused(options, words):
    options["handle"].heard.clear()
    options["handle"].sent_bytes = 0
    with pytest.raises(Refusal, match=words) as caught:
        fetch(**options)
    assert caught.value.status == 400 and caught.value.code == "invalid_image_url"
    assert options["handle"].sent_bytes < 20_000_000  # an endless answer would be 90 MB and more
    if words in ("not allowed", "no public address", "expected a picture as data", "fetches no pictures", ODD):
        assert not options["handle"].heard  # nobody was even spoken to


def test_a_name_that_changes_between_look_and_use_reaches_what_was_looked_at():
    """The second answer would be private; it is never asked for."""
    given = iter([["127.0.0.1"], ["10.0.0.1"]])
    handle = answers(OK + b"Content-Length: 1\r\n\r\na")

    async def both():
        server = await asyncio.start_server(handle, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]

        async def look_up(host, port):
            return next(given)

        fetcher = Fetcher([f"pictures.example:{port}"], LIMITS, look_up, lambda address: address == "127.0.0.1")
        async with server:
            return await fetcher.fetch(f"http://PICTURES.example.:{port}/")

    assert asyncio.run(both()) == b"a"
    assert next(given) == ["10.0.0.1"]


def test_who_waits_for_a_place_is_not_slow_yet():
    """Eight pictures hold the places; the ninth has far less time than it waits."""
    handle = answers(OK + b"Content-Length: 1\r\n\r\na")

    async def nine():
        server = await asyncio.start_server(handle, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        looked, go = [], asyncio.Event()

        async def look_up(host, port):
            looked.append(host)
            await go.wait()
            return ["127.0.0.1"]

        fetcher = Fetcher([f"pictures.example:{port}"], LIMITS, look_up, lambda address: True)
        url = f"http://pictures.example:{port}/"
        async with server:
            tasks = [asyncio.ensure_future(fetcher.fetch(url)) for _ in range(8)]
            await asyncio.sleep(0)
            fetcher._limits = replace(LIMITS, image_s=0.05)
            tasks.append(asyncio.ensure_future(fetcher.fetch(url)))
            await asyncio.wait(tasks[8:], timeout=1)
            assert len(looked) == 8 and not tasks[8].done()
            fetcher._limits = LIMITS  # its own time begins now
            go.set()
            return await asyncio.gather(*tasks)

    assert asyncio.run(nine()) == [b"a"] * 9


PUBLIC = "93.184.215.14 2606:2800:21f:cb07:6820:80da:af6b:8b2c"
NOT_PUBLIC = (
    "127.0.0.1 127.9.9.9 10.1.2.3 172.16.0.1 192.168.1.1 169.254.169.254 100.64.0.1 0.0.0.0 224.0.0.1 255.255.255.255 "
    "192.0.2.1 198.18.0.1 ::1 :: fe80::1 fe80::1%eth0 fc00::1 ff02::1 ::ffff:127.0.0.1 ::ffff:10.0.0.1 "
    "::ffff:93.184.215.14 "
    "64:ff9b::7f00:1 2002:7f00:1:: 2001:0:1::1 ::7f00:1 2001:db8::1 localhost "
    "fec0::1 ::ffff:0:127.0.0.1 ::ffff:0:10.0.0.1 5f00::1 3fff::1 192.88.99.1 192.0.0.8"
)


@pytest.mark.parametrize("address", PUBLIC.split())
def test_public_addresses(address):
    assert is_public(address)


@pytest.mark.parametrize("address", NOT_PUBLIC.split())
def test_addresses_that_are_not_public(address):
    assert not is_public(address)


def test_loopback_is_what_the_system_says_of_localhost():
    found = asyncio.run(resolve("localhost", 80))
    assert found and not any(map(is_public, found))


def test_a_server_that_allows_a_host_answers_about_its_pictures(serve):
    async def look_up(host, port):
        return ["127.0.0.1"]

    with serve() as files:  # any HTTP server will do: its 404 proves that it was asked
        name = f"pictures.example:{files.port}"
        fetcher = Fetcher([name], LIMITS, look_up, lambda address: True)
        with serve(fetcher=fetcher) as running:
            chat = {"model": NAME, "messages": [ask("What?", (f"http://{name}/a.png",))], "max_tokens": 2}
            answer = patient.post(f"{running.url}/v1/chat/completions", json=chat)
            assert answer.status_code == 400 and "answered 403" in answer.json()["error"]["message"]
            chat["messages"] = [ask("What?", (data_uri(FILE),))]
            assert patient.post(f"{running.url}/v1/chat/completions", json=chat).status_code == 200
