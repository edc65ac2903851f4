"""One processor, several threads: each prompt is what it is alone, and so is what is remembered of it."""

from __future__ import annotations

import copy
import pickle
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from phantrol.models.image_processing import PhantrolImageProcessor
from phantrol.models.processing import PhantrolProcessor


class SlowBackend:
    """Tokenizes late, so that whoever switches its special tokens off or on meanwhile spoils what comes out."""

    def __init__(self, backend: Any):
        vars(self)["backend"] = backend

    def __getattr__(self, name: str) -> Any:
        return getattr(self.backend, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self.backend, name, value)

    def encode_batch(self, *args: Any, **kwargs: Any) -> Any:
        time.sleep(0.02)
        return self.backend.encode_batch(*args, **kwargs)


@pytest.fixture
def processor(tokenizer):
    return PhantrolProcessor(PhantrolImageProcessor(image_px=32), tokenizer, image_grid=4)


def test_threads_do_not_switch_each_others_special_tokens(processor, chat):
    chats = [chat(f"{typed} {i}") for i in range(4) for typed in ("a <|end|> b", "What color?")]
    shared = copy.deepcopy(processor)
    shared.tokenizer._tokenizer = SlowBackend(shared.tokenizer._tokenizer)
    expected = [processor.encode(each).input_ids for each in chats]
    with ThreadPoolExecutor(4) as threads:
        got = list(threads.map(lambda each: shared.encode(each).input_ids, chats))
    assert got == expected
    assert [shared.encode(each).input_ids for each in chats] == expected  # what is remembered


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda processor: pickle.loads(pickle.dumps(processor))])
def test_copies_encode_while_the_first_is_at_work(processor, chat, copied):
    known, new = chat("a <|end|> b"), chat("What color is <image>?")
    expected = processor.encode(known).input_ids
    with processor._text._lock:
        other = copied(processor)
        assert other.encode(known).input_ids == expected
        got = other.encode(new).input_ids
    assert got == processor.encode(new).input_ids
