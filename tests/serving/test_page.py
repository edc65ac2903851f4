"""What can be said of the page without a browser: its files, its header, its route."""

from __future__ import annotations

import io
import re
import shutil
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from html.parser import HTMLParser
from importlib.resources import files

import pytest
from asking import ask, body, data_uri, patient, png
from pacing import held, watch_pictures
from PIL import Image

from phantrol.explain.maps import maps_as_json
from phantrol.serving import page
from phantrol.serving.limits import Limits
from phantrol.serving.reading import AT_ONCE

ROOT = files("phantrol.serving.page")
TEXTS = {name: (ROOT / name).read_text("utf-8") for name in ("index.html", *page.FILES)}
SCRIPTS = [name for name in TEXTS if name.endswith(".js")]
VOID = {"meta", "link", "img", "input", "rect", "circle", "path"}


class Reader(HTMLParser):
    """Collects elements, and complains of tags that do not match."""

    def __init__(self):
        super().__init__()
        self.open, self.elements = [], []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))


@pytest.fixture(scope="module")
def elements():
    reader = Reader()
    reader.feed(TEXTS["index.html"])
    assert reader.open == []
    return reader.elements


def test_the_policy_allows_this_server_alone(running):
    policy = {}
    for rule in patient.get(running.url).headers["content-security-policy"].split(";"):
        name, *sources = rule.split()
        policy[name] = sources
    assert policy["default-src"] == ["'none'"]
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == ["'self'"]
    assert policy["img-src"] == ["'self'", "data:", "blob:"]
    assert policy["frame-ancestors"] == policy["base-uri"] == policy["form-action"] == ["'none'"]
    assert not any("unsafe" in source or "*" in source for sources in policy.values() for source in sources)


@pytest.mark.parametrize("name", ["", *page.FILES])
def test_every_file_is_served_with_the_header(running, name):
    answer = patient.get(f"{running.url}/page/{name}" if name else running.url)
    assert answer.status_code == 200
    assert answer.content == (ROOT / (name or "index.html")).read_bytes()
    for header, value in page.HEADERS.items():
        assert value in answer.headers.get_list(header)
    assert answer.headers["content-type"].startswith(("text/", "image/svg"))


def test_nothing_else_is_served(running):
    for path in ("__init__.py", "../__init__.py", "index.html", "%2e%2e/app.py", "", "page.js/"):
        assert patient.get(f"{running.url}/page/{path}").status_code == 404, path


def test_the_files_are_those_of_the_folder_and_go_into_the_package():
    there = {entry.name for entry in ROOT.iterdir() if entry.is_file() and not entry.name.endswith((".py", ".pyc"))}
    assert there == {"index.html", *page.FILES}
    project = (files("phantrol") / ".." / ".." / "pyproject.toml").read_text("utf-8")
    for name in there:
        assert f'"**/*.{name.rpartition(".")[2]}"' in project, name
    for name, text in TEXTS.items():
        assert len(text.splitlines()) <= 300, name


def test_nothing_comes_from_elsewhere():
    for name, text in TEXTS.items():
        outside = re.findall(
            r"(?:https?:)?//[\w.-]+\.\w+|@import|url\(", text.replace("http://www.w3.org/2000/svg", "")
        )
        assert outside == [], name
    for name in SCRIPTS:
        for word in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "new Function"):
            assert word not in TEXTS[name], (name, word)
        for source in re.findall(r'from "(.*?)"', TEXTS[name]):
            assert source.removeprefix("./") in page.FILES


def test_the_document(elements):
    ids = [attrs["id"] for _, attrs in elements if "id" in attrs]
    assert len(ids) == len(set(ids))
    labels = {attrs.get("for") for tag, attrs in elements if tag == "label"}
    for tag, attrs in elements:
        assert "style" not in attrs and not any(name.startswith("on") for name in attrs), (tag, attrs)
        assert tag != "style" and (tag != "script" or attrs.get("src"))
        if tag in ("input", "textarea", "select") and "hidden" not in attrs:
            assert attrs["id"] in labels, attrs
        for name in ("src", "href"):
            if attrs.get(name, "#")[0] != "#":
                assert attrs[name].removeprefix("/page/") in page.FILES
    assert ("html", {"lang": "en"}) in elements
    assert any(attrs.get("name") == "viewport" for _, attrs in elements)
    used = set(re.findall(r'find\("([\w-]+)"\)', TEXTS["page.js"]))
    assert used and used <= set(ids)


