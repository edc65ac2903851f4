"""Where unpacked parts are kept."""

from __future__ import annotations

from pathlib import Path

import pytest

from phantrol.cached import cache_folder


def test_a_user_without_a_home_folder_is_told_what_to_set(monkeypatch):
    def no_home(self):
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("PHANTROL_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "expanduser", no_home)
    with pytest.raises(ValueError, match="set PHANTROL_CACHE"):
        cache_folder()
    monkeypatch.setenv("PHANTROL_CACHE", "somewhere")
    assert cache_folder() == Path("somewhere")
