"""Broken rows of each kind among good ones: all are found, no good one is, and what is written out holds up."""

from __future__ import annotations

import json
import sys
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from phantrol.data import check_report
from phantrol.data.broken import REASONS
from phantrol.data.check import check
from phantrol.data.checking import Question
from phantrol.data.collate import Collator
from phantrol.data.fixing import BROKEN, write_fixed
from phantrol.data.rows.opening import open_rows
from phantrol.data.sources.file import FileSource, read_example
from phantrol.data.token_counting import TokenCounter

TURNS = [{"from": "human", "value": "What?"}, {"from": "gpt", "value": "red"}]


@pytest.fixture
def rows(llava, pictures):
    """One broken row of each kind that needs no model, each between good ones, by its reason."""
    (pictures / "empty.png").touch()
    broken = {
        "wrong-type": {"conversations": [{"from": "tool", "value": "a"}]},
        "unknown-layout": {"text": "a"},
        "turns": {"conversations": [*TURNS, TURNS[0]]},
        "empty-question": llava("a", "red.png", "<image>"),
        "no-answer": llava("b", "red.png", answer="  "),
        "chosen-is-rejected": {"question": "a", "chosen": "b", "rejected": " b"},
        "image-count": llava("c", None, "<image>?"),
        "image-missing": llava("d", "nowhere.png"),
        "image-unreadable": llava("e", "empty.png"),
        "image-remote": llava("f", "https://a.b/c.png"),
        "duplicate-id": llava("good-0", "red.png"),
    }
    found = []
    for number, (reason, row) in enumerate(broken.items()):
        found += [("", llava(f"good-{number}", "green.jpg")), (reason, row)]
    return found


def reasons(report, number=0):
    return {fault.index: fault.reason for fault in report.files[number].faults}


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("name", ["a.json", "a.jsonl"])
def test_each_broken_row_is_found_and_no_other(name, workers, rows, write, pictures):
    report = check([write(name, [row for _, row in rows])], Question(images=pictures), workers)
    assert reasons(report) == {index: reason for index, (reason, _) in enumerate(rows) if reason}
    assert report.num_rows == 22 and report.num_broken == 11 and not report.is_good
    lines = [fault.line for fault in report.files[0].faults]
    if name == "a.jsonl":
        assert lines == [fault.index + 1 for fault in report.files[0].faults]
    else:
        text = (pictures.parent / name).read_text("utf-8").splitlines()
        assert all(text[line - 1].strip() == "{" for line in lines) and len(set(lines)) == 11


def test_what_the_check_lets_pass_a_source_reads_and_what_it_finds_it_does_not(rows, write, pictures):
    path = write("a.json", [row for _, row in rows])
    source, opened = FileSource(path, images=pictures), open_rows(path)
    for index, (reason, _) in enumerate(rows):
        if reason in ("", "duplicate-id"):
            assert source[index]
        elif not reason.startswith("image-m") and reason != "image-unreadable":  # files are opened later
            with pytest.raises(ValueError, match=r"^a.json\["):
                read_example(opened, index, pictures)


def test_bytes_that_are_no_text_and_files_that_are_cut(write, llava):
    good = json.dumps(llava("a", asked="What?")).encode()
    lines = write("a.jsonl", b"\n".join([good.replace(b'"a"', b'"b"'), b"{", good.replace(b"red", b"\xff"), good]))
    cut = write("b.json", b"[" + good + b",\n" + good[:20])
    report = check([lines, cut])
    assert reasons(report) == {1: "bad-json", 2: "bad-utf8"} and reasons(report, 1) == {}
    assert [fault.line for fault in report.files[0].faults] == [2, 3]
    assert report.files[1].num_rows == 1 and "does not end; the file stops inside line 2" in report.files[1].fault
    assert not report.files[1].is_good


def test_what_python_refuses_is_one_broken_row(write, llava, pictures):
    good = [json.dumps(llava(name, "red.png")) for name in "ab"]
    broken = [json.dumps(llava("c", "http://[::1/a.png")), '{"question": "a", "answer": ' + "9" * 5000 + "}"]
    path = write("a.jsonl", "\n".join([good[0], *broken, good[1]]).encode())
    report = check([path], Question(images=pictures))
    assert reasons(report) == {1: "image-unreadable", 2: "bad-json"} and report.num_rows == 4
    details = [fault.detail for fault in report.files[0].faults]
    assert "Invalid IPv6 URL" in details[0] and f"at most {sys.get_int_max_str_digits():,} digits" in details[1]
    assert len(FileSource(path, images=pictures, together=2)) == 2


