from __future__ import annotations

import sys
from pathlib import Path

import pytest

from phantrol.find import find

sys.path.append(str(Path(__file__).parent))  # published_sets.py and what it is made of are no tests: see there

from published_sets import WRITERS


@pytest.fixture(scope="session")
def sets(tmp_path_factory):
    """A folder with a made-up set of every published benchmark."""
    root = tmp_path_factory.mktemp("sets")
    for write in WRITERS.values():
        write(root)
    return root


@pytest.fixture
def opened(sets):
    """`opened(name, **options)` opens a benchmark on its made-up set."""
    return lambda name, **options: find("benchmarks", name)(data=sets, **options)
