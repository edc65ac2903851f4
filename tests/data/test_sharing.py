"""Rows about one picture come as one group: which, how many, in which order; and the model reads the picture once."""

from __future__ import annotations

import json
import os
import pickle
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from phantrol.data import sharing
from phantrol.data.collate import Collator
from phantrol.data.messages import Example, Message
from phantrol.data.sharing import share
from phantrol.data.sources.file import FileSource
from phantrol.training.recipe_json import _read, _written


@pytest.fixture
def rows(llava):
    """Twelve rows: pictures by turns, one text alone, one that cannot be read, one that asks before it shows."""
    found = [llava(str(i), ("red.png", "green.jpg", "deep/blue.webp")[i % 3], f"<image>\nColor {i}?") for i in range(9)]
    return [*found, llava("9", None, "Hi?"), {"no": "row"}, llava("11", "red.png", "Color 11?\n<image>")]


def numbers(source) -> list[list[int]]:
    """The rows of each group, by what they ask; None for a group that cannot be read."""
    found = []
    for i in range(len(source)):
        try:
            found.append(
                [
                    int(example.messages[0].text.removeprefix("Color ").replace("Hi", "9").rstrip("?"))
                    for example in source[i]
                ]
            )
        except ValueError:
            found.append(None)
    return found


@pytest.mark.parametrize("name", ["a.json", "a.jsonl", "a.parquet", "a_folder"])
def test_rows_about_one_picture_are_a_group(name, rows, write, pictures):
    if name in ("a.parquet", "a_folder"):  # tables have no rows of other fields
        rows[10] = {"id": "10", "image": None, "conversations": []}
    path = write(name, rows)
    whole = FileSource(path, pictures, together=3)
    assert numbers(whole)[:3] in ([[0, 3, 6], [2, 5, 8], [1, 4, 7]], [[0, 3, 6], [1, 4, 7], [2, 5, 8]])
    assert numbers(whole)[3] is None and len(whole) == 4  # one of its rows cannot be read
    twos = numbers(FileSource(path, pictures, together=2, stop=9))
    assert {(0, 3), (2, 5), (1, 4)} < set(map(tuple, twos)) and sorted(
        number for group in twos for number in group
    ) == list(range(9))
    assert [len(group) for group in twos] == [2, 2, 2, 2, 1]
    assert numbers(FileSource(path, pictures))[:3] == [[0], [1], [2]]
    assert numbers(FileSource(path, pictures, start=1, stop=5, together=2))[0] == [1, 4]
    with pytest.raises(ValueError, match="together: got 0"):
        FileSource(path, together=0)


HELLO = (Message("user", ("Hi.",)), Message("assistant", ("Ho.",)))
SEEN = Message("user", (Path("a.png"), "What?"))


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ((*HELLO, SEEN), (*HELLO, Message("user", (Path("a.png"), "Where?"))), True),  # it is after the last picture
        ((*HELLO, SEEN), (HELLO[0], Message("assistant", ("Hm.",)), SEEN), False),
        ((*HELLO, SEEN), (SEEN,), False),
        ((Message("system", ("Hi.",)), SEEN), (Message("user", ("Hi.",)), SEEN), False),
        ((Message("user", ("a.png", Path("a.png"))),), (Message("user", (Path("a.png"), Path("a.png"))),), False),
    ],
)
def test_only_rows_with_all_the_same_up_to_the_last_picture_begin_alike(one, other, same):
    end = Message("assistant", ("Yes.",))
    digests = [sharing._beginning(lambda _, said=said: Example("x", (*said, end)), 0) for said in (one, other)]
    assert 0 not in digests and (digests[0] == digests[1]) == same


def test_embedded_pictures_are_known_by_their_bytes(write, llava, pictures):
    image = [(pictures / name).read_bytes() for name in ("red.png", "green.jpg", "red.png")]
    rows = [llava(str(i), None, f"<image>Color {i}?") | {"image": {"bytes": each}} for i, each in enumerate(image)]
    assert numbers(FileSource(write("a.parquet", rows), together=2)) == [[0, 2], [1]]


def test_several_files_and_a_recipe(rows, write, pictures, tmp_path):
    write("a.json", rows[:5]), write("b.json", rows[5:])
    source = FileSource(str(tmp_path / "*.json"), pictures, together=3)
    assert [0, 3, 6] in numbers(source) and [1, 4, 7] in numbers(source) and len(source) == 4
    assert numbers(pickle.loads(pickle.dumps(source))) == numbers(source)
    assert _read(json.loads(json.dumps(_written(source, "here")))).together == 3


def test_what_was_found_is_kept_until_the_file_changes(rows, write, pictures, own_cache, monkeypatch):
    path = write("a.json", rows)
    before = numbers(FileSource(path, pictures, together=3))
    (kept,) = (own_cache / "rows").glob("*.pictures")
    assert kept.stat().st_size == 8 * len(rows)
    np.zeros(len(rows), np.uint64).tofile(kept)  # it is read, not made again
    assert numbers(FileSource(path, pictures, together=3)) != before
    another = FileSource(path, pictures, {"question": "frage"}, together=3)  # another key
    assert numbers(another) == before
    write("a.json", rows[:3])
    assert len(FileSource(path, pictures, together=3)) == 1
    assert len(list((own_cache / "rows").glob("*.pictures"))) == 2


