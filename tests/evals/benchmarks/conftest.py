from __future__ import annotations

from pathlib import Path

import pytest

from phantrol.find import find, import_file


@pytest.fixture(scope="session")
def published():
    """The module that writes made-up sets."""
    return import_file(Path(__file__).with_name("published_sets.py"))


@pytest.fixture(scope="session")
def sets(published, tmp_path_factory):
    """A folder with a made-up set of every published benchmark."""
    root = tmp_path_factory.mktemp("sets")
    for write in published.WRITERS.values():
        write(root)
    return root


@pytest.fixture
def opened(sets):
    """`opened(name, **options)` opens a benchmark on its made-up set."""
    return lambda name, **options: find("benchmarks", name)(data=sets, **options)
