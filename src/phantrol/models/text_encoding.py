"""Text to token ids, in which only the chat template and real pictures make special tokens.

A prompt is tokenized as one string, as the tokenizer itself would do it: neither the space that SentencePiece puts
before a text, nor words that merge across the end of the template, nor special tokens that swallow the whitespace
beside them come out otherwise. Only what a user typed like a special token is taken out and spelled.
"""

from __future__ import annotations

import re
import threading
from itertools import groupby
from typing import Any

MAX_REMEMBERED = 4096  # strings whose tokens are kept: questions repeat
LONGEST_REMEMBERED = 4096  # characters of one of them: long texts do not, and would fill the memory

Piece = tuple[bool, str]  # (is it of the template or a picture's, and so to be trusted with special tokens?, text)


class TextEncoder:
    """A tokenizer that can tell typed text from a template. It remembers the strings that it met last. Several threads
    may share it.

    special_ids  what no typed text becomes: all tokens that were added to the vocabulary, but for plain whitespace
    """

    def __init__(self, tokenizer: Any):
        self.tokenizer = tokenizer
        added = {index: token.content for index, token in tokenizer.added_tokens_decoder.items()}
        added = {index: content for index, content in added.items() if content.strip()}
        self.special_ids = frozenset(added) | frozenset(tokenizer.all_special_ids)
        longest_first = sorted(added.values(), key=len, reverse=True)
        self._special = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")
        self._remembered: dict[Any, list[int]] = {}
        # a tokenizer switches its special tokens off for typed text, and on again: one thread at a time
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_lock"}  # each copy has its own

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _lock=threading.Lock())

    def prompt(self, pieces: tuple[Piece, ...]) -> list[int]:
        """Return the ids of the pieces, joined to one string: those that the tokenizer gives for it.

        Typed text that holds, or makes together with its neighbours, the string of a special token is the exception:
        it is tokenized alone, and spelled.
        """
        with self._lock:
            known = self._remembered.get(pieces)
            if known is not None:
                return known
            ids: list[int] = []
            for is_risky, group in groupby(self._marked(pieces), key=lambda marked: marked[0]):
                texts = [text for _, text in group]
                runs = [self._spelled(text) for text in texts] if is_risky else [self._plain("".join(texts))]
                ids += [token for run in runs for token in run]
            return self._remember(pieces, ids, sum(len(text) for _, text in pieces))

    def typed(self, text: str) -> list[int]:
        """Return the ids of a text that stands alone, such as an answer."""
        with self._lock:
            known = self._remembered.get(text)
            if known is not None:
                return known
            ids = self._spelled(text) if self._special.search(text) else self._plain(text)
            return self._remember(text, ids, len(text))

    def _marked(self, pieces: tuple[Piece, ...]) -> list[tuple[bool, str]]:
        """(would it make special tokens that it must not make?, text) of each piece."""
        found = [match.span() for match in self._special.finditer("".join(text for _, text in pieces))]
        marked, end = [], 0
        for is_trusted, text in pieces:
            start, end = end, end + len(text)
            is_risky = not is_trusted and any(low < end and high > start for low, high in found)
            marked.append((is_risky, text))
        return marked

    def _plain(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False)["input_ids"] if text else []

    def _spelled(self, text: str) -> list[int]:
        """As ordinary tokens. A tokenizer can only be told to spell out tokens that it calls special; strings of other
        added tokens are cut after their first character."""
        ids = self._ordinary(text)
        if self.special_ids.isdisjoint(ids):
            return ids
        cuts = [match.start() + 1 for match in re.finditer(f"(?={self._special.pattern})", text)]
        parts = [text[low:high] for low, high in zip([0, *cuts], [*cuts, len(text)], strict=True)]
        return [token for part in parts if part for token in self._ordinary(part)]

    def _ordinary(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]

    def _remember(self, key: Any, ids: list[int], num_characters: int) -> list[int]:
        if num_characters <= LONGEST_REMEMBERED:
            if len(self._remembered) >= MAX_REMEMBERED:
                self._remembered.clear()
            self._remembered[key] = ids
        return ids
