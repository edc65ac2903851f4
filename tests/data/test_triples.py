"""Wrong answers: rules that leak nothing by form, what is refused, replies read strictly, a journal."""

from __future__ import annotations

import json
import random
from collections import Counter

import pytest
from PIL import Image

from phantrol.data.check import check
from phantrol.data.checking import Question
from phantrol.data.sources.file import FileSource
from phantrol.data.triples.forms import form_of, keys_of
from phantrol.data.triples.journal import Journal, key_of
from phantrol.data.triples.making import failed_path, make_by_rules
from phantrol.data.triples.prompts import asking_prompt, judging_prompt, read_answer, read_verdict
from phantrol.data.triples.reading import OwnRows
from phantrol.data.triples.validating import fault_of, plain


def triples(path):
    source = FileSource(path)
    examples = [source[index][0] for index in range(len(source))]
    return [(each.messages, wrong) for each in examples for wrong in each.rejected]


@pytest.fixture
def asked(write):
    """600 rows of several forms, each of a picture of its own, with answers as data have them: some more often."""
    draw = random.Random(0)
    rows = []
    for number in range(600):
        color, other = draw.choice(["red", "red", "blue", "green"]), draw.choice(["large", "small"])
        rows.append(
            {"image": f"{number}.png"}
            | draw.choice(
                [
                    {"question": f"What color is object {number % 7}?", "answer": color},
                    {"question": f"How many {color} ones are there?", "answer": str(draw.randint(1, 5))},
                    {"question": "Is it there?", "answer": draw.choice(["Yes", "Yes", "Yes", "No"])},
                    {"question": "Is it left or right of the dog?", "answer": draw.choice(["left", "right"])},
                    {"question": "Which?\nA. a\nB. b\nC. c", "answer": draw.choice("ABC")},
                    {"question": "Describe it.", "answer": f"From left to right it shows a {other} {color} box."},
                ]
            )
        )
    return rows, write("asked.jsonl", rows)


def test_a_wrong_answer_is_a_right_one_of_a_like_question_and_as_often(asked):
    rows, path = asked
    out = path.with_name("out.jsonl")
    tally = make_by_rules(OwnRows([path]), out, ("incorrect",))
    made = [(messages[0].text, messages[-1].text, wrong.text) for messages, wrong in triples(out)]
    assert tally.rows == 600 and tally.accepted["incorrect"] == len(made) > 480
    assert tally.rate("incorrect") == pytest.approx(len(made) / 600) and not failed_path(out).exists()
    kinds = {"What color": "What", "How many": "How", "Is it there": "Is it th", "Is it left": "Is it l", "Which": "Wh"}
    for start in kinds:
        pairs = [(right, wrong) for question, right, wrong in made if question.startswith(start)]
        assert pairs and all(right != wrong for right, wrong in pairs)
        assert Counter(right for right, _ in pairs) == Counter(wrong for _, wrong in pairs), start
    asked_there = sum(row["question"] == "Is it there?" for row in rows)
    yes = sum(row["answer"] == "Yes" for row in rows)
    assert sum(question == "Is it there?" for question, *_ in made) == 2 * (
        asked_there - yes
    )  # the majority is left out
    free = [(right, wrong) for question, right, wrong in made if question == "Describe it."]
    assert free and all(
        "From left to right" in wrong and len(wrong.split()) == len(right.split()) for right, wrong in free
    )
    changed = [next((a, b) for a, b in zip(r.split(), w.split(), strict=True) if a != b) for r, w in free]
    assert {frozenset(pair) <= {"red", "blue", "green", "large", "small"} for pair in changed} == {True}


def test_an_ambiguous_answer_names_both_and_the_same_seed_gives_the_same(asked):
    _, path = asked
    outs = [path.with_name(f"{name}.jsonl") for name in "abc"]
    for out, seed in zip(outs, (0, 0, 1), strict=True):
        make_by_rules(OwnRows([path]), out, seed=seed)
    assert outs[0].read_bytes() == outs[1].read_bytes() != outs[2].read_bytes()
    vague = [(messages[-1].text, wrong.text) for messages, wrong in triples(outs[0]) if wrong.kind == "ambiguous"]
    short = [(right, text) for right, text in vague if " " not in right]
    assert short and all(right.lower() in text.lower().split() and " or " in text for right, text in short)
    assert {"Yes or no", "No or yes"} <= {text for _, text in short} | {"Yes or no", "No or yes"}
    assert all(len(text.split()) == len(right.split()) + 2 for right, text in vague)


