"""Where a line ends."""

from __future__ import annotations

import pytest

from phantrol.data.rows.text_lines import split_lines


@pytest.mark.parametrize("text", ["", "\n", "a", "a\n", "a\n\nb", "a\r\nb\r\n", "a\rb\n", "a\n\r\n", "a\n\r"])
def test_lines_end_as_they_do_everywhere(text):
    assert split_lines(text) == text.splitlines()


@pytest.mark.parametrize("character", "\u2028\u2029\x85\x0b\x0c\x1c\x1d\x1e")
def test_and_nowhere_else(character):
    assert len(f"a{character}b".splitlines()) == 2
    assert split_lines(f"a{character}b\nc\n") == [f"a{character}b", "c"]
