"""Shuffled images: every row keeps its question and gets pictures of other rows of its task."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from phantrol.evals.benchmark import Row
from phantrol.evals.fingerprints import picture_sha256
from phantrol.models.conversation import parts_of, pictures_of

Chat = list[dict[str, Any]]
Slot = tuple[int, Any, str]  # the number of a row, a picture of it, its key


def shuffle_pictures(rows: Sequence[Row], seed: int = 0) -> list[Chat]:
    """Return the chats of the rows, pictures rolled among the rows of the same task so that no row keeps its own.

    Where a task has too few different pictures, those of all tasks are rolled. Rows without pictures stay as they are.
    Raises ValueError if even all rows together have too few different pictures.
    """
    chats, slots = [row.chat for row in rows], _slots(rows)
    tasks = dict.fromkeys(row.task for row in rows)
    everyone = [index for index, row in enumerate(rows) if pictures_of(row.chat)]
    for task in tasks:
        ours = [index for index in everyone if rows[index].task == task]
        given = ours and (_roll(slots, ours, seed) or _roll(slots, everyone, seed))
        if ours and not given:
            raise ValueError(
                f"the {len(everyone)} rows with pictures have too few different ones to shuffle them: "
                "ask rows about other pictures too, with a higher limit or a larger file"
            )
        for index in ours:
            chats[index] = _with_pictures(rows[index].chat, given[index])
    return chats


def _slots(rows: Sequence[Row]) -> list[list[Slot]]:
    """Return the slots of each row. Two pictures with the same key look the same, whatever their files are called.

    A file is read once; one that cannot be read goes by its name, and is refused where its row is asked.
    """
    files: dict[str, str] = {}

    def key(picture: Any) -> str:
        if not isinstance(picture, str | Path):
            return picture_sha256(picture)
        path = str(Path(picture))
        if path not in files:
            try:
                files[path] = picture_sha256(path)
            except ValueError:
                files[path] = path
        return files[path]

    return [[(index, picture, key(picture)) for picture in pictures_of(row.chat)] for index, row in enumerate(rows)]


def _roll(slots_of: Sequence[Sequence[Slot]], indices: Sequence[int], seed: int) -> dict[int, list[Any]]:
    """Return new pictures for the rows at `indices`: the smallest roll that gives no row one of its own, or {}."""
    slots = [slot for index in indices for slot in slots_of[index]]
    random.Random(seed).shuffle(slots)  # a benchmark may list its answers in turns, and a roll would keep step
    first_seen = {key: position for position, (_, _, key) in reversed(list(enumerate(slots)))}
    slots.sort(key=lambda slot: first_seen[slot[2]])  # equal pictures side by side, so that some roll parts them all
    own: dict[int, set[str]] = {}
    for index, _, key in slots:
        own.setdefault(index, set()).add(key)
    for shift in range(1, len(slots)):
        rolled = slots[shift:] + slots[:shift]
        if all(new[2] not in own[slot[0]] for slot, new in zip(slots, rolled, strict=True)):
            given: dict[int, list[Any]] = {}
            for slot, new in zip(slots, rolled, strict=True):
                given.setdefault(slot[0], []).append(new[1])
            return given
    return {}


def _with_pictures(chat: Chat, pictures: Sequence[Any]) -> Chat:
    left = iter(pictures)
    swapped = []
    for message in chat:
        parts = [{"type": "image", "image": next(left)} if p["type"] == "image" else p for p in parts_of(message)]
        swapped.append({**message, "content": parts})
    return swapped