@pytest.mark.parametrize("later_ns", [1000, 10**9])
def test_a_file_of_the_same_size_that_was_written_later_is_read_anew(write, llava, pictures, later_ns):
    red, green = "red.png", "green.jpg"
    for time_ns, names, groups in (
        (10**18, (red, green, red), [[0, 2], [1]]),
        (10**18 + later_ns, (red, red, green), [[0, 1], [2]]),
    ):
        path = write("a.jsonl", [llava(str(i), name, f"<image>\nColor {i}?") for i, name in enumerate(names)])
        os.utime(path, ns=(time_ns, time_ns))
        assert numbers(FileSource(path, pictures, together=2)) == groups


def test_what_cannot_be_kept_leaves_nothing_behind(rows, write, pictures, own_cache, monkeypatch):
    path = write("a.json", rows)
    assert len(FileSource(path, pictures)) == len(rows)
    before = sorted((own_cache / "rows").iterdir())
    with monkeypatch.context() as patch:
        patch.setattr(sharing.os, "replace", lambda *_: (_ for _ in ()).throw(OSError("no room")))
        assert [0, 3, 6] in numbers(FileSource(path, pictures, together=3))
    assert sorted((own_cache / "rows").iterdir()) == before


def test_the_picture_is_computed_once_and_the_rest_is_as_in_rows_of_their_own(model, rows, write, pictures):
    _, processor = model
    path = write("a.json", rows[:9])
    apart = Collator(processor)([FileSource(path, pictures)[i] for i in (0, 3, 6)])
    shared = Collator(processor)([FileSource(path, pictures, together=3)[0]])
    assert shared["num_pictures"] == 1 and apart["num_pictures"] == 3
    assert len(shared["input_ids"]) == 1 and shared["input_ids"].shape[1] < 3 * apart["input_ids"].shape[1]
    assert sorted(shared["labels"][shared["labels"] >= 0].tolist()) == sorted(
        apart["labels"][apart["labels"] >= 0].tolist()
    )


@pytest.mark.parametrize("free", [False, True])
def test_a_group_of_several_pictures_and_of_none(model, rows, write, pictures, free):
    """Each picture is read once, and text that begins as other text only by its template stays by itself."""
    _, processor = model
    source = FileSource(write("a.json", [*rows[:6], rows[9]]), pictures, together=7)
    batch = Collator(processor, padding_free=free)([source[0]])
    assert len(batch["example_ids"]) == 7 and batch["num_pictures"] == 3
    assert (len(batch["blocks"]) if free else len(batch["input_ids"])) == 4


def shared_pieces(lengths: list[int], size: int) -> list[list[int]]:
    """Return the pictures of each group, for a file with so many rows of each."""
    keys = np.repeat(np.arange(1, len(lengths) + 1, dtype=np.uint64), lengths)
    groups = share(np.random.default_rng(1).permutation(keys), size)
    keys = np.random.default_rng(1).permutation(keys)
    assert sorted(groups.order.tolist()) == list(range(sum(lengths)))
    return [sorted(keys[groups[i]].tolist()) for i in range(len(groups))]


def test_groups_are_of_one_size_and_cut_no_picture_without_need():
    for lengths, size in (([3, 5, 8, 1, 2, 5], 8), ([4, 4, 2, 1, 1], 4), ([1] * 12, 4), ([6] * 4 + [2] * 4, 8)):
        found = shared_pieces(lengths, size)
        assert [len(group) for group in found] == [size] * (sum(lengths) // size)
        assert sum(len(set(group)) for group in found) == len(lengths)  # none is cut
    found = shared_pieces([3] * 8, 8)  # nothing fills a group: some must be cut, each once
    assert [len(group) for group in found] == [8, 8, 8] and sum(len(set(group)) for group in found) <= 8 + 2
    assert shared_pieces([20], 8) == [[1] * 8, [1] * 8, [1] * 4]


def test_rows_of_a_group_lie_apart_in_the_file():
    groups = share(np.zeros(1000, np.uint64), 4)
    assert min(np.diff(sorted(groups[i])).min() for i in range(len(groups))) > 20


def test_a_million_rows():
    draw = np.random.default_rng(0)
    keys = draw.integers(0, 300_000, 1_000_000, dtype=np.uint64)
    tracemalloc.start()
    groups = share(keys, 4)
    held, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held < 32e6 and peak < 100e6
    assert sorted(groups.order.tolist()) == list(range(1_000_000)) and len(groups) == 250_000
    by_four = np.sort(keys[groups.order].reshape(-1, 4), axis=1)
    pictures = len(keys) // 4 + int((np.diff(by_four, axis=1) != 0).sum())  # so often a picture is read
    rows_of_each = np.unique(keys[keys > 0], return_counts=True)[1]
    assert pictures < 1.005 * (np.ceil(rows_of_each / 4).sum() + (keys == 0).sum())
