"""The page in a real browser: Debian's chromium, driven by playwright-core. Skipped where either is missing.

npm install playwright-core, in any folder, and PLAYWRIGHT_MODULES=that folder (by default this repository's root).
PAGE_SCREENSHOTS=folder keeps what it looks like.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
import time
from pathlib import Path

import pytest
from PIL import Image, ImageDraw

from phantrol.serving.limits import Limits

MODULES = Path(os.environ.get("PLAYWRIGHT_MODULES", Path(__file__).parents[2]))
CHROMIUM = os.environ.get("CHROMIUM", "/usr/bin/chromium")
OLD, NEW = "the-first-key", "the-second-key"

pytestmark = pytest.mark.skipif(
    not ((MODULES / "node_modules" / "playwright-core").is_dir() and Path(CHROMIUM).exists() and shutil.which("node")),
    reason="no chromium, node or playwright-core on this machine",
)


@pytest.fixture
def folder(tmp_path):
    keep = Path(os.environ.get("PAGE_SCREENSHOTS", tmp_path))
    keep.mkdir(parents=True, exist_ok=True)
    picture = Image.new("RGB", (96, 64), "white")
    ImageDraw.Draw(picture).ellipse((10, 10, 50, 50), fill="red")
    picture.save(keep / "picture.png")
    Image.new("RGB", (4096, 1024), "green").save(keep / "large.png")
    ImageDraw.Draw(narrow := Image.new("RGB", (60, 600), "white")).ellipse((5, 5, 55, 55), fill="red")
    narrow.save(keep / "narrow.png")
    turned = Image.Exif()
    turned[0x0112] = 6
    for kind in ("webp", "jpg", "png"):
        picture.save(keep / f"turned.{kind}", exif=turned)
    for name, ground in (("clear", (0, 0, 0, 0)), ("white", "white")):
        drawing = Image.new("RGBA", (96, 64), ground)
        ImageDraw.Draw(drawing).rectangle((20, 20, 60, 40), fill="black")
        drawing.save(keep / f"{name}.png")
    return keep


def drive(script, running, folder):
    """Run a script of steps against a server; return what it reports."""
    command = ["node", Path(__file__).with_name(script), MODULES, running.url, OLD, folder]
    driver = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    watchdog = threading.Timer(240, driver.kill)
    watchdog.start()
    lines = []
    try:
        for line in driver.stdout:
            lines.append(line)
            if line == "change the key\n":
                running.service.guard._key = NEW.encode()
                driver.stdin.write(NEW + "\n")
                driver.stdin.flush()
        code = driver.wait()
    finally:
        watchdog.cancel()
        driver.kill()
    report = "".join(lines)
    assert code == 0 and "FAILED" not in report, report
    return report


def test_what_a_person_does(engine, serve, folder):
    slow = engine.model.register_forward_pre_hook(lambda module, args: time.sleep(0.02))  # time to press Escape
    try:
        with serve(Limits(answer_tokens=1000, rows=4), api_key=OLD) as running:
            report = drive("page.mjs", running, folder)
    finally:
        slow.remove()
    assert report.count("ok: ") == 8, report


def test_what_a_person_sets_and_pastes(serve, folder):
    with serve(Limits(answer_tokens=12, rows=4), api_key=OLD) as running:
        report = drive("page_settings.mjs", running, folder)
    assert report.count("ok: ") == 6, report


def test_what_a_person_shows(serve, folder):
    with serve(Limits(answer_tokens=12, rows=4), api_key=OLD) as running:
        report = drive("page_pictures.mjs", running, folder)
    assert report.count("ok: ") == 4, report


def test_who_looks_inside(serve, folder):
    with serve(Limits(answer_tokens=12, rows=4), api_key=OLD) as running:
        report = drive("page_maps.mjs", running, folder)
    assert report.count("ok: ") == 5, report
