"""What is asked: rows, prompts, tokens and beams of each benchmark in both protocols, from made-up sets."""

from __future__ import annotations

import base64
import dataclasses
import io
import json
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image
from published_files import cell, png, save_rows, save_table
from published_parquet import mmstar
from published_sets import WRITERS, mmbench_rows

from phantrol.evals.published import LETTER, SHORT
from phantrol.find import find, names
from phantrol.models.image_processing import load_picture
from phantrol.models.released.prompts import MAX_NEW_TOKENS, dialect

PUBLISHED = [
    name for name in names("benchmarks") if name not in ("primer", "file") and not find("benchmarks", name).judged
]
PROTOCOLS = ("standard", "paper")
ROWS = {  # in the made-up sets: standard, paper
    "scienceqa": (3, 3),
    "ai2d": (2, 2),
    "chartqa": (6, 4),
    "seed_img": (3, 3),
    "seed_2_plus": (2, 2),
    "pope": (18, 18),
    "hallusionbench": (6, 6),
    "mme": (8, 8),
    "mmbench": (7, 3),
    "mmbench_cn": (7, 3),
    "mmstar": (2, 2),
    "qbench": (2, 2),
    "cvbench": (4, 4),
    "blink": (4, 4),
    "mathvista": (3, 3),
    "visualwebbench": (14, 14),
}
RANKED = ("seed_img", "seed_2_plus")  # with "standard" nothing is written
RECORDED = json.loads((Path(__file__).parents[2] / "recorded" / "prompts.json").read_text("utf-8"))
ELSEWHERE = {"hallusionbench": "\nPlease answer yes or no.", "mme": ""}  # suffixes that are no benchmark's `suffix`
WORDS = "Answer the question with a single word."
SELECT = "Please select the correct answer from the options above."
FIRST_PROMPTS = {
    "scienceqa": (
        f"Which one is it, 0?\nA. iron\nB. wood\nC. glass{LETTER}",
        f"\nWhich one is it, 0?\nA. iron\nB. wood\nC. glass{LETTER}",
    ),
    "ai2d": (
        f"What is at T in 0?\nA. leaf\nB. root\nC. stem\nD. seed{LETTER}",
        f"What is at T in 0?\nA. leaf B. root C. stem D. seed{LETTER}",
    ),
    "chartqa": (f"How many bars?\n{WORDS}", f"What was the turnover in 2010?{SHORT}"),
    "seed_img": ("How many towels are in 0?", f"How many towels are in 0?\nA. One\nB. Two\nC. Three\nD. Four{LETTER}"),
    "seed_2_plus": ("Where does line 0 end?", f"Where does line 0 end?\nA. Oslo\nB. Bonn\nC. Rome\nD. Bern{LETTER}"),
    "pope": 2 * (f"Is there a tree in the image?{SHORT}",),
    "hallusionbench": ("Is circle 0 larger? Please answer yes or no.", "Is circle 0 larger?\nPlease answer yes or no."),
    "mme": ("Is there a cat in this image? Please answer yes or no.", f"Is there a cat in this image?{SHORT}"),
    "mmbench": (
        f"Hint: Look.\nQuestion: What is it 7?\nOptions:\nA. red\nB. blue\nC. None\n{SELECT}",
        f"Look.\nWhat is it 7?\nA. red\nB. blue\nC. None{LETTER}",
    ),
    "mmbench_cn": (
        f"Hint: 请看。\nQuestion: 这是什么 7?\nOptions:\nA. 红色\nB. 蓝色\nC. None\n{SELECT}",
        f"请看。\n这是什么 7?\nA. 红色\nB. 蓝色\nC. None{LETTER}",
    ),
    "mmstar": 2 * (f"What is 0?\nOptions: A: red, B: blue, C: green, D: pink{LETTER}",),
    "qbench": 2 * (f"How sharp is it?\nA. Sharp\nB. Fair\nC. Blurred{LETTER}",),
    "cvbench": 2 * (f"How many? Select from the following choices.\n(A) 2\n(B) 0\n(C) 3{LETTER}",),
    "blink": ("Which?\n(A) the left\n(B) the right", f"Which?\n(A) the left\n(B) the right{LETTER}"),
    "mathvista": 2 * ("Hint: Please answer.\nQuestion: How much, 1?",),
}


