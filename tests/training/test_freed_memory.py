"""Freed memory stays with the process, where that is asked for: the next step's pages need not be cleared anew."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

from phantrol.bench import run as bench
from phantrol.freed_memory import CHOSEN_BY
from phantrol.inference import engine
from phantrol.training import run as training

pytestmark = pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc", reason="only glibc has these thresholds: elsewhere nothing is changed"
)
STEPS = """
import resource, sys
import torch
from phantrol.freed_memory import keep_freed_memory

def step():
    return [torch.ones(64, 2**18) for _ in range(3)]  # 64 MiB each

kept = keep_freed_memory() if sys.argv[1] == "keep" else False
for _ in range(12):  # until glibc has the few more blocks that its way of aligning them wants
    step()
before = resource.getrusage(resource.RUSAGE_SELF)
for _ in range(4):
    step()
after = resource.getrusage(resource.RUSAGE_SELF)
print(kept, after.ru_minflt - before.ru_minflt, after.ru_maxrss - before.ru_maxrss)
"""


def pages_cleared(word: str, **environment: str) -> tuple[bool, int, int]:
    """Whether memory is kept, and pages cleared and kilobytes more taken at most once that is settled."""
    clean = {name: value for name, value in os.environ.items() if name not in CHOSEN_BY}
    done = subprocess.run(
        [sys.executable, "-c", STEPS, word], env=clean | environment, capture_output=True, text=True, check=True
    )
    kept, pages, more = done.stdout.split()
    return kept == "True", int(pages), int(more)


def test_later_steps_find_the_memory_of_earlier_ones():
    kept, pages, more = pages_cleared("keep")
    assert kept and pages < 1000 and more < 10_000
    assert pages_cleared("")[1] > 10_000, "the control: glibc by itself gives 192 MiB back after each step"


def test_the_user_has_chosen():
    kept, pages, _ = pages_cleared("keep", MALLOC_TRIM_THRESHOLD_="131072", MALLOC_MMAP_THRESHOLD_="131072")
    assert not kept and pages > 10_000


def test_training_answering_and_measuring_keep_it(tiny_recipe, tmp_path, monkeypatch):
    told = []
    for module in (training, engine, bench):
        monkeypatch.setattr(module, "keep_freed_memory", lambda name=module.__name__: told.append(name))
    final = training.run(tiny_recipe("stages.*.max_steps=1"), tmp_path / "run")
    engine.Engine.open(final)
    bench.bench(["import_s"], runs=1)
    assert told == [training.__name__, engine.__name__, bench.__name__]
