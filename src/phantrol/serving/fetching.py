"""Pictures from elsewhere, from hosts that were allowed by name, and from nowhere else.

A name is resolved once, all its addresses must be public, and the connection goes to the address that was looked at: a
name that changes between the look and the use reaches nothing. Redirects are not followed. Everything has to be done
within one time and one size.
"""

from __future__ import annotations

import asyncio
import ipaddress
import re
import ssl
from collections.abc import Awaitable, Callable, Iterable, Sequence
from urllib.parse import urlsplit

import h11

from phantrol.serving.errors import Refusal
from phantrol.serving.limits import Limits

PORTS = {"http": 80, "https": 443}
MAX_URL = 2048  # characters
GIVEN_OUT = ipaddress.ip_network("2000::/3")  # of IPv6; the rest stays within a network, or stands for IPv4
# global to Python, but they lead to addresses that may not be (2002, 2001 and 192.88.99), or to nobody
NOBODYS = [
    ipaddress.ip_network(each) for each in ("2002::/16", "2001::/32", "192.88.99.0/24", "3fff::/20", "192.0.0.0/24")
]

Resolve = Callable[[str, int], Awaitable[list[str]]]


def is_public(address: str) -> bool:
    """Return whether an address is one that anybody can reach: not loopback, private, link-local, reserved ..."""
    try:
        found = ipaddress.ip_address(address.split("%")[0])
    except ValueError:
        return False
    if isinstance(found, ipaddress.IPv6Address) and found not in GIVEN_OUT:
        return False
    if any(found in network for network in NOBODYS):
        return False
    return found.is_global and not found.is_multicast


async def resolve(host: str, port: int) -> list[str]:
    """Return the addresses of a host, from the system's resolver."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=1)  # 1: SOCK_STREAM
    return [entry[4][0] for entry in found]


def allowed_host(name: str) -> str:
    """Return the name of a host, and its port if it has one, as they are compared with those of a picture's address.
    Raises ValueError for what no address could have."""
    found = re.fullmatch(r"(?!-)([a-z0-9.-]*[a-z0-9-])\.*(?::([0-9]{1,5}))?", name.lower())
    if not found or not 1 <= int(found[2] or 80) <= 65535:
        raise ValueError(f"--allow-image-host {name}: expected a name, as example.org or example.org:8443")
    return f"{found[1]}:{int(found[2])}" if found[2] else found[1]


def check_image_hosts(hosts: Sequence[str]) -> None:
    """Raise ValueError for what is no name of a host."""
    for host in hosts:
        allowed_host(host)


class Fetcher:
    """Fetches pictures of allowed hosts.

    allowed  names, as allowed_host takes them: "example.org" or "example.org:8443"; without a port, 80 and 443
    resolve, is_public  what to ask for addresses, and about them; a test has its own
    """

    def __init__(
        self,
        allowed: Iterable[str],
        limits: Limits,
        resolve: Resolve = resolve,
        is_public: Callable[[str], bool] = is_public,
    ):
        self._allowed = frozenset(map(allowed_host, allowed))
        self._limits, self._resolve, self._is_public = limits, resolve, is_public
        self._places = asyncio.Semaphore(8)  # connections at once

    async def fetch(self, url: str) -> bytes:
        """Return the body. Raises Refusal (400) for whatever is not allowed, fails, or is too slow or too large."""
        scheme, host, port, target = self._checked(url)
        try:
            async with self._places, asyncio.timeout(self._limits.image_s):  # who waits for a place is not slow yet
                addresses = await self._resolve(host, port)
                if not addresses or not all(map(self._is_public, addresses)):
                    raise _refuse("the host of this picture has no public address")
                return await self._get(scheme, host, port, target, addresses[0])
        except TimeoutError:
            raise _refuse(f"the picture did not come within {self._limits.image_s:g} seconds") from None
        except (OSError, h11.RemoteProtocolError, UnicodeError):
            raise _refuse("the picture could not be fetched from its host") from None

    def _checked(self, url: str) -> tuple[str, str, int, str]:
        """→ scheme, host, port and path with query."""
        if len(url) > MAX_URL or not url.isascii() or any(ord(c) <= 32 or ord(c) == 127 for c in url):
            raise _refuse(f"the address of a picture: expected at most {MAX_URL} characters of ASCII, without spaces")
        try:
            parts = urlsplit(url)
            port = parts.port or PORTS.get(parts.scheme, 0)
        except ValueError:
            raise _refuse("the address of a picture is none") from None
        host = (parts.hostname or "").rstrip(".")
        if parts.scheme not in PORTS:
            raise _refuse("expected a picture as data:image/...;base64, or at an http or https address")
        if not self._allowed:
            raise _refuse("this server fetches no pictures: send them as data:image/png;base64,...")
        names = {f"{host}:{port}", host} if port == PORTS[parts.scheme] else {f"{host}:{port}"}
        if "@" in parts.netloc or "\\" in url or not names & self._allowed:
            raise _refuse("pictures from this host are not allowed here: send them as data:image/png;base64,...")
        return parts.scheme, host, port, (parts.path or "/") + (f"?{parts.query}" if parts.query else "")

    async def _get(self, scheme: str, host: str, port: int, target: str, address: str) -> bytes:
        context = ssl.create_default_context() if scheme == "https" else None
        reader, writer = await asyncio.open_connection(
            address, port, ssl=context, server_hostname=host if context else None
        )
        try:
            connection = h11.Connection(h11.CLIENT)
            shown = host if port == PORTS[scheme] else f"{host}:{port}"
            headers = [("Host", shown), ("Accept", "image/*"), ("Accept-Encoding", "identity"), ("Connection", "close")]
            for event in (h11.Request(method="GET", target=target, headers=headers), h11.EndOfMessage()):
                writer.write(connection.send(event) or b"")
            await writer.drain()
            return await self._read(connection, reader)
        finally:
            writer.transport.abort()

    async def _read(self, connection: h11.Connection, reader: asyncio.StreamReader) -> bytes:
        body = bytearray()
        while True:
            event = connection.next_event()
            if event is h11.NEED_DATA:
                connection.receive_data(await reader.read(65536))
            elif isinstance(event, h11.Response):
                if event.status_code != 200:  # redirects among them: they would lead past every check
                    raise _refuse(f"the host of the picture answered {event.status_code}: expected 200")
            elif isinstance(event, h11.Data):
                body += event.data
                if len(body) > self._limits.image_bytes:
                    raise _refuse(f"the picture is larger than {self._limits.image_bytes:,} bytes")
            elif isinstance(event, h11.EndOfMessage | h11.ConnectionClosed):
                return bytes(body)


def _refuse(message: str) -> Refusal:
    return Refusal(400, message, param="messages", code="invalid_image_url")