@pytest.mark.parametrize("name", ["out.jsonl", "out.parquet"])
def test_pictures_and_turns_come_along_and_the_check_is_content(name, write, pictures):
    turns = [("human", "<image>\nWhat?"), ("gpt", "A box."), ("human", "And here? <image>"), ("gpt", "red")]
    rows = [
        {"image": "red.png", "question": "What color?", "answer": "red"},
        {"images": ["deep/blue.webp"], "question": "What color?", "answer": "blue"},
        {
            "images": ["red.png", "green.jpg"],
            "conversations": [{"from": role, "value": text} for role, text in turns],
        },
        {"question": "And here?", "answer": "blue"},
        {"question": "What color?", "answer": "green", "image": "nowhere/yet.png"},
        {"question": "", "answer": "green"},
    ]
    path = write("a.json", rows)
    out = path.parent / "deep" / name
    tally = make_by_rules(OwnRows([path], pictures), out, ("incorrect",))
    assert [line["row"] for line in map(json.loads, failed_path(out).read_text().splitlines())] == ["a.json[5]"]
    assert tally.accepted["incorrect"] == 5
    found = {messages[-1].text + str(len(messages)): messages for messages, _ in triples(out)}
    shown = [Image.open(part).getpixel((0, 0)) for part in found["red4"][0].pictures + found["red4"][2].pictures]
    assert shown[0] == (255, 0, 0) and shown[1][1] > 100 and found["red4"][0].parts[1] == "What?"
    report = check([out], Question())
    assert {fault.reason for fault in report.files[0].faults} == {"image-missing"} and report.num_rows == 5


def test_pictures_in_the_rows_stay_in_the_rows(write, pictures):
    data = [(pictures / name).read_bytes() for name in ("green.jpg", "red.png")]
    rows = [
        {"image": {"bytes": image, "path": None}, "question": "What color?", "answer": answer}
        for image, answer in zip(data, ("green", "red"), strict=True)
    ]
    path = write("a.parquet", rows)
    out = path.with_name("out.parquet")
    make_by_rules(OwnRows([path]), out, ("incorrect",))
    import pyarrow.parquet

    assert [row["images"][0]["bytes"] for row in pyarrow.parquet.read_table(out).to_pylist()] == data
    again = path.with_name("out.jsonl")
    make_by_rules(OwnRows([out]), again, ("incorrect",))
    assert check([again], Question(decode=True)).is_good


def test_what_cannot_be_written_back_is_told(write):
    rows = [
        {"messages": [{"role": "user", "content": [{"type": "text", "text": f"Is {name} there?"}]},
                      {"role": "assistant", "content": answer}]}
        for name, answer in (("a", "yes"), ("b", "no"))
    ]  # fmt: skip
    path = write("a.jsonl", rows)
    out = path.with_name("out.jsonl")
    assert make_by_rules(OwnRows([path]), out, ("incorrect",)).accepted["incorrect"] == 2
    (messages, _), _ = triples(out)
    from phantrol.data.broken import BrokenRow
    from phantrol.data.messages import Example, Message
    from phantrol.data.triples.reading import Row
    from phantrol.data.triples.writing import triple

    typed = Example("a", (Message("user", ("What is <image> in HTML?",)), messages[-1]))
    with pytest.raises(BrokenRow):
        triple(Row("a", typed), "no", "incorrect", path.parent)


@pytest.mark.parametrize(
    ("answer", "chosen", "kind", "fault"),
    [
        ("", "red", "incorrect", "empty"),
        (" The  red. ", "Red", "incorrect", "the right answer"),
        ("3.0", "3", "incorrect", "the right answer"),
        ("1,200", "1200", "ambiguous", "the right answer"),
        ("+1,234,567.50", "1234567.5", "incorrect", "the right answer"),
        (".5", "0.5", "incorrect", "the right answer"),
        ("50 %", "50%", "incorrect", "the right answer"),
        ("1,200.0%", "1200 %", "incorrect", "the right answer"),
        ("50%", "50", "incorrect", ""),
        ("0.5", "0.5 %", "incorrect", ""),
        ("10–12", "10-12", "incorrect", "the right answer"),
        ("10 — 12", "10-12", "incorrect", "the right answer"),
        ("−5", "-5", "incorrect", "the right answer"),
        ("red — big", "red, big", "incorrect", "the right answer"),
        ("4006381333932", "4006381333931", "incorrect", ""),
        ("1" * 40, "1" * 39 + "2", "incorrect", ""),
        ("1+23", "12+3", "incorrect", ""),
        ("1,2,3", "123", "incorrect", ""),
        ("3,5", "35", "incorrect", ""),
        ("10,20,300", "1020300", "incorrect", ""),
        ("1.10.3", "1.1.3", "incorrect", ""),
        ("30", "3", "incorrect", ""),
        ("-3", "3", "incorrect", ""),
        ("x " * 12, "red", "incorrect", "too long"),
        ("A small dog stands behind the wooden tabel there.", "A small dog stands behind the wooden table there.",
         "incorrect", "too similar"),
        ("A small cat stands behind the wooden table there.", "A small dog stands behind the wooden table there.",
         "incorrect", ""),
        ("A small dog stands behind the 3 wooden tables there.", "A small dog stands behind the 4 wooden tables there.",
         "incorrect", ""),
    ],
)  # fmt: skip
def test_what_is_no_wrong_answer(answer, chosen, kind, fault):
    assert fault_of(answer, chosen, kind) == fault


