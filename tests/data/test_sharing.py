"""Rows about one picture come as one group: which, how many, in which order; and the model reads the picture once."""

from __future__ import annotations

import json
import pickle
import tracemalloc

import numpy as np
import pytest

from phantrol.data.collate import Collator
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
    assert numbers(FileSource(path, pictures, together=8)) == [[0, 3, 6], [1, 4, 7], [2, 5, 8], [9], None, [11]]
    assert numbers(FileSource(path, pictures, together=2)) == [
        [0, 3], [1, 4], [2, 5], [6], [7], [8], [9], None, [11],
    ]  # fmt: skip
    assert numbers(FileSource(path, pictures))[:3] == [[0], [1], [2]]
    assert numbers(FileSource(path, pictures, start=1, stop=5, together=8)) == [[1, 4], [2], [3]]
    with pytest.raises(ValueError, match="together: got 0"):
        FileSource(path, together=0)


def test_embedded_pictures_are_known_by_their_bytes(write, llava, pictures):
    image = [(pictures / name).read_bytes() for name in ("red.png", "green.jpg", "red.png")]
    rows = [llava(str(i), None, f"<image>Color {i}?") | {"image": {"bytes": each}} for i, each in enumerate(image)]
    assert numbers(FileSource(write("a.parquet", rows), together=4)) == [[0, 2], [1]]


def test_several_files_and_a_recipe(rows, write, pictures, tmp_path):
    write("a.json", rows[:5]), write("b.json", rows[5:])
    source = FileSource(str(tmp_path / "*.json"), pictures, together=3)
    assert numbers(source) == [[0, 3, 6], [1, 4, 7], [2, 5, 8], [9], None, [11]]
    assert numbers(pickle.loads(pickle.dumps(source))) == numbers(source)
    assert _read(json.loads(json.dumps(_written(source, "here")))).together == 3


def test_what_was_found_is_kept_until_the_file_changes(rows, write, pictures, own_cache, monkeypatch):
    path = write("a.json", rows)
    before = numbers(FileSource(path, pictures, together=8))
    (kept,) = (own_cache / "rows").glob("*.pictures")
    assert kept.stat().st_size == 8 * len(rows)
    np.zeros(len(rows), np.uint64).tofile(kept)  # it is read, not made again
    assert len(FileSource(path, pictures, together=8)) == len(rows)
    assert len(FileSource(path, pictures, {"question": "frage"}, together=8)) == len(before)  # another key
    write("a.json", rows[:3])
    assert len(FileSource(path, pictures, together=8)) == 3
    assert len(list((own_cache / "rows").glob("*.pictures"))) == 2


def test_the_picture_is_computed_once_and_the_rest_is_as_in_rows_of_their_own(model, rows, write, pictures):
    _, processor = model
    path = write("a.json", rows[:9])
    apart = Collator(processor)([FileSource(path, pictures)[i] for i in (0, 3, 6)])
    shared = Collator(processor)([FileSource(path, pictures, together=8)[0]])
    assert shared["num_pictures"] == 1 and apart["num_pictures"] == 3
    assert len(shared["input_ids"]) == 1 and shared["input_ids"].shape[1] < 3 * apart["input_ids"].shape[1]
    assert sorted(shared["labels"][shared["labels"] >= 0].tolist()) == sorted(
        apart["labels"][apart["labels"] >= 0].tolist()
    )


def test_a_million_rows():
    draw = np.random.default_rng(0)
    keys = draw.integers(0, 300_000, 1_000_000, dtype=np.uint64)
    tracemalloc.start()
    groups = share(keys, 4)
    held, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held < 32e6 and peak < 100e6
    assert sorted(number for i in range(0, len(groups), 1) for number in groups[i]) == list(range(1_000_000))
    sizes = groups.ends - groups.begins
    assert sizes.max() == 4 and (sizes == 1).sum() >= (keys == 0).sum()
    for i in range(0, len(groups), 1009):
        assert len({int(keys[number]) for number in groups[i]}) == 1 and groups[i] == sorted(groups[i])
