"""A model that takes its time, so that something can happen in the middle of an answer."""

from __future__ import annotations

import contextlib
import gc
import threading
import time
import weakref

from asking import PATIENCE_S

from phantrol.serving import reading


@contextlib.contextmanager
def slow(engine, seconds=0.01, fails=None):
    """While this lasts, each pass of the model takes longer, and fails where `fails(number of the pass)` says so."""
    passes = []

    def wait(module, args, kwargs):
        passes.append(time.sleep(seconds))
        if fails is not None and fails(len(passes)):
            raise RuntimeError("out of memory at 0x7f00deadbeef in /usr/lib/model.py")

    hook = engine.model.register_forward_pre_hook(wait, with_kwargs=True)
    try:
        yield passes
    finally:
        hook.remove()


@contextlib.contextmanager
def held(engine, number=20):
    """While this lasts, the model waits at that pass until `go` is set. Yields the passes so far, and `go`."""
    passes, go = [], threading.Event()

    def wait(module, args):
        passes.append(None)
        assert len(passes) != number or go.wait(PATIENCE_S)

    hook = engine.model.register_forward_pre_hook(wait)
    try:
        yield passes, go
    finally:
        go.set()
        hook.remove()


def watch_pictures(monkeypatch):
    """Return a function that says how many of the pictures that are decoded from now on are in memory."""
    decoded, decode = [], reading.decode_picture

    def watched(*args):
        picture = decode(*args)
        decoded.append(weakref.ref(picture))
        return picture

    def count():
        gc.collect()
        return sum(picture() is not None for picture in decoded)

    monkeypatch.setattr(reading, "decode_picture", watched)
    return count