def test_ids_are_compared_with_good_rows_of_the_same_file(write, llava):
    one = write("a.jsonl", [llava("1", asked="What?", answer=""), llava("1", asked="What?"), llava("1", asked="What?")])
    other = write(
        "b.jsonl", [llava("1", asked="What?"), {"question": "no", "answer": "id"}, {"question": "no", "answer": "id"}]
    )
    report = check([one, other])
    assert reasons(report) == {0: "no-answer", 2: "duplicate-id"} and reasons(report, 1) == {}
    assert report.files[0].faults[1].detail == "the same id as a.jsonl, line 2"
    assert reasons(check([one], Question(allowed=("duplicate-id",)))) == {0: "no-answer"}


def test_each_reason_can_be_let_pass_unless_nothing_can_be_read(rows, write, pictures):
    path = write("a.json", [row for _, row in rows])
    for reason in ("no-answer", "image-missing", "image-unreadable", "chosen-is-rejected", "duplicate-id"):
        found = reasons(check([path], Question(images=pictures, allowed=(reason,)))).values()
        assert reason not in found and len(found) == 10
    with pytest.raises(ValueError, match="unknown reason 'ugly': expected some of bad-json"):
        Question(allowed=("ugly",))


def test_only_decoding_finds_what_is_cut_off_behind_the_head(write, llava, pictures):
    noise = Image.effect_noise((200, 200), 90)
    noise.save(pictures / "noise.png")
    (pictures / "noise.png").write_bytes((pictures / "noise.png").read_bytes()[:9000])
    path = write("a.json", [llava("a", "noise.png"), llava("b", "red.png")])
    assert check([path], Question(images=pictures)).is_good
    assert reasons(check([path], Question(images=pictures, decode=True))) == {0: "image-unreadable"}


def test_tokens_are_counted_as_training_will_have_them(model, write, llava, pictures):
    folder, processor = model
    Image.new("RGB", (96, 32)).save(pictures / "wide.png")
    told = [
        llava("a", "red.png"),
        llava("b", "wide.png", answer="It is <image> and <pad> blue."),
        llava("c", None, "What color?", "Grün. 你好"),
        {
            "images": ["wide.png", "red.png"],
            "prompt": "<image>or<image>?",
            "chosen": "red",
            "rejected": "It is not any of these",
        },
    ]
    report = check([path := write("a.json", told)], Question(images=pictures, model=str(folder)))
    collate = Collator(processor, pack=False)
    source = FileSource(path, images=pictures)
    assert report.tokens.tolist() == [collate([source[i]])["input_ids"].shape[1] for i in range(4)]
    assert report.max_tokens == 400 and report.is_good
    assert report.sizes.tolist() == [[40, 30], [96, 32], [96, 32], [40, 30]]


def test_rows_that_are_too_long(model, write, llava):
    path = write(
        "a.json", [llava("a", asked="What?"), llava("b", asked="What? " * 300), llava("c", asked="What? " * 20)]
    )
    assert reasons(check([path], Question(model=str(model[0])))) == {1: "too-long"}
    assert reasons(check([path], Question(model=str(model[0]), max_tokens=30))) == {1: "too-long", 2: "too-long"}
    assert check([path], Question(model=str(model[0]), max_tokens=30, allowed=("too-long",))).is_good
    with pytest.raises(ValueError, match="needs a model that counts them"):
        Question(max_tokens=30)
    with pytest.raises(ValueError, match="no processor in nowhere: expected a model that phantrol saved"):
        TokenCounter.open("nowhere")


def test_an_answer_of_which_no_token_is_left_is_no_answer(model, write, monkeypatch, llava):
    path, count = write("a.json", [llava("a", asked="What?")]), TokenCounter.__call__
    monkeypatch.setattr(TokenCounter, "__call__", lambda *args: replace(count(*args), num_said=0))
    assert reasons(check([path], Question(model=str(model[0])))) == {0: "no-answer"}