def prompt(row):
    return row.chat[0]["content"][-1]["text"]


def pictures(row):
    return [load_picture(part["image"]) for part in row.chat[0]["content"][:-1]]


def test_every_benchmark_has_a_made_up_set():
    assert set(PUBLISHED) == set(WRITERS) == set(ROWS)


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("name", PUBLISHED)
def test_rows(name, protocol, opened):
    benchmark = opened(name, protocol=protocol)
    rows = benchmark.rows(benchmark.default_split)
    assert len(rows) == ROWS[name][PROTOCOLS.index(protocol)]
    assert len({row.id for row in rows}) == len(rows)
    if name in FIRST_PROMPTS:
        assert prompt(rows[0]) == FIRST_PROMPTS[name][PROTOCOLS.index(protocol)]
    for row in rows:
        seen = pictures(row)  # every picture is there and can be read
        assert seen or row.facts.get("unseen")
        assert row.answer and row.task
        assert not row.choices or ord(row.answer) - ord("A") < len(row.choices)
    assert len({picture.tobytes() for row in rows for picture in pictures(row)}) > 1
    # what a picture shows belongs to its row: the same rows come again, in the same order
    again = benchmark.rows(benchmark.default_split)
    assert [(row.id, row.answer, row.chat) for row in again] == [(row.id, row.answer, row.chat) for row in rows]


@pytest.mark.parametrize("name", PUBLISHED)
def test_decoding(name, opened):
    standard, paper = opened(name), opened(name, protocol="paper")
    assert standard.generation_options() == {"num_beams": 1}
    assert standard.tokens_for("any") == (0 if name in RANKED else standard.max_new_tokens)
    assert standard.max_new_tokens >= 16
    for family, beams in {"trol": 5, "phantom": 3}.items():
        asked = dataclasses.replace(paper, family=family)
        assert asked.generation_options() == {"num_beams": beams}
        assert asked.tokens_for("any") == MAX_NEW_TOKENS[family][paper.released_name]


def test_the_family_is_that_of_the_model(opened):
    def engine(*modifiers):
        return SimpleNamespace(
            model=SimpleNamespace(config=SimpleNamespace(modifiers=[{"name": m} for m in modifiers]))
        )

    paper = opened("blink", protocol="paper")
    assert paper.for_engine(engine("trol", "partial_lora")).tokens_for("Jigsaw") == 512
    assert paper.for_engine(engine("phantom")).tokens_for("Jigsaw") == 5
    assert paper.for_engine(engine()).family == paper.for_engine(SimpleNamespace()).family == "phantom"
    assert opened("blink", protocol="paper", family="phantom").for_engine(engine("trol")).family == "phantom"
    assert opened("blink").for_engine(engine("trol")).family is None


def test_what_stands_behind_a_picture(opened):
    """Released TroL writes a line end behind a picture, but not in HallusionBench."""

    def seen(benchmark):
        engine = SimpleNamespace(processor=SimpleNamespace(image_suffix="</img>\n"))
        with benchmark.session(engine):
            inside = engine.processor.image_suffix
        assert engine.processor.image_suffix == "</img>\n"
        return inside

    assert seen(opened("hallusionbench", protocol="paper")) == "</img>"
    assert seen(opened("hallusionbench")) == seen(opened("pope", protocol="paper")) == "</img>\n"
    with opened("hallusionbench", protocol="paper").session(SimpleNamespace()):
        pass  # an engine without a processor