def test_both_schemes_and_less_motion():
    for words in ("prefers-color-scheme: dark", "prefers-reduced-motion", ":focus-visible", "color-scheme: light dark"):
        assert words in TEXTS["page.css"]
    light, dark = (
        set(re.findall(r"(--[\w-]+):", block)) for block in re.findall(r":root \{(.*?)\}", TEXTS["page.css"], re.S)
    )
    assert light == dark and set(re.findall(r"var\((--[\w-]+)\)", TEXTS["page.css"])) <= light


@pytest.mark.skipif(shutil.which("node") is None, reason="no node on this machine")
@pytest.mark.parametrize("name", SCRIPTS)
def test_the_scripts_parse(name, tmp_path):
    (tmp_path / "module.mjs").write_text(TEXTS[name], "utf-8")
    done = subprocess.run(["node", "--check", tmp_path / "module.mjs"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def explain(running, *parts, **more):
    return patient.post(f"{running.url}/v1/phantrol/explain", json={"messages": [ask(*parts)], **more})


def test_explain_answers_the_maps(running, engine):
    file, question = png(), "What color is the circle?"
    answer = explain(running, (data_uri(file),), question)
    assert answer.status_code == 200, answer.text
    content = [{"type": "image", "image": Image.open(io.BytesIO(file))}, {"type": "text", "text": question}]
    assert answer.json() == maps_as_json(engine, [{"role": "user", "content": content}])
    assert answer.json()["traversal"]["layers"] == [0, 1]
    assert answer.json()["phantom"]["rows"][1] == {"layer": 0, "pass": 2}
    other = explain(running, (data_uri(png("blue")),), question)
    assert other.json()["traversal"] != answer.json()["traversal"]


def test_explain_while_the_model_answers(running):
    """The maps are heard of their own prompt alone, whatever else the model computes meanwhile."""
    alone = explain(running, (data_uri(png()),), "What?").json()
    stream = running.client().chat.completions.create(
        model=running.service.name, messages=[ask("a long story")], max_tokens=200, stream=True
    )
    next(iter(stream))
    assert explain(running, (data_uri(png()),), "What?").json() == alone
    stream.close()
    running.until(running.is_idle)


def test_pictures_of_looks_that_wait_are_few(serve, engine, monkeypatch):
    num_looks, num_pictures, sent = 10, watch_pictures(monkeypatch), (data_uri(png()),)
    with serve(Limits(answer_tokens=256)) as running, held(engine, 1) as (passes, go), ThreadPoolExecutor(20) as pool:
        stream = pool.submit(patient.post, f"{running.url}/v1/chat/completions", json=body(1, max_tokens=2))
        running.until(lambda: passes)
        looks = [pool.submit(explain, running, sent, sent, sent, "What?") for _ in range(num_looks)]
        running.until(lambda: running.service.guard.in_flight == num_looks + 1)
        running.until(lambda: len(running.service.scheduler._calls) == AT_ONCE)
        time.sleep(1.0)  # in which all of them would be decoded
        assert num_pictures() == 3 * AT_ONCE
        go.set()
        assert stream.result().status_code == 200
        assert {look.result().status_code for look in looks} == {200}
        assert len({look.result().text for look in looks}) == 1
        running.until(lambda: not num_pictures())


def test_explain_says_what_is_wrong(running, engine, serve):
    assert explain(running, (data_uri(png()),), " ").status_code == 400
    assert explain(running, (data_uri(b"no picture"),), "What?").status_code == 400
    assert explain(running, "What?", model="another").status_code == 404
    assert explain(running, "What?", colour="red").json()["error"]["code"] == "unknown_parameter"
    with serve(api_key="a-long-secret") as guarded:
        assert explain(guarded, "What?").status_code == 401
