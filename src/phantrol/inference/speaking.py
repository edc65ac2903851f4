"""Tokens become text as they come: nothing is said that a later token could change, or that a stop string cuts off."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from phantrol.inference.sampling import TokenLogprob

if TYPE_CHECKING:
    from phantrol.inference.engine import Engine

CUT_CHARACTER = "\N{REPLACEMENT CHARACTER}"  # stands where a token ends inside a character


class Speaker:
    """The text of one answer. Pieces joined are the whole answer, stripped, up to the first stop string.

    tokenizer  another one than the engine's, where that one is in use elsewhere
    stopped    a stop string has come
    """

    def __init__(self, engine: Engine, stop: Sequence[str] = (), tokenizer: Any = None):
        self._engine, self._stop = engine, tuple(stop)
        self._tokenizer = tokenizer or engine.processor.tokenizer
        self.ids: list[int] = []
        self.said = ""
        self.stopped = False
        self._certain = ""
        self._told: list[tuple[int, TokenLogprob]] = []  # (where the token's text begins, what is told of it)

    def hear(self, token: int, told: TokenLogprob | None = None) -> None:
        """Take the next token."""
        if told is not None:
            self._told.append((len(self._certain), told))
        self.ids.append(token)
        text = self._raw(self.ids[: self._engine.num_certain(self.ids)]).rstrip(CUT_CHARACTER)
        if text.startswith(self.said):
            self._certain = text
        self.stopped = self.stopped or self._cut(text) < len(text)

    def say(self) -> tuple[str, list[TokenLogprob]]:
        """Return what is new and certain: text, and what is told of the tokens that begin in it."""
        held = max((_overlap(self._certain, stop) for stop in self._stop), default=0)
        sayable = self._certain[: min(len(self._certain) - held, self._cut(self._certain))].rstrip()
        return self._piece(sayable, len(sayable))

    def end(self) -> tuple[str, list[TokenLogprob]]:
        """Return the rest, once no token follows."""
        text = self._raw(self.ids)
        cut = self._cut(text)
        self.stopped = cut < len(text)  # a stop string may show in what only the end makes certain
        return self._piece(text[:cut].rstrip(), cut if cut < len(text) else None)

    def _piece(self, text: str, told_up_to: int | None) -> tuple[str, list[TokenLogprob]]:
        piece = text[len(self.said) :] if len(text) > len(self.said) else ""
        self.said += piece
        told = []
        while self._told and (told_up_to is None or self._told[0][0] < told_up_to):
            told.append(self._told.pop(0)[1])
        return piece, told

    def _cut(self, text: str) -> int:
        places = [text.find(stop) for stop in self._stop]
        return min((place for place in places if place >= 0), default=len(text))

    def _raw(self, ids: list[int]) -> str:
        """As `Engine.decode`, but for the white space at its end, which a stop string may hold."""
        return self._tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False).lstrip()


def _overlap(text: str, stop: str) -> int:
    """How many characters at the end of `text` may be the beginning of `stop`."""
    return next((size for size in range(min(len(stop) - 1, len(text)), 0, -1) if text.endswith(stop[:size])), 0)