@pytest.mark.parametrize("family", ["trol", "phantom"])
@pytest.mark.parametrize("name", PUBLISHED)
def test_the_paper_writes_what_the_released_code_rendered(name, family, opened):
    """Behind the question, and behind the picture. LLaVA's list of MME's questions brings their suffix itself."""
    benchmark = opened(name, protocol="paper", family=family)
    entries = [
        entry
        for entry in RECORDED[family]["prompts"]
        if benchmark.released_name in entry["tasks"] and entry["asked_with"] == "image"
    ]
    assert entries
    written = prompt(benchmark.rows(benchmark.default_split)[0])
    for entry in entries:
        speech = dialect(family, entry["backbone"])
        suffix = entry["prompt"].partition("What is it?")[2].partition(speech.end_of_turn)[0]
        assert suffix == ELSEWHERE.get(name, benchmark.suffix)
        assert written.endswith(suffix) and (suffix or not written.endswith(LETTER))
        engine = SimpleNamespace(processor=SimpleNamespace(image_suffix=speech.image_suffix))
        bare = benchmark.released_name in ("hallusionbench", "mathverse")
        with benchmark.session(engine):
            expected = speech.image_suffix.rstrip("\n") if bare else speech.image_suffix
            assert engine.processor.image_suffix == expected
        assert engine.processor.image_suffix == speech.image_suffix


def test_a_limit_takes_whole_groups_of_each_task(opened):
    benchmark = opened("mmbench")
    assert Counter(row.group for row in benchmark.rows("dev", limit=2)) in (
        {"7": 3, "9": 2},
        {"7": 3, "11": 2},
    )  # one group at least
    pairs = opened("mme").rows("test", limit=3)
    assert Counter(row.group for row in pairs) == {group: 2 for group in {row.group for row in pairs}}
    assert len(pairs) == 4
    drawn = [{row.id for row in opened("pope").rows("test", limit=2, seed=seed)} for seed in (0, 0, *range(1, 6))]
    assert drawn[0] == drawn[1] and len(set(map(frozenset, drawn))) > 1
    assert all(len(ids) == 6 for ids in drawn)
    ordered = [row.id for row in opened("visualwebbench").rows("test", limit=1)]
    everything = [row.id for row in opened("visualwebbench").rows("test")]
    assert ordered == [name for name in everything if name in ordered] and len(ordered) == 7


def test_circular_rows(opened, tmp_path):
    rows = opened("mmbench").rows("dev")
    assert [(row.id, row.answer, row.choices) for row in rows[:3]] == [
        ("7", "C", ("red", "blue", "None")),
        ("1000007", "A", ("None", "red", "blue")),
        ("2000007", "B", ("blue", "None", "red")),
    ]
    assert all(row.choices[ord(row.answer) - ord("A")] == "None" for row in rows[:3])
    assert len(opened("mmbench", circular=False).rows("dev")) == 3
    assert len(opened("mmbench", protocol="paper", circular=True).rows("dev")) == 7

    def table(turned):
        row = mmbench_rows(("What", "", "red", "blue"))[1] | {"A": "sun", "B": "moon"}
        more = row | {"index": 1_000_009, "A": "moon", "B": "sun", "answer": "B", "image": "9"}
        save_table(tmp_path / "mmbench_dev_20230712.tsv", [row, more] if turned else [row])

    make = find("benchmarks", "mmbench")
    table(turned=True)  # a table that brings its turned questions is asked as it is; a picture may be named by its row
    rows = make(data=tmp_path).rows("dev")
    assert [(row.id, row.answer, row.group) for row in rows] == [("9", "A", "9"), ("1000009", "B", "9")]
    assert pictures(rows[0])[0].tobytes() == pictures(rows[1])[0].tobytes()
    assert len(make(data=tmp_path, protocol="paper").rows("dev")) == 2
    assert [row.id for row in make(data=tmp_path, circular=False).rows("dev")] == ["9"]


def test_pictures_of_blink_are_joined_for_the_paper(opened):
    standard, paper = (opened("blink", protocol=protocol).rows("val")[-1] for protocol in PROTOCOLS)
    assert [picture.size for picture in pictures(standard)] == [(24, 16), (24, 8), (24, 8)]
    (joined,) = pictures(paper)
    assert joined.size == (3 * 24 + 2 * 10, 16)
    for number, picture in enumerate(pictures(standard)):
        top = (16 - picture.height) // 2
        box = (34 * number, top, 34 * number + 24, top + picture.height)
        assert joined.crop(box).tobytes() == picture.tobytes()
    assert joined.getpixel((30, 8)) == joined.getpixel((40, 1)) == joined.getpixel((40, 14)) == (0, 0, 0)
    assert prompt(paper).startswith("Disclaimer: ") and not prompt(standard).startswith("Disclaimer")


