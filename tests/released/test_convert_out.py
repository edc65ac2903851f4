"""`convert`, where OUT cannot be, and where the disk is full: one line that says so, and nothing half-written."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from phantrol.models.released import convert as convert_module
from phantrol.models.released.convert import convert
from phantrol.models.released.source import Source

pytestmark = pytest.mark.usefixtures("no_grad")


def test_a_folder_that_is_there_is_left_alone(sources: Callable[..., Path], run: Callable[..., Any], tmp_path: Path):
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "mine.txt").write_text("mine")
    status, _, complaint = run("convert", sources("phantom", "qwen2"), tmp_path / "new")
    assert status == 2 and "exists" in complaint and os.listdir(tmp_path / "new") == ["mine.txt"]


def test_where_no_folder_can_be(sources: Callable[..., Path], run: Callable[..., Any], tmp_path: Path):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for out, message in (("file/new", "a file stands where a folder is"), ("link", "exists"), ("file", "exists")):
        status, _, complaint = run("convert", sources("phantom", "qwen2"), tmp_path / out)
        assert status == 2 and message in complaint and complaint.count("\n") == 1, complaint
    assert sorted(os.listdir(tmp_path)) == ["file", "link"]


def test_a_folder_that_appears_meanwhile(
    sources: Callable[..., Path], run: Callable[..., Any], tmp_path: Path, monkeypatch: Any
):
    def appear(*args: Any) -> str:
        (tmp_path / "new").mkdir()
        (tmp_path / "new" / "theirs.txt").write_text("theirs")
        return "the card"

    monkeypatch.setattr(convert_module, "model_card", appear)
    status, _, complaint = run("convert", sources("phantom", "qwen2"), tmp_path / "new")
    assert status == 2 and "new appeared while this was written: choose another name" in complaint
    assert os.listdir(tmp_path) == ["new"] and os.listdir(tmp_path / "new") == ["theirs.txt"]


def test_a_full_disk(sources: Callable[..., Path], run: Callable[..., Any], tmp_path: Path, monkeypatch: Any):
    """safetensors has a fault of its own for it, with the number in words."""
    with pytest.raises(SafetensorError) as fault:
        save_file({"a": torch.zeros(1)}, tmp_path / "nowhere" / "a.safetensors")
    words = str(fault.value).replace("(os error 2)", "(os error 28)")
    assert "(os error 28)" in words

    def full(*args: Any, **kwargs: Any) -> None:
        raise SafetensorError(words)

    monkeypatch.setattr(convert_module, "save_file", full)
    status, _, complaint = run("convert", sources("phantom", "qwen2"), tmp_path / "new")
    assert status == 2 and "no room on the disk" in complaint and complaint.count("\n") == 1, complaint
    assert not os.listdir(tmp_path)


def test_a_fault_in_the_middle_leaves_nothing(sources: Callable[..., Path], tmp_path: Path, monkeypatch: Any):
    read, calls = Source.read, []

    def read_some(self: Source, name: str) -> Tensor:
        calls.append(name)
        if len(calls) == 50:
            raise OSError(28, "No space left on device")
        return read(self, name)

    monkeypatch.setattr(Source, "read", read_some)
    with pytest.raises(OSError, match="No space left"):
        convert(sources("phantom", "qwen2"), tmp_path / "new", shard_bytes=50_000)
    assert not os.listdir(tmp_path)


@pytest.fixture(params=["SIGTERM", pytest.param("SIGHUP", marks=pytest.mark.skipif(os.name == "nt", reason="none"))])
def number(request: Any) -> Iterator[signal.Signals]:
    """A signal as a program finds it, whoever started these tests."""
    number = signal.Signals[request.param]
    before = signal.signal(number, signal.SIG_DFL)
    yield number
    signal.signal(number, before)


def test_a_signal_leaves_nothing(
    sources: Callable[..., Path], run: Callable[..., Any], tmp_path: Path, monkeypatch: Any, number: signal.Signals
):
    found: list[str] = []

    def ended(*args: Any) -> str:
        assert callable(signal.getsignal(number))  # or else it would end all tests
        found.extend(os.listdir(tmp_path))
        os.kill(os.getpid(), number)
        return "the card"

    monkeypatch.setattr(convert_module, "model_card", ended)
    status, _, _ = run("convert", sources("phantom", "qwen2"), tmp_path / "new")
    assert status == 128 + number and len(found) == 1 and found[0].startswith(".new.")
    assert not os.listdir(tmp_path) and signal.getsignal(number) == signal.SIG_DFL
