"""What was asked and answered, one line each, so that a run that was stopped asks nothing twice.

A line is written by one call before anything is made of it. What a kill leaves half-written is cut off at the next
start: the one reply in it is asked for again, and nothing else.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
from pathlib import Path
from typing import Any

from phantrol.file_lock import lock_file

Reply = dict[str, Any]  # row, role, model, prompt (its hash), text, tokens_in, tokens_out
_KINDS = {"text": str, "tokens_in": int, "tokens_out": int}


class Journal:
    """An append-only file of replies, found by row and prompt. Memory holds where they lie, not what they say.

    A line whose text or counts are of another kind, as an older version could write it, is passed over.
    Raises ValueError if another process writes to it, or a line in its middle is broken.
    """

    def __init__(self, path: Path):
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        self._lock, self._places = threading.Lock(), {}
        try:
            if not lock_file(self._file, path):
                raise ValueError(f"{path} is in use by another run: wait for it, or choose another --out")
            self._end = self._read()
            os.ftruncate(self._file, self._end)
        except BaseException:
            os.close(self._file)
            raise

    def __len__(self) -> int:
        return len(self._places)

    def find(self, key: str) -> Reply | None:
        """Return the reply that was written under a key, or None."""
        place = self._places.get(key)
        return None if place is None else json.loads(os.pread(self._file, place[1], place[0]))

    def write(self, key: str, reply: Reply) -> None:
        """Append a reply. It is with the operating system when this returns, so a kill does not lose it."""
        line = json.dumps({"key": key, **reply}, ensure_ascii=False).encode() + b"\n"
        with self._lock:
            written = 0
            while written < len(line):
                written += os.write(self._file, line[written:])
            self._places[key] = (self._end, len(line))
            self._end += len(line)

    def replies(self) -> Any:
        """Yield all replies."""
        return (self.find(key) for key in list(self._places))

    def close(self) -> None:
        os.fsync(self._file)
        os.close(self._file)

    def _read(self) -> int:
        """Find all whole lines; return where the last of them ends."""
        end = 0
        with self.path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if not line.endswith(b"\n"):
                    break
                try:
                    reply = json.loads(line)
                    if all(isinstance(reply[name], kind) for name, kind in _KINDS.items()):
                        self._places[reply["key"]] = (end, len(line))
                except (ValueError, KeyError, TypeError):
                    raise ValueError(f"{self.path}, line {number} is no reply: remove that line, or the file") from None
                end += len(line)
        return end


def key_of(row: str, role: str, model: str, prompt: Any) -> str:
    """Return the key of a request: the row, who is asked as what, and the hash of all that is said."""
    said = json.dumps([row, role, model, prompt], ensure_ascii=False, sort_keys=True)
    return hashlib.sha256(said.encode("utf-8", "surrogatepass")).hexdigest()[:32]
