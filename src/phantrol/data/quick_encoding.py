"""The same ids as the tokenizer's, several times as fast: words repeat, and each is tokenized once.

Most tokenizers cut a text before they look for tokens, and one place where nearly all do is before a space between two
words. What lies between such places can be remembered. Where a tokenizer does not cut there, or has added tokens that
reach across, texts are tokenized whole.
"""

from __future__ import annotations

import copy
import re
from itertools import chain
from typing import Any

from phantrol.models.text_encoding import TextEncoder

MAX_WORDS = 1 << 17  # remembered at a time
_BEFORE, _AFTER = "A-Za-z0-9.,;:!?)\"'", "A-Za-z"
_CUT = re.compile(rf"(?<=[{_BEFORE}])(?= [{_AFTER}])")
_CLASSES = (
    "a",
    "Z",
    "ab",
    "I'll",
    "etc.",
    "no,",
    "so;",
    "it:",
    "Oh!",
    "Why?",
    "e.g.",
    "(a)b",
    "x2y",
    "ß.",
    "中a",
    "10",
    "'a'",
    '"b"',
    "(c)",
)


class QuickEncoder(TextEncoder):
    """Encodes as TextEncoder does, for a fast tokenizer, without what transformers wraps around each call.

    cuts  whether words are remembered, or texts tokenized whole
    """

    def __init__(self, tokenizer: Any):
        super().__init__(tokenizer)
        self._backend = copy.deepcopy(tokenizer.backend_tokenizer)
        self._backend.no_truncation()
        self._backend.no_padding()
        self._backend.encode_special_tokens = False
        self._words: dict[str, list[int]] = {}
        self.cuts = cuts_between_words(self._backend)

    def _plain(self, text: str) -> list[int]:
        if not text:
            return []
        if not self.cuts:
            return self._encode([text])[0]
        words = _CUT.split(text)
        try:
            return list(chain.from_iterable(map(self._words.__getitem__, words)))
        except KeyError:
            self._learn(words)
            return list(chain.from_iterable(map(self._words.__getitem__, words)))

    def _learn(self, words: list[str]) -> None:
        if len(self._words) + len(words) > MAX_WORDS:
            self._words.clear()
        new = list({word for word in words if word not in self._words})
        self._words.update(zip(new, self._encode(new), strict=True))

    def _encode(self, texts: list[str]) -> list[list[int]]:
        return [each.ids for each in self._backend.encode_batch_fast(texts, add_special_tokens=False)]


def cuts_between_words(backend: Any) -> bool:
    """Return whether a tokenizer always cuts where QuickEncoder does.

    Asked are its pre-tokenizer, with words of each kind, and its normalizer, which must treat what stands before and
    behind apart. Its added tokens must not begin, end or have a place of that kind: they would swallow or hide it.
    """
    if backend.pre_tokenizer is None or (backend.normalizer and not _leaves_words(backend.normalizer)):
        return False
    for token in backend.get_added_tokens_decoder().values():
        text = token.content
        if _CUT.search(text) or re.match(rf" ?[{_AFTER}]", text) or re.search(rf"[{_BEFORE}] ?$", text):
            return False
    text = " ".join(f"{one} {other}" for one in _CLASSES for other in _CLASSES)
    ends = {end for _, (_, end) in backend.pre_tokenizer.pre_tokenize_str(text)}
    return all(found.start() in ends for found in _CUT.finditer(text))


def _leaves_words(normalizer: Any) -> bool:
    """Whether it treats words apart, as Unicode's normal forms do, and not a text as a whole."""
    one, other = "Ab, c", " D ef"
    return normalizer.normalize_str(one + other) == normalizer.normalize_str(one) + normalizer.normalize_str(other)