def test_prompts_of_visualwebbench(opened):
    asked = {row.task: prompt(row) for row in opened("visualwebbench").rows("test")}
    assert "coordinates of the bounding box is [0.1, 0.25, 0.5, 0.75].\n" in asked["element_ocr"]
    assert "the bounding box:\nA. Home\nB. Cart\nC. Help\n\nYou should" in asked["action_prediction"]
    assert asked["webqa"].startswith("Who wrote it?\nYou should directly tell me your answer in the fewest words")
    assert "matches the description: the search field\n\n" in asked["element_ground"]
    assert '<meta name="description" content="YOUR ANSWER">' in asked["web_caption"]
    assert not any("None" in text or "{" in text for text in asked.values())


def test_letters_of_a_diagram_are_shown_where_the_question_names_them(opened):
    shown = [row.chat[0]["content"][0]["image"].parent.name for row in opened("ai2d").rows("test")]
    assert shown == ["images", "abc_images"]


def test_other_published_layouts(tmp_path):
    def make(name):
        return find("benchmarks", name)(data=tmp_path)

    rows = [{"question": "What?", "options": ["a", "b"], "answer": "1", "image": cell(1)}]
    save_rows(tmp_path / "ai2d/data/test-00000-of-00001.parquet", rows)
    assert [(row.answer, prompt(row)) for row in make("ai2d").rows("test")] == [("B", f"What?\nA. a\nB. b{LETTER}")]
    facts = {"choices": ["a", "b"], "answer": 1, "hint": "Look.", "subject": "language science"}
    rows = [{"question": "What?", "image": image, **facts} for image in (cell(1), None)]
    save_rows(tmp_path / "ScienceQA/data/test-00000-of-00001.parquet", rows)
    assert [prompt(row) for row in make("scienceqa").rows("test")] == [f"Context: Look.\nWhat?\nA. a\nB. b{LETTER}"]
    table = {"index": 0, "question": "What?", "A": "a", "B": "b", "C": "", "D": "", "answer": "B", "category": "math"}
    save_table(
        tmp_path / "MMStar/MMStar.tsv",
        [table | {"l2_category": "geometry", "image": base64.b64encode(png(1)).decode()}],
    )
    (row,) = make("mmstar").rows("val")
    assert prompt(row) == f"What?\nOptions: A: a, B: b{LETTER}" and row.choices == ("a", "b", "", "")


def test_the_folder_may_be_the_benchmarks_own(sets):
    make = find("benchmarks", "chartqa")
    assert make(data=sets / "ChartQA").rows("test") == make(data=sets).rows("test")


def test_a_picture_is_decoded_only_when_it_is_asked_about(tmp_path):
    mmstar(tmp_path)
    broken = png(0)[:40]
    rows = [
        {"index": 0, "question": "?", "image": broken, "answer": "A", "category": "math", "l2_category": "geometry"},
        {"index": 1, "question": "?", "image": None, "answer": "A", "category": "math", "l2_category": "geometry"},
    ]
    save_rows(tmp_path / "MMStar/mmstar.parquet", rows)
    first, second = find("benchmarks", "mmstar")(data=tmp_path).rows("val")
    for row in (first, second):
        with pytest.raises(ValueError, match="picture"):
            pictures(row)
    packed = io.BytesIO()
    Image.new("RGB", (2, 2)).save(packed, "png")
    assert load_picture(packed.getvalue()).size == (2, 2)


def test_the_page_names_every_benchmark_and_where_to_get_it():
    page = (Path(__file__).parents[3] / "docs" / "benchmarks.md").read_text("utf-8")
    for name in PUBLISHED:
        assert f"`{name}`" in page
        place = find("benchmarks", name).source.removeprefix("hub ").split(" ")[0]
        assert place in page, name
