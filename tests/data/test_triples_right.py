"""Rules give nothing as wrong that is right, and the file that they write takes the place of none that they read."""

from __future__ import annotations

import json
import os
import re

import pytest

from phantrol.data.check import check
from phantrol.data.checking import Question
from phantrol.data.triples.endpoint import Endpoint
from phantrol.data.triples.making import failed_path, journal_path, make_by_asking, make_by_rules
from phantrol.data.triples.reading import OwnRows
from phantrol.data.triples.validating import fault_of


def made(path):
    """[(right, wrong), ...]"""
    rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    return [(row["chosen"][0]["content"], row["rejected"][0]["content"]) for row in rows]


def row(image, question, answer):
    return {"image": image, "question": question, "answer": answer}


COLORS = [row("a.png", "What color?", "red"), row("b.png", "What color?", "blue")]


@pytest.mark.parametrize("asking", [False, True])
@pytest.mark.parametrize("link", [None, os.symlink, os.link])
def test_what_is_read_is_never_overwritten(asking, link, write, tmp_path):
    path = write("mine.jsonl", COLORS)
    out, before = path, path.read_bytes()
    if link is not None:
        link(path, out := tmp_path / "other.jsonl")
    endpoint = Endpoint("http://127.0.0.1:9/v1", "m", retries=0)

    def make(paths, out):
        return make_by_asking(OwnRows(paths), out, endpoint, endpoint) if asking else make_by_rules(OwnRows(paths), out)

    with pytest.raises(ValueError, match=f"--out: {re.escape(str(out))} is one of the files to read"):
        make([path], out)
    for name in (journal_path, failed_path):
        beside = name(tmp_path / "new.jsonl")
        beside.write_bytes(before)
        with pytest.raises(ValueError, match=f"--out: {re.escape(str(beside))} is one of the files to read"):
            make([path, beside], tmp_path / "new.jsonl")
        assert beside.read_bytes() == before
        beside.unlink()
    assert path.read_bytes() == before and out.read_bytes() == before and not (tmp_path / "new.jsonl").exists()


@pytest.mark.parametrize("name", ["t.jsonl", "t.parquet"])
def test_pictures_are_found_from_a_folder_behind_a_link(name, write, pictures, tmp_path, monkeypatch):
    (tmp_path / "far" / "away").mkdir(parents=True)
    (tmp_path / "runs").symlink_to(tmp_path / "far" / "away")
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / "deep" / "er" / "pics").symlink_to(pictures)
    (pictures / "linked.png").symlink_to(pictures / "deep" / "blue.webp")
    path = write(
        "a.jsonl", [row("linked.png", "What color?", "blue"), row("../pictures/red.png", "What color?", "red")]
    )
    monkeypatch.chdir(tmp_path)
    out = (tmp_path / "runs" / name).relative_to(tmp_path)
    make_by_rules(OwnRows([path], images=tmp_path / "deep" / "er" / "pics"), out)
    report = check([out], Question(decode=True))
    assert report.is_good and report.num_shown == report.num_rows == 4
    assert name == "t.parquet" or "linked.png" in out.read_text()  # the name that it has, not what it points to


def test_the_spellings_of_one_color_are_one(write):
    free = "The {} on the mat is {}."
    cats = [row(f"{n}.png", "Describe it.", free.format("cat", c)) for n, c in enumerate(["gray", "grey", "Grey"] * 9)]
    short = [row(f"{n}.png", "What color?", c) for n, c in enumerate(["gray", "grey", "Gray", "Grey"] * 9)]
    path = write("a.jsonl", cats + short)
    out = path.with_name("out.jsonl")
    assert not make_by_rules(OwnRows([path]), out).accepted
    path = write("b.jsonl", [*cats, *short, row("x.png", "Describe it.", free.format("dog", "black"))])
    assert make_by_rules(OwnRows([path]), out, ("incorrect",)).accepted["incorrect"] > 20
    assert all(
        wrong.lower().replace("grey", "gray") != right.lower().replace("grey", "gray") for right, wrong in made(out)
    )
    assert fault_of("Grey", "gray", "incorrect") == "the right answer"


def test_what_another_row_has_as_right_is_not_wrong(write):
    asked = "What is on the table?"
    rows = [row("a.png", asked, "cup"), row("a.png", asked, "mug"), row("./a.png", asked, "beaker")]
    path = write("a.jsonl", rows)
    out = path.with_name("out.jsonl")
    assert not make_by_rules(OwnRows([path]), out).accepted
    others = [row(f"{n}.png", asked, "plate") for n in range(3)]
    write("a.jsonl", rows + others)
    assert make_by_rules(OwnRows([path]), out, ("incorrect",)).accepted["incorrect"] == 6
    pairs = made(out)
    assert all((right == "plate") != (wrong == "plate") for right, wrong in pairs)
    text = [row(None, "Name a fruit.", answer) for answer in ("apple", "pear")]
    assert not make_by_rules(OwnRows([write("b.jsonl", text)]), path.with_name("none.jsonl")).accepted
    free = [row("a.png", "Describe it.", f"The big dog there is {color}.") for color in ("red", "blue")]
    assert not make_by_rules(OwnRows([write("c.jsonl", free)]), path.with_name("none.jsonl")).accepted
    free[1]["image"] = "b.png"
    assert make_by_rules(OwnRows([write("c.jsonl", free)]), out, ("incorrect",)).accepted["incorrect"] == 2


def test_pictures_in_rows_are_told_apart(write, pictures):
    data = [{"bytes": (pictures / name).read_bytes(), "path": None} for name in ("red.png", "green.jpg")]
    asked = "What is it?"
    same = [row(data[0], asked, "cup"), row(data[0], asked, "mug")]
    path = write("a.parquet", same)
    out = path.with_name("out.jsonl")
    assert not make_by_rules(OwnRows([path]), out).accepted
    path = write("b.parquet", [row(data[0], asked, "cup"), row(data[1], asked, "mug")])
    assert make_by_rules(OwnRows([path]), out, ("incorrect",)).accepted["incorrect"] == 2


def test_many_answers_to_one_question_still_change_places(write):
    """Ten pictures, each with ten right answers of its own: those of the other pictures are wrong there."""
    rows = [row(f"{n}.png", "What is there?", f"{n}x{k}") for k in range(10) for n in range(10)]
    path = write("a.jsonl", rows)
    out = path.with_name("out.jsonl")
    assert make_by_rules(OwnRows([path]), out, ("incorrect",)).accepted["incorrect"] == 100
    assert all(right.split("x")[0] != wrong.split("x")[0] for right, wrong in made(out))
    assert sorted(right for right, _ in made(out)) == sorted(wrong for _, wrong in made(out))
