"""Answers on the disk, as they come: a run that was killed goes on from them, and a better metric needs no model.

The first line says who answers and how; each further one is an answer with the hash of its prompt.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from phantrol.file_lock import lock_file

HEAD = {"speaker": dict}
ANSWER = {"prompt_sha256": str, "max_new_tokens": int, "text": str, "batch_size": int, "model": str}
OPTIONAL = {"batch_size": 0, "model": ""}  # answers have the one, judgements the other


class Journal:
    """A file of answers, found by the hash of the prompt and the most tokens that the answer could have.

    speaker  what the answers depend on beside the prompt: weights, decoding, dtype, versions
    Raises ValueError for a file of another speaker, naming what differs, for one that is no journal, and for one that
    another process writes to.
    """

    def __init__(self, path: str | Path, speaker: Mapping[str, Any]):
        self.path = Path(path)
        self._answers: dict[tuple[str, int], dict[str, Any]] = {}
        speaker = json.loads(json.dumps(speaker))
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self.path.open("a", encoding="utf-8")
        try:
            if not lock_file(self._file, self.path):
                raise ValueError(
                    f"{self.path} is in use by another process: wait for it, or write elsewhere with --json"
                )
            lines = self._whole_lines()
            if lines:
                self._check(lines[0], speaker)
            else:
                self._write([{"speaker": speaker}])
        except ValueError:
            self._file.close()
            raise
        for line in lines[1:]:
            self._answers[line["prompt_sha256"], line["max_new_tokens"]] = line

    def get(self, prompt_sha256: str, max_new_tokens: int) -> dict[str, Any] | None:
        """Return what was answered, or None."""
        return self._answers.get((prompt_sha256, max_new_tokens))

    def add(self, answers: Iterable[Mapping[str, Any]]) -> None:
        """Keep answers: each with prompt_sha256, max_new_tokens, text, and whatever else is known."""
        answers = [dict(answer) for answer in answers]
        for answer in answers:
            self._answers[answer["prompt_sha256"], answer["max_new_tokens"]] = answer
        self._write(answers)

    @property
    def batch_sizes(self) -> list[int]:
        """The sizes of the batches that the answers were given in."""
        return sorted({answer["batch_size"] for answer in self._answers.values() if "batch_size" in answer})

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *error: Any) -> None:
        self.close()

    def _write(self, lines: Iterable[Mapping[str, Any]]) -> None:
        self._file.write("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
        self._file.flush()

    def _whole_lines(self) -> list[dict[str, Any]]:
        """Return the lines; one that a killed process left half-written is cut off."""
        data = self.path.read_bytes()
        whole = data[: data.rfind(b"\n") + 1]
        try:
            lines = [json.loads(line) for line in whole.splitlines()]
            if lines and not (_has(lines[0], HEAD) and all(_has(line, ANSWER) for line in lines[1:])):
                raise ValueError
        except (ValueError, RecursionError):
            raise ValueError(f"{self.path} is no file of answers: remove it, or write elsewhere") from None
        if len(whole) != len(data):
            with self.path.open("r+b") as file:
                file.truncate(len(whole))
        return lines

    def _check(self, first: Mapping[str, Any], speaker: Mapping[str, Any]) -> None:
        before = first["speaker"]
        for key in dict.fromkeys((*speaker, *before)):
            if before.get(key) != speaker.get(key):
                raise ValueError(
                    f"{self.path} holds answers with {key} {before.get(key)}, and now it is {speaker.get(key)}: "
                    "remove the file to ask again, or write elsewhere with --json"
                )


def _has(line: Any, wanted: Mapping[str, type]) -> bool:
    return isinstance(line, dict) and all(
        isinstance(line.get(name, OPTIONAL.get(name)), kind) for name, kind in wanted.items()
    )
