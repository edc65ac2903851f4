"""The package says under what licences its files are: the code, and the fonts and drawings that others made."""

from __future__ import annotations

import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
IN_WORDS = {
    "Apache-2.0": "Apache License",
    "OFL-1.1": "SIL Open Font License, Version 1.1",
    "CC-BY-4.0": "Creative Commons Attribution 4.0",
}


def test_each_file_of_others_has_its_licence():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    texts = "\n".join((ROOT / name).read_text("utf-8") for name in project["license-files"])
    assert project["license"].split(" AND ") == list(IN_WORDS)
    assert all(words in texts for words in IN_WORDS.values())
    found = [path.name for end in ("ttf", "webp") for path in (ROOT / "src").rglob(f"*.{end}")]
    assert len(found) >= 4 and all(name in texts for name in found)
