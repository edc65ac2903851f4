"""Rows that cannot be read while training: left out, told of, replaced by what comes next; anything else is raised."""

from __future__ import annotations

import pytest

from phantrol.data.broken import BrokenRow
from phantrol.data.collate import Collator
from phantrol.data.messages import Example, Message
from phantrol.data.mixture import Groups, Mixture
from phantrol.data.skipping import MOST_IN_A_ROW, SkippingCollator, read_groups
from phantrol.data.sources.file import FileSource


class Source:
    """Rows of which some cannot be read, and some not encoded."""

    def __init__(self, length, unreadable=(), unusable=(), name="row"):
        self.length, self.unreadable, self.unusable, self.name = length, unreadable, unusable, name

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        name = f"{self.name}-{index}"
        if index in self.unreadable:
            raise BrokenRow("bad-json", "not JSON", name)
        answer = "!" if index in self.unusable else "fine"
        return (Example(name, (Message("user", ("a",)), Message("assistant", (answer,)))),)


def collate(groups):
    bad = [example.id for group in groups for example in group if example.messages[-1].text == "!"]
    if bad:
        raise OSError(f"a picture of {bad[0]} is cut off")
    if len({group[0].id.split("-")[0] for group in groups}) > 1:
        raise ValueError("rows of two sources do not go together")
    return {"ids": [group[0].id for group in groups]}


def groups(*sources):
    return Groups(Mixture(tuple((1.0, source) for source in sources)), seed=3, length=10_000)


def test_without_broken_rows_nothing_changes():
    whole = groups(Source(50))
    batch = SkippingCollator(whole, collate)(range(8))
    assert batch == {"ids": [whole[i][0].id for i in range(8)], "skipped": []}


def test_broken_rows_are_replaced_by_the_next_of_their_source():
    clean = groups(Source(50))
    order = [clean[i][0].id for i in range(9)]
    number = [int(name.split("-")[1]) for name in order]
    broken = groups(Source(50, unreadable=number[1:3], unusable=[number[5]]))
    batch = SkippingCollator(broken, collate)(range(8))
    assert batch["ids"] == [order[i] for i in (0, 3, 3, 3, 4, 6, 6, 7)]
    assert batch["skipped"] == [
        *(f"{order[i]}: not JSON" for i in (1, 2, 2)),
        f"a picture of {order[5]} is cut off",
    ]


def test_what_takes_the_place_depends_on_the_position_alone():
    broken = groups(Source(40, unreadable=range(0, 40, 3), unusable=range(1, 40, 5)))
    collator = SkippingCollator(broken, collate)
    one_by_one = [collator([i]) for i in range(120)]
    together = collator(range(120))
    assert together["ids"] == [batch["ids"][0] for batch in one_by_one]
    assert set(together["skipped"]) == {line for batch in one_by_one for line in batch["skipped"]}
    assert len(set(together["skipped"])) == len({*range(0, 40, 3), *range(1, 40, 5)})  # none is left out silently


def test_the_next_one_comes_from_the_same_source():
    bad = Source(5, unreadable=[0, 1, 2, 3], name="b")
    read = read_groups(groups(Source(5, name="a"), bad), range(40))
    assert {group[0].id for group in read if group[0].id.startswith("b")} == {"b-4"}
    assert sum(group[0].id.startswith("b") for group in read) == 20


def test_a_source_of_nothing_but_broken_rows_stops():
    with pytest.raises(
        ValueError, match=f"^{MOST_IN_A_ROW} rows one after the other cannot be read, the last because: row"
    ):
        SkippingCollator(groups(Source(100, unreadable=range(100))), collate)([0])
    with pytest.raises(ValueError, match=r"cannot be read, the last because: a picture of row-.* is cut off"):
        SkippingCollator(groups(Source(100, unusable=range(100))), collate)([0])


def test_faults_that_are_no_row_s_are_raised():
    with pytest.raises(ValueError, match="rows of two sources do not go together"):
        SkippingCollator(groups(Source(5), Source(5, name="other")), collate)(range(4))
    with pytest.raises(ValueError, match="part 0 of the mixture is empty"):
        SkippingCollator(groups(Source(0)), collate)([0])

    def broken(_):
        raise TypeError("a mistake in the program")

    with pytest.raises(TypeError, match="a mistake in the program"):
        SkippingCollator(groups(Source(5)), broken)([0])


class Pictures(Source):
    """Groups of three rows."""

    def __getitem__(self, index):
        rows = [Source.__getitem__(self, 3 * index + place)[0] for place in range(3)]
        return tuple(rows)


def test_of_a_group_only_the_rows_are_left_out_that_are_broken():
    told = groups(Pictures(4, unusable=[4, *range(9, 12)]))
    found, skipped = {}, set()
    for position in range(4):
        batch = SkippingCollator(told, lambda seats: collate(seats) | {"rows": [e.id for g in seats for e in g]})(
            [position]
        )
        found[batch["rows"][0]] = batch["rows"]
        skipped |= set(batch["skipped"])
    assert found["row-3"] == ["row-3", "row-5"] and found["row-0"] == ["row-0", "row-1", "row-2"]
    assert "row-9" not in found
    assert skipped == {f"a picture of row-{number} is cut off" for number in (4, 9, 10, 11)}


def test_of_a_group_of_a_file_the_rows_that_can_be_read_stay(write):
    rows = [{"image": "a.png", "question": "?", "answer": "" if i in (2, 4, 5, 6, 7) else "a"} for i in range(8)]
    told = groups(FileSource(write("a.jsonl", rows), together=4))  # the good rows with one that is broken, and the rest
    collator = SkippingCollator(told, lambda seats: {"ids": [example.id for seat in seats for example in seat]})
    partly, none = sorted((collator([position]) for position in range(2)), key=lambda batch: len(batch["skipped"]))
    assert partly["ids"] == none["ids"] == [f"a.jsonl, line {line}" for line in (1, 2, 4)]
    assert len(partly["skipped"]) == 1 and partly["skipped"][0] in none["skipped"]  # which went on to the next group
    assert set(none["skipped"]) == {f"a.jsonl, line {i}: turn 2 is an answer without text" for i in (3, 5, 6, 7, 8)}


def test_a_picture_at_which_pillow_breaks_is_left_out(breaking, model, write, llava, pictures):
    path = write("a.jsonl", [llava(name, name, answer=name) for name in ("red.png", *breaking, "green.jpg")])
    batch = SkippingCollator(groups(FileSource(path, images=pictures)), Collator(model[1]))(range(4))
    told = {f"a.jsonl, line {line}: {said}" for line, said in enumerate(breaking.values(), start=2)}
    assert set(batch["skipped"]) == told and batch["pixel_values"].shape[0] >= 4
