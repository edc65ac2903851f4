"""Which answers rows have as right ones, so that none is given as wrong to another row that asks the same.

Eight bytes a row: digests, sorted.
"""

from __future__ import annotations

import hashlib
import os
from array import array
from pathlib import Path

import numpy as np

from phantrol.data.messages import Picture
from phantrol.data.pictures import stored_bytes
from phantrol.data.triples.reading import Row
from phantrol.data.triples.validating import plain


class RightAnswers:
    """Collects what rows say, and is then asked."""

    def __init__(self) -> None:
        self._digests = array("Q")
        self._sorted = np.zeros(0, np.uint64)

    def add(self, asked: bytes, answer: str) -> None:
        """Note that `answer` is right where `asked`, of `asked_in`, is what is asked."""
        self._digests.append(_number(asked, answer))

    def close(self) -> None:
        self._sorted = np.sort(np.frombuffer(self._digests, np.uint64))

    def hold(self, asked: bytes, answer: str) -> bool:
        """Return whether a row that asks the same has this answer."""
        number = np.uint64(_number(asked, answer))
        place = int(np.searchsorted(self._sorted, number))
        return place < len(self._sorted) and bool(self._sorted[place] == number)


def asked_in(row: Row) -> bytes:
    """Return a digest of what a row asks: its pictures and its last question, or without pictures all that was said."""
    pictures = [picture for message in row.example.messages for picture in message.pictures]
    digest = hashlib.blake2b(_bytes(row.last_question if pictures else row.question), digest_size=8)
    for picture in pictures:
        digest.update(_digest(picture))
    return digest.digest()


def _digest(picture: Picture) -> bytes:
    if isinstance(picture, Path):
        return b"path" + os.fsencode(os.path.normpath(picture)) + b"\0"
    return hashlib.blake2b(stored_bytes(picture) or picture.tobytes()).digest()


def _number(asked: bytes, answer: str) -> int:
    return int.from_bytes(hashlib.blake2b(asked + _bytes(answer), digest_size=8).digest(), "big")


def _bytes(text: str) -> bytes:
    return plain(text).encode("utf-8", "surrogatepass")