def test_forms_and_pools():
    forms = {
        "Yes.": "yesno",
        "B": "letter",
        "(C)": "letter",
        "12.5%": "number 00.0%",
        "red": "short 1",
        "a b c d": "free",
    }
    assert {answer: form_of(answer) for answer in forms} == forms
    assert keys_of("Which?", "B") == []  # no options to choose another from
    assert keys_of("Is it red or blue?", "blue")[0][-2:] == ("blue", "red")
    assert keys_of("What color?", "red") != keys_of("What color?", "Red") and plain("A red, box.") == "red box"


@pytest.mark.parametrize(
    ("reply", "verdict"),
    [("yes", True), ("Yes.", True), (" **No** ", False), ("'no'", False), ("", None), ("yes and no", None),
     ("Yes, it is wrong", None), ("I think yes", None), ("noyes", None), ("true", None)],
)  # fmt: skip
def test_only_one_word_is_a_verdict(reply, verdict):
    assert read_verdict(reply) is verdict


def test_answers_are_undressed_and_prompts_hold_what_they_must():
    replies = {'"blue"': "blue", "Answer: blue": "blue", "Wrong answer: “a b”": "a b", '"a" or "b"': '"a" or "b"'}
    assert {reply: read_answer(reply) for reply in replies} == replies
    for prompt in (asking_prompt("incorrect", "Q?", "A"), judging_prompt("ambiguous", "Q?", "A", "B")):
        text = json.dumps(prompt)
        assert "Q?" in text and "Right answer: A" in text and "{" not in prompt[0]["content"]
    assert asking_prompt("incorrect", "Q?", "A") != asking_prompt("ambiguous", "Q?", "A")


def test_a_journal_keeps_whole_lines_and_one_writer(tmp_path):
    path = tmp_path / "a.jsonl"
    journal = Journal(path)
    keys = [key_of("row 1", "judge", "m", prompt) for prompt in ("a", "b")]
    for key in keys:
        journal.write(key, {"text": f"é {key}", "tokens_in": 3, "tokens_out": 0})
    with pytest.raises(ValueError, match="in use by another run"):
        Journal(path)
    journal.close()
    path.write_bytes(path.read_bytes()[:-3])
    again = Journal(path)
    assert again.find(keys[0])["text"] == f"é {keys[0]}" and again.find(keys[1]) is None and len(again) == 1
    again.write(keys[1], {"text": "c", "tokens_in": 3, "tokens_out": 0})
    again.close()
    assert [json.loads(line)["key"] for line in path.read_text().splitlines()] == keys
    path.write_text("no json\n" + path.read_text())
    with pytest.raises(ValueError, match=r"a\.jsonl, line 1 is no reply"):
        Journal(path)
    path.write_text("")
    Journal(path).close()  # the file that was broken is nobody's: it can be mended and opened again
    assert len({key_of(*each) for each in (("r", "a", "m", "p"), ("r", "a", "m", "q"), ("r2", "a", "m", "p"))}) == 3


@pytest.mark.parametrize("out", ["a.csv", "folder.parquet"])
def test_bad_names_and_kinds_are_said_before_anything_is_read(out, tmp_path):
    (tmp_path / "folder.parquet").mkdir()
    with pytest.raises(ValueError, match="--out: "):
        make_by_rules(OwnRows(["nowhere.json"]), tmp_path / out)
    with pytest.raises(ValueError, match="--kind: got odd, expected some of incorrect, ambiguous"):
        make_by_rules(OwnRows(["nowhere.json"]), tmp_path / "a.jsonl", ("odd",))