@pytest.mark.parametrize("name", ["a.json", "a.jsonl", "a.parquet", "a_folder"])
def test_good_rows_are_written_out_as_they_were(name, write, llava, pictures, tmp_path):
    rows = [llava(str(i), "nowhere.png" if i % 3 == 0 else "red.png", answer=f"é{i}") for i in range(200)]
    path, question = write(name, rows), Question(images=pictures)
    report = check([path], question)
    out = write_fixed(report, tmp_path / "out")
    assert check([out / name], question).is_good
    kept, before = open_rows(out / name), open_rows(path)
    good = [i for i in range(200) if i % 3]
    assert [kept[i] for i in range(len(kept))] == [before[i] for i in good]
    listed = [json.loads(line) for line in (out / "broken.jsonl").read_text("utf-8").splitlines()]
    assert [line["row"] for line in listed] == [i for i in range(200) if i % 3 == 0]
    assert listed[1] == {
        "file": str(path), "row": 3, "line": listed[1]["line"], "reason": "image-missing",
        "detail": f"picture {pictures / 'nowhere.png'}: no such file",
    }  # fmt: skip


def test_nothing_half_written_and_nothing_overwritten(write, llava, tmp_path, monkeypatch):
    report = check([write("a.json", [llava("a", "nowhere.png")])])
    monkeypatch.setattr("phantrol.data.fixing._write_json", lambda *_: (_ for _ in ()).throw(OSError("no room")))
    with pytest.raises(OSError, match="no room"):
        write_fixed(report, tmp_path / "out")
    assert not (tmp_path / "out").exists() and not list(tmp_path.glob(".out*"))
    monkeypatch.undo()
    write_fixed(report, tmp_path / "out")
    assert (tmp_path / "out" / "a.json").read_text().split() == ["[", "]"]
    with pytest.raises(ValueError, match="out is in use: choose another folder, or remove it"):
        write_fixed(report, tmp_path / "out")
    both = check([tmp_path / "a.json", tmp_path / "out" / "a.json"])
    with pytest.raises(ValueError, match=r"several files are called a.json"):
        write_fixed(both, tmp_path / "both")


def test_the_report_says_it_all(rows, write, pictures, capsys):
    path = write("a.json", [row for _, row in rows])
    report = check([path], Question(images=pictures))
    lines = check_report.say(report.files[0])
    assert len(lines) == 11
    assert lines[7] == f"{path}[15], line {lines[7].split('line ')[1].split(':')[0]}: image-missing: picture " + (
        f"{pictures / 'nowhere.png'}: no such file"
    )
    check_report.show(report, Console(width=200))
    shown = capsys.readouterr().out
    assert (
        "22 rows, 11 of them broken" in shown
        and "█" in shown
        and all(text in shown for text in ("64 to 95", "32 to 47"))
    )
    told = json.loads(json.dumps(check_report.as_json(report)))
    assert told["broken"] == 11 and set(told["reasons"]) <= set(REASONS) and len(told["broken_rows"]) == 11
    assert told["images"]["width_px"]["max"] == 64 and "tokens" not in told


def test_histograms_hold_every_value():
    for values in ([1], [31, 32, 33], [5, 5000], list(range(1, 3000)), [10**7, 3]):
        bins = check_report.histogram(np.array(values))
        assert sum(count for _, _, count in bins) == len(values)
        assert bins[0][0] <= min(values) < bins[0][1] and bins[-1][0] <= max(values) < bins[-1][1]
        for low, high, count in bins:
            assert count == sum(low <= value < high for value in values)


def test_whatever_pillow_raises_is_one_broken_row(breaking, write, llava, pictures, monkeypatch):
    """As a broken AVIF makes it: RuntimeError, and others that are no ValueError and no OSError."""
    rows = [llava(name, name) for name in ("red.png", *breaking, "green.jpg")]
    rows.insert(2, llava("in the row", "data:;base64,QlJFQUtJTkcgYXQgb3Blbg=="))  # the bytes of open.brk
    report = check([path := write("a.json", rows)], Question(images=pictures, decode=True))
    in_row = "the picture in the row is broken: the head makes no sense"
    told = [breaking["open.brk"], in_row, breaking["load.brk"]]
    assert [fault.detail for fault in report.files[0].faults] == told
    assert reasons(report) == dict.fromkeys((1, 2, 3), "image-unreadable") and report.num_rows == 5

    def no_room(*_):
        raise MemoryError

    monkeypatch.setattr(Image, "open", no_room)
    with pytest.raises(MemoryError):  # that is no fault of a row
        check([path], Question(images=pictures))


