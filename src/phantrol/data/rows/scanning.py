"""Where the rows of a JSON file begin and end, found at the speed of numpy without reading a single row.

A file is either one array of rows or one row a line. What matters is quotes, brackets and commas; a row that is not
valid JSON inside, but whose quotes and brackets pair, hurts no other row.

C bytes of a chunk, R rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import BinaryIO

import numpy as np

CHUNK_BYTES = 1 << 21
HEAD_BYTES = 1 << 16  # of a first line that leaves an object open; a longer one holds a whole row
_BOM = b"\xef\xbb\xbf"
_QUOTE, _OPEN, _CLOSE, _COMMA = 1, 2, 3, 4
_KINDS = np.zeros(256, np.uint8)
for _kind, _characters in ((_QUOTE, b'"'), (_OPEN, b"{["), (_CLOSE, b"}]"), (_COMMA, b",")):
    _KINDS[list(_characters)] = _kind
_NOTHING = np.zeros((0, 3), np.int64)


@dataclass
class Scan:
    """The rows of one file.

    is_array  one array of rows, or else one row a line
    fault     after iterating: why the file ends too early or goes on too long, or ""

    Iterating gives arrays [R, 3] int64: first byte of a row, the byte after its last one, and the line it begins on.
    """

    file: BinaryIO
    is_array: bool = field(init=False)
    fault: str = field(init=False, default="")

    def __post_init__(self) -> None:
        head = self.file.read(len(_BOM))
        if head[:2] in (b"\xff\xfe", b"\xfe\xff"):
            raise ValueError("got UTF-16, expected UTF-8: save it as UTF-8")
        self._start = len(_BOM) if head == _BOM else 0
        self.file.seek(self._start)
        first = b""
        while not first and (piece := self.file.read(CHUNK_BYTES)):
            first = piece.lstrip()[:1]
        self.is_array = first == b"["

    def __iter__(self) -> Iterator[np.ndarray]:
        if not self.is_array and self._is_one_object():
            self.fault = "one object over several lines, expected an array of rows, or one row a line"
            return iter(())
        self.file.seek(self._start)
        return self._array() if self.is_array else self._lines()

    def _is_one_object(self) -> bool:
        """Whether the file is an object that its first line leaves open, as COCO's, and nothing else."""
        self.file.seek(self._start)
        line = b"\n"
        while line and not line.strip():
            line = self.file.readline(HEAD_BYTES)
        state = _State(self.file.tell() - len(line))
        state.rows(np.frombuffer(line, np.uint8))
        if not line.lstrip().startswith(b"{") or not line.endswith(b"\n") or state.closed or state.in_string:
            return False
        while not state.closed and (chunk := self._chunk()):
            state.rows(np.frombuffer(chunk, np.uint8))
        return state.closed and self._is_blank_from(state.end)

    def _lines(self) -> Iterator[np.ndarray]:
        offset, line, begin = self._start, 1, self._start
        blank = True  # whether the line so far, carried from the last chunk, is blank
        while chunk := self.file.read(CHUNK_BYTES):
            array = np.frombuffer(chunk, np.uint8)
            ends = np.flatnonzero(array == 10)
            starts = np.concatenate(([begin], ends[:-1] + offset + 1)) if len(ends) else np.zeros(0, np.int64)
            solid = np.concatenate(([0], np.cumsum(array > 32)))  # how many bytes before are no white space
            before = np.concatenate(([0], solid[ends[:-1] + 1])) if len(ends) else np.zeros(0, np.int64)
            has_text = solid[ends] > before
            if len(ends):
                has_text[0] |= not blank
                begin, blank = int(ends[-1]) + offset + 1, bool(solid[-1] == solid[ends[-1]])
            else:
                blank &= bool(solid[-1] == 0)
            lines = line + np.arange(len(ends))
            yield np.stack((starts, ends + offset, lines), axis=1)[has_text]
            line, offset = line + len(ends), offset + len(chunk)
        if not blank:
            yield np.array([[begin, offset, line]], np.int64)

    def _array(self) -> Iterator[np.ndarray]:
        state, seen = _State(self._start), 0
        while not state.closed and (chunk := self._chunk()):
            rows = state.rows(np.frombuffer(chunk, np.uint8))
            if state.closed and seen + len(rows) == 1 and self._is_blank(*rows[0, :2].tolist()):
                break  # an empty array
            seen += len(rows)
            yield rows
        if not state.closed:
            self.fault = f"the array that holds the rows does not end; the file stops inside line {state.line}"
            if state.in_string:
                self.fault += ', in a text whose closing " is missing'
            return
        if not self._is_blank_from(state.end):
            self.fault = f"text follows after the array that holds the rows ends, on line {state.last_line}"

    def _is_blank_from(self, begin: int) -> bool:
        self.file.seek(begin)
        return not any(rest.strip() for rest in iter(lambda: self.file.read(CHUNK_BYTES), b""))

    def _is_blank(self, begin: int, end: int) -> bool:
        self.file.seek(begin)
        return not self.file.read(end - begin).strip()

    def _chunk(self) -> bytes:
        """Read on, to a byte that is no backslash, so that no escaped quote is cut in two."""
        chunk = self.file.read(CHUNK_BYTES)
        while chunk.endswith(b"\\") and (more := self.file.read(1)):
            chunk += more
        return chunk


