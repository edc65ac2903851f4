"""What `phantrol serve` is told as it starts: an address, a key, hosts of pictures, limits."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

import pytest

from phantrol.serving.fetching import allowed_host
from phantrol.serving.guard import is_loopback, known_key
from phantrol.serving.limits import Limits
from phantrol.serving.server import check_address, check_image_hosts, serve, served_name


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_an_address_that_is_taken_is_refused_before_a_model_is_loaded(host):
    with socket.create_server((host, 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ValueError, match=f"--host {host} --port {port}: Address already in use; expected"):
            serve("no-such-model", host, port)
    check_address(host, port)  # free again
    with pytest.raises(ValueError, match=r"192\.0\.2\.1 --port 8000: Cannot assign requested address"):
        check_address("192.0.2.1", 8000)
    with pytest.raises(ValueError, match=r"--host no-such-host\.invalid --port 8000: "):
        check_address("no-such-host.invalid", 8000)


def test_of_a_name_with_two_addresses_both_must_be_free(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        both = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (f"127.0.0.{i}", port)) for i in (2, 1)]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **options: both)
        with pytest.raises(ValueError, match=f"--host two.example --port {port}: Address already in use"):
            check_address("two.example", port)
    check_address("two.example", port)


def test_names_keys_and_hosts(monkeypatch):
    assert served_name("/runs/mine/final") == "mine"
    assert served_name("final") == "final"
    assert served_name("owner/model") == "model"
    monkeypatch.delenv("PHANTROL_API_KEY", raising=False)
    assert known_key(None) is None and known_key("abcdefgh") == "abcdefgh"
    monkeypatch.setenv("PHANTROL_API_KEY", "of-the-environment")
    assert known_key(None) == "of-the-environment" and known_key("abcdefgh") == "abcdefgh"
    check_image_hosts(["example.org", "example.org:8443"])
    assert [allowed_host(each) for each in ("Example.ORG.", "example.org.:080")] == ["example.org", "example.org:80"]
    for key in ("", "short", "with a space", "größer-als-ASCII"):
        with pytest.raises(ValueError, match="expected 8 or more"):
            known_key(key)
    for host in ("https://example.org", "example.org/a", "*", "", ".", "example.org:0", "example.org:65536"):
        with pytest.raises(ValueError, match="expected a name"):
            check_image_hosts([host])
    with pytest.raises(ValueError, match="the limit rows is 0"):
        Limits(rows=0)
    with pytest.raises(ValueError, match="the limit body_s is nan: expected more than 0"):
        Limits(body_s=float("nan"))


@pytest.mark.parametrize(
    ("given", "key", "words"),
    [
        ({"api_key": "short"}, "", "expected 8 or more"),
        ({}, "short", "expected 8 or more"),
        ({"allow_image_host": ["*"]}, "long-enough", "expected a name"),
    ],
)
def test_a_wrong_key_or_host_is_told_before_anything_heavy_is_imported(given, key, words):
    script = f"""
import sys
from phantrol import cli_serving
try:
    cli_serving.serve("no-such-model", **{given!r})
except ValueError as error:
    print(error)
print([name for name in ("torch", "transformers", "fastapi") if name in sys.modules])
"""
    environment = {name: value for name, value in os.environ.items() if name != "PHANTROL_API_KEY"}
    environment |= {"PHANTROL_API_KEY": key} if key else {}
    found = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=120)
    said, heavy = found.stdout.splitlines()
    assert words in said and heavy == "[]", found.stderr


@pytest.mark.parametrize(
    ("hosts", "here"),
    [
        ("localhost LOCALHOST. 127.0.0.1 127.9.9.9 ::1 [::1]", True),
        ("evil-localhost evil.localhost localhost.evil.example 127.0.0.1.evil.example 10.0.0.1 0.0.0.0", False),
    ],
)
def test_which_names_can_only_mean_this_machine(hosts, here):
    """Any other may be led here by whoever owns it, with a reader's browser behind it."""
    assert [is_loopback(host) for host in hosts.split()] == [here] * 6
    assert not is_loopback("")
