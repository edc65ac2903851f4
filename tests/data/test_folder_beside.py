"""Where something new is written: links are followed, what cannot be replaced is refused at once, nothing is left."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from phantrol.data.check import check
from phantrol.data.checking import Question
from phantrol.data.choosing import choose_source
from phantrol.data.export import export
from phantrol.data.fixing import check_room, write_fixed
from phantrol.folder_beside import find_place, folder_beside


@pytest.fixture(scope="module")
def source():
    return choose_source(tasks=["shape"], size_px=64)


def _no_work(*args):
    raise AssertionError("it was worked before it was refused")


def test_the_current_folder_is_refused_before_any_work(source, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(type(source), "draw", _no_work)
    for out in (Path("."), tmp_path):
        for write in (lambda out: export(source, out, count=1), lambda out: check_room(out, [])):
            with pytest.raises(ValueError, match=r"is the current folder.*: name a new folder in it, such as .*new$"):
                write(out)
    assert list(tmp_path.iterdir()) == []


def test_a_mount_point_is_refused_before_any_work(source, tmp_path, monkeypatch):
    (tmp_path / "out").mkdir()
    monkeypatch.setattr(Path, "is_mount", lambda path: path.name == "out")
    monkeypatch.setattr(type(source), "draw", _no_work)
    for write in (lambda out: export(source, out, count=1), lambda out: check_room(out, [])):
        with pytest.raises(ValueError, match=r"out is a mount point.*: name a new folder in it, such as .*out.new$"):
            write(tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["out"] and list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("is_there", [True, False])
def test_a_link_stands_for_the_folder_that_it_leads_to(source, tmp_path, write, llava, is_there):
    for name in ("exported", "fixed"):
        if is_there:
            (tmp_path / "far" / name).mkdir(parents=True)
        (tmp_path / name).symlink_to(Path("far") / name)
    export(source, tmp_path / "exported", count=1)
    file = write("train.json", [llava("one", asked="What?")])
    check_room(tmp_path / "fixed", [file])
    write_fixed(check([file], Question(), 1), tmp_path / "fixed")
    assert (tmp_path / "far" / "exported" / "llava.json").is_file()
    assert (tmp_path / "far" / "fixed" / "train.json").is_file()
    assert (tmp_path / "exported").is_symlink() and (tmp_path / "fixed").is_symlink()
    assert len(list((tmp_path / "far").iterdir())) == 2


def test_a_link_to_what_is_in_use_or_to_itself_is_refused(tmp_path):
    (tmp_path / "full" / "of").mkdir(parents=True)
    (tmp_path / "link").symlink_to("full")
    (tmp_path / "loop").symlink_to("loop")
    for name in ("full", "link", "loop"):
        with pytest.raises(ValueError, match=f"{name} is in use"):
            find_place(tmp_path / name)


# -- SIGTERM and SIGHUP


WAITS = """
import sys, time
from pathlib import Path
from phantrol.data import export, preview
from phantrol.data.choosing import choose_source

def wait(*args):
    print("begun", flush=True)
    time.sleep(60)

source, out = choose_source(tasks=["shape"], size_px=64), Path(sys.argv[1])
if out.suffix:
    preview.draw_preview = wait
    preview.write_preview(source, out)
else:
    type(source).draw = wait
    export.export(source, out)
"""


@pytest.mark.skipif(os.name == "nt", reason="Windows ends a process without asking it")
@pytest.mark.parametrize("name", ["out", "sheet.png"])
def test_sigterm_leaves_nothing_behind(tmp_path, name):
    with subprocess.Popen([sys.executable, "-c", WAITS, tmp_path / name], stdout=subprocess.PIPE) as running:
        assert running.stdout.readline() == b"begun\n"
        assert len(list(tmp_path.iterdir())) == 1
        running.terminate()
        assert running.wait(30) == 143
    assert list(tmp_path.iterdir()) == []


def test_signals_that_somebody_else_handles_and_other_threads_are_left_alone(tmp_path):
    def enter():
        with folder_beside(tmp_path / "out"):
            handlers.append(signal.getsignal(signal.SIGTERM))

    def mine(number, frame):
        pass

    handlers, before = [], signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        enter()
        assert callable(handlers.pop()) and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
        thread = threading.Thread(target=enter)
        thread.start(), thread.join()
        assert handlers.pop() is signal.SIG_DFL
        signal.signal(signal.SIGTERM, mine)
        enter()
        assert handlers.pop() is mine is signal.getsignal(signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)


@pytest.fixture
def hangup():
    """SIGHUP as a program finds it in a terminal, whoever started these tests."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield signal.SIGHUP
    signal.signal(signal.SIGHUP, before)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGHUP")
def test_a_terminal_that_closes_leaves_nothing_behind(tmp_path, monkeypatch, hangup):
    def interrupted(folder, **options):
        os.kill(os.getpid(), hangup)  # it comes from the system and from the shell
        remove(folder, **options)

    remove = shutil.rmtree
    with pytest.raises(SystemExit) as ended, folder_beside(tmp_path / "out"):
        assert callable(signal.getsignal(hangup))  # or else it would end all tests
        monkeypatch.setattr(shutil, "rmtree", interrupted)
        os.kill(os.getpid(), hangup)
    assert ended.value.code == 129 and list(tmp_path.iterdir()) == []
    assert signal.getsignal(hangup) is signal.SIG_DFL


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGHUP")
def test_nohup_is_left_alone(tmp_path, hangup):
    signal.signal(hangup, signal.SIG_IGN)
    with folder_beside(tmp_path / "out"):
        os.kill(os.getpid(), hangup)
        assert signal.getsignal(hangup) is signal.SIG_IGN
    assert signal.getsignal(hangup) is signal.SIG_IGN