class _State:
    """How far an array has been read: inside a text or not, how deep in brackets, and where the row began."""

    def __init__(self, offset: int):
        self.offset, self.line, self.depth, self.in_string = offset, 1, 0, False
        self.begin, self.begin_line, self.closed, self.end, self.last_line = 0, 1, False, 0, 1

    def rows(self, array: np.ndarray) -> np.ndarray:
        """Return the rows that end in this chunk, [R, 3]."""
        newlines = np.flatnonzero(array == 10)
        kinds = _KINDS[array]
        places = np.flatnonzero(kinds)
        kinds = kinds[places]
        keep = ~((kinds == _QUOTE) & _escaped(array, places))
        places, kinds = places[keep], kinds[keep]
        quotes = np.cumsum(kinds == _QUOTE) + self.in_string
        if len(quotes):
            self.in_string = bool(quotes[-1] & 1)
        outside = (kinds != _QUOTE) & (quotes & 1 == 0)
        places, kinds = places[outside], kinds[outside]
        depths = self.depth + np.cumsum((kinds == _OPEN).astype(np.int64) - (kinds == _CLOSE))
        found = self._cut(places, kinds, depths, newlines)
        self.depth = int(depths[-1]) if len(depths) else self.depth
        self.offset, self.line = self.offset + len(array), self.line + len(newlines)
        return found

    def _cut(self, places: np.ndarray, kinds: np.ndarray, depths: np.ndarray, newlines: np.ndarray) -> np.ndarray:
        ends = np.flatnonzero((kinds == _CLOSE) & (depths <= 0))
        last = int(ends[0]) if len(ends) else len(places)
        cuts = places[:last][(kinds[:last] == _COMMA) & (depths[:last] == 1)]
        if self.depth == 0 and self.begin == 0 and last:  # the bracket that opens the array
            self._begin_at(int(places[0]), newlines)
        if len(ends):
            cuts = np.append(cuts, places[last])
            self.closed, self.end = True, self.offset + int(places[last]) + 1
            self.last_line = self.line + int(np.searchsorted(newlines, places[last]))
        if not len(cuts):
            return _NOTHING
        starts = np.concatenate(([self.begin], cuts[:-1] + self.offset + 1))
        lines = np.concatenate(([self.begin_line], self.line + np.searchsorted(newlines, cuts[:-1])))
        self._begin_at(int(cuts[-1]), newlines)
        return np.stack((starts, cuts + self.offset, lines), axis=1)

    def _begin_at(self, place: int, newlines: np.ndarray) -> None:
        self.begin, self.begin_line = self.offset + place + 1, self.line + int(np.searchsorted(newlines, place))


def _escaped(array: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Return which of the places come after an odd number of backslashes, [len(places)] bool."""
    slashes = np.flatnonzero(array == 92)
    if not len(slashes):
        return np.zeros(len(places), bool)
    firsts = slashes[np.concatenate(([True], np.diff(slashes) > 1))]  # where each run of them begins
    before = np.searchsorted(slashes, places) - 1
    touches = (before >= 0) & (slashes[np.maximum(before, 0)] == places - 1)
    run = firsts[np.maximum(np.searchsorted(firsts, places) - 1, 0)]
    return touches & ((places - run) % 2 == 1)