@pytest.mark.parametrize("num_broken", [0, 1])
def test_the_folder_of_the_good_rows_is_good(num_broken, write, llava, pictures, tmp_path):
    rows = [llava("a", "red.png"), llava("b", "red.png"), llava("c", "red.png")]
    rows[3 - num_broken :] = [llava("c", "nowhere.png")] * num_broken
    question = Question(images=pictures)
    report = check([write("a.json", rows), write("b.jsonl", rows)], question)
    out = write_fixed(report, tmp_path / "out")
    assert (out / BROKEN).read_text().count("\n") == 2 * num_broken == report.num_broken
    again = check([out], question)
    assert again.is_good and [file.path.name for file in again.files] == ["a.json", "b.jsonl"]
    assert len(FileSource(out)) == len(FileSource(out / "*.json*")) == again.num_rows == 6 - 2 * num_broken


@pytest.mark.parametrize(("with_picture", "is_told"), [(0, True), (1, True), (10, False), (100, False)])
def test_few_pictures_are_told_of(with_picture, is_told, write, llava, pictures, capsys):
    """Text alone is good, but a name for pictures that nobody knows looks like it."""
    known = [llava(str(number), "red.png") for number in range(with_picture - 1)]
    parts = {"messages": [{"role": "user", "content": [{"type": "image", "path": "red.png"}, "What?"]}]}
    parts["messages"][0]["content"][1] = {"type": "text", "text": "What?"}
    parts["messages"].append({"role": "assistant", "content": "red"})
    blind = [{"picture_of": "red.png", "question": "What?", "answer": "red"} for _ in range(100 - with_picture)]
    report = check([write("a.jsonl", [*known, *([parts] if with_picture else []), *blind])], Question(images=pictures))
    check_report.show(report, Console(width=200))
    assert (f"{with_picture} of 100 rows have a picture" in capsys.readouterr().out) == is_told
    assert report.is_good and check_report.as_json(report)["rows_with_pictures"] == with_picture


@pytest.mark.parametrize(("name", "rows"), [("a.json", []), ("b.json", b"[\n]"), ("c.jsonl", b"\n \n")])
def test_a_file_without_a_row_is_a_fault(name, rows, write, llava, tmp_path, capsys):
    path = write(name, rows)
    report = check([path, write("good.json", [llava("a", asked="What?")])])
    assert not report.is_good and report.files[1].is_good and report.num_broken == 0
    assert check_report.say(report.files[0]) == [f"{path}: no-rows: no row in it, expected one or more to train on"]
    check_report.show(report, Console(width=200))
    assert "1 of the files not whole or without a row" in capsys.readouterr().out
    check_report.show(check([path]), Console(width=200))
    assert "the file not whole or without a row" in capsys.readouterr().out
    check_report.show(check([path.parent / "good.json"]), Console(width=200))
    assert ": 1 row, 0 of them broken" in capsys.readouterr().out
    write_fixed(report, tmp_path / "out")
    assert json.loads((tmp_path / "out" / BROKEN).read_text("utf-8"))["reason"] == "no-rows"
    assert check([path], Question(allowed=("no-rows",))).is_good


def test_one_object_is_one_fault_of_the_file(write, llava):
    path = write("coco.json", {"info": {"year": 2014}, "annotations": [{"question": "a", "answer": "b"}]})
    report = check([path, write("good.json", [llava("a", asked="What?")])])
    assert [file.num_rows for file in report.files] == [0, 1] and not report.is_good and report.files[1].is_good
    (line,) = check_report.say(report.files[0])
    assert line == f"{path}: bad-json: one object over several lines, expected an array of rows, or one row a line"
    with pytest.raises(ValueError, match="expected an array of rows"):
        len(FileSource(path))
