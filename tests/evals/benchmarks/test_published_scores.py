"""How answers are scored: each benchmark as a whole, against numbers worked out by hand."""

from __future__ import annotations

import base64
from pathlib import Path
from types import SimpleNamespace

import pytest
from published_files import png, save_rows, save_table

from phantrol.evals.benchmarks.blink import TASKS
from phantrol.evals.card import find_headline
from phantrol.evals.evaluation import evaluate_rows
from phantrol.evals.letters import chosen_option
from phantrol.evals.published import PublishedRow
from phantrol.find import find, names

PUBLISHED = [
    name for name in names("benchmarks") if name not in ("primer", "file") and not find("benchmarks", name).judged
]
PROTOCOLS = ("standard", "paper")
NOT_SAID = ("", " ", "I'm sorry, I cannot tell.", "yes or no", "Both", "A or B")


class SaysYes:
    name = "yes"

    def answer_each(self, chats, max_new_tokens, batch_size, **options):
        return ((index, SimpleNamespace(text="yes")) for index in range(len(chats)))


def scored(benchmark, answer_of):
    """Return the overall scores if `answer_of(row)` is what is said."""
    rows = benchmark.rows(benchmark.default_split)
    return {name: score for name, (score, _) in benchmark.overall(rows, [answer_of(row) for row in rows]).items()}


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("name", PUBLISHED)
def test_who_is_right_has_all_points_and_who_says_nothing_none(name, protocol, opened):
    benchmark = opened(name, protocol=protocol)
    rows = benchmark.rows(benchmark.default_split)
    assert scored(benchmark, lambda row: row.answer)[benchmark.headline] == 1
    assert all(set(benchmark.scores(row, row.answer).values()) == {1.0} for row in rows)
    for text in NOT_SAID[: 4 if name == "pope" else None]:  # POPE takes for a yes what denies nothing
        unsure = name == "hallusionbench" and protocol == "standard" and text.strip()
        got = scored(benchmark, lambda row, text=text: text)[benchmark.headline]
        shares_words = 0.05 if name == "visualwebbench" else 0  # a word of a caption is worth something
        assert got == pytest.approx(1 / 6 if unsure else 0, abs=shares_words), text
    for row in rows:  # and the wrong letter, word or number has none
        wrong = {"yes": "no", "no": "yes"}.get(row.answer.lower())
        wrong = wrong or (("B" if row.answer == "A" else "A") if row.choices else "77777")
        assert benchmark.score(row, wrong) == 0


def test_pope(opened):
    standard, paper = opened("pope"), opened("pope", protocol="paper")
    always = scored(standard, lambda row: "Yes, there is.")
    assert always["random_yes"] == 1 and always["random_f1"] == pytest.approx(2 / 3)
    assert always["overall"] == pytest.approx(2 / 3)  # precision 1/2, recall 1
    assert scored(paper, lambda row: "Yes")["overall"] == 0.5  # accuracy
    assert scored(standard, lambda row: "no")["overall"] == 0

    def one_way_wrong(row):
        return "no" if row.task == "popular" else row.answer

    assert scored(standard, one_way_wrong)["overall"] == pytest.approx(2 / 3)
    assert scored(paper, one_way_wrong)["overall"] == pytest.approx((1 + 0.5 + 1) / 3)
    row = standard.rows("test")[0]  # the answer is yes
    for text, right in {
        "There is a tree.": 1,  # whatever is not denied is a yes
        "There is a tree. It is not large": 1,  # only the first sentence counts
        "There is not": 0,
        "Yes, there is no chair": 0,
        "Yes, it is not hidden": 0,
        "No, I cannot see one": 0,
        "Yes, there isn't any doubt": 1,
        "": 0,  # the released evaluation counts it as yes
        "I cannot see": 0,
        "yes or no": 0,
    }.items():
        assert standard.score(row, text) == right, text


def test_mme(opened):
    benchmark = opened("mme")
    always = scored(benchmark, lambda row: "Yes")
    assert always["existence_plus"] == 0
    assert always["perception"] == always["overall"] == 0.25  # half of 100, and none of the other 100
    one = scored(benchmark, lambda row: row.answer if row.group.endswith("/0") else "yes")
    assert one["existence_plus"] == 0.5 and one["overall"] == (0.75 + 0.5) / 2
    uneven = scored(benchmark, lambda row: row.answer if row.task == "existence" else "")
    assert (uneven["perception"], uneven["cognition"], uneven["overall"]) == (1, 0, 0.5)
    assert benchmark.headline_scale == 2800
    found = evaluate_rows(SaysYes(), benchmark, "test", None)
    headline = find_headline(benchmark, found.report, {"overall": (0.2, 0.3)})
    assert headline["value"] == 700 and len(headline["left_out"]) == 12  # of 14 tasks the made-up set has two
    assert not {"existence", "code_reasoning"} & set(headline["left_out"])
    row = benchmark.rows("test")[0]
    assert benchmark.score(row, "Yesterday") == 0  # begins with the four letters that the released evaluation looks at


def test_hallusionbench(opened):
    benchmark = opened("hallusionbench")
    always = scored(benchmark, lambda row: "yes")
    assert always == {"aAcc": 0.5, "fAcc": 0, "qAcc": 0}
    # wrong about one question of the first figure: that figure is lost, and that question over its figures
    one = scored(benchmark, lambda row: "no" if row.id == "0" else row.answer)
    assert one == {"aAcc": pytest.approx(5 / 6), "fAcc": pytest.approx(2 / 3), "qAcc": pytest.approx(2 / 3)}
    # the figure that is not shown is none of the figures, and whoever is unsure about it is right
    unsure = scored(benchmark, lambda row: "I cannot tell" if row.facts["unseen"] else row.answer)
    assert unsure == {"aAcc": 1, "fAcc": 1, "qAcc": 1}
    paper = opened("hallusionbench", protocol="paper")
    unsure = scored(paper, lambda row: "I cannot tell" if row.facts["unseen"] else row.answer)
    assert unsure == {"aAcc": pytest.approx(5 / 6), "fAcc": 1, "qAcc": pytest.approx(2 / 3)}


def test_circular_evaluation(opened):
    lazy = scored(opened("mmbench"), lambda row: "A")
    assert lazy["vanilla"] == pytest.approx(3 / 7) and lazy["circular"] == lazy["overall"] == 0
    knows_one = scored(opened("mmbench"), lambda row: row.answer if row.group == "7" else "A")
    assert (
        knows_one["overall"] == pytest.approx(1 / 3)
        and knows_one["scene_circular"] == 1
        and knows_one["style_circular"] == 0
    )
    by_text = scored(opened("mmbench"), lambda row: row.choices[ord(row.answer) - ord("A")])
    assert by_text["overall"] == 1  # the text of the option, and no letter
    paper = scored(opened("mmbench", protocol="paper"), lambda row: "A")
    assert paper["overall"] == paper["vanilla"] == pytest.approx(1 / 3)


def test_means_of_parts(opened):
    def right_in(benchmark, *tasks):
        return scored(benchmark, lambda row: row.answer if row.task in tasks else "")

    ade = scored(opened("cvbench"), lambda row: row.answer if row.facts["source"] == "ADE20K" else "")
    assert (ade["2d"], ade["3d"], ade["overall"]) == (0.5, 0, 0.25)
    omni = scored(opened("cvbench"), lambda row: row.answer if row.facts["source"] == "Omni3D" else "")
    assert (omni["2d"], omni["3d"], omni["overall"]) == (0, 1, 0.5)
    assert right_in(opened("blink"), "Jigsaw")["overall"] == 0.5
    assert right_in(opened("visualwebbench"), "webqa", "web_caption")["overall"] == pytest.approx(2 / 7)
    assert right_in(opened("chartqa"), "human")["overall"] == pytest.approx(2 / 6)
    stars = right_in(opened("mmstar"), "math")
    assert stars["math (geometry)"] == 1 and stars["overall"] == 0.5


def test_mmstar_is_read_alike_in_both_layouts(opened, tmp_path):
    options = {"A": "a cat", "B": "Vitamin D", "C": "red, or blue.", "D": ""}
    facts = {"answer": "A", "category": "math", "l2_category": "geometry"}
    joined = "\nOptions: A: a cat, B: Vitamin D, C: red, or blue."
    save_rows(tmp_path / "one/mmstar.parquet", [{"index": 0, "question": f"Which?{joined}", "image": png(0), **facts}])
    picture = base64.b64encode(png(0)).decode()
    save_table(tmp_path / "two/MMStar.tsv", [{"index": 0, "question": "Which?", **options, "image": picture, **facts}])
    one, two = (find("benchmarks", "mmstar")(data=tmp_path / name).rows("val")[0] for name in ("one", "two"))
    assert one == two and one.choices == tuple(options.values())
    said = ["a cat", "Vitamin D", "red, or blue", "A", "none of them"]
    assert [chosen_option(text, one.choices) for text in said] == ["A", "B", "C", "A", None]
    (bare,) = (row.choices for row in opened("mmstar").rows("val")[:1])
    assert bare == ("red", "blue", "green", "pink")


@pytest.mark.parametrize(
    ("name", "left_out"),
    [("cvbench", ["Distance"]), ("blink", [task for task in TASKS if task not in ("Counting", "Jigsaw")])],
)
def test_tasks_that_a_mean_lacks_are_named(name, left_out, opened):
    benchmark = opened(name)
    found = evaluate_rows(SaysYes(), benchmark, benchmark.default_split, None)
    assert find_headline(benchmark, found.report, {"overall": (0.2, 0.3)})["left_out"] == left_out


def test_chartqa(opened):
    standard, paper = opened("chartqa"), opened("chartqa", protocol="paper")
    row = next(row for row in standard.rows("test") if row.answer == "1200")
    for text, by_standard, by_paper in (
        ("1,200", 1, 1),
        ("$1,200", 1, 1),
        ("1259", 1, 1),  # within 5 % of the truth; of what was said it would be as well
        ("1261", 0, 0),
        ("1141", 1, 1),
        ("1139", 0, 0),
        ("1200 in 2010", 0, 1),  # the paper's evaluation keeps the first word
        ("in 2010 1200", 0, 0),
        ("", 0, 0),
    ):
        assert (standard.score(row, text), paper.score(row, text)) == (by_standard, by_paper), text
    (five,) = (row for row in standard.rows("test") if row.answer == "5")
    assert standard.score(five, "five") == standard.score(five, "Five bars") == 1


@pytest.mark.parametrize("name", PUBLISHED)
def test_rows_and_groups_are_the_same_however_the_folder_is_named(name, sets, opened, monkeypatch):
    monkeypatch.chdir(sets)
    here, there = find("benchmarks", name)(data=Path()), opened(name)
    split = there.default_split
    assert [row.id for row in here.rows(split, 1)] == [row.id for row in there.rows(split, 1)]
    ours, theirs = ([benchmark.group_of(row) for row in benchmark.rows(split)] for benchmark in (here, there))
    assert ours == theirs


def test_several_questions_about_one_chart_all_count(opened):
    """The released evaluation drops all but the first question of a picture as duplicates."""
    asked = opened("chartqa", protocol="paper").rows("test")
    assert len(asked) == 4 and len({row.group for row in asked}) == 3


@pytest.mark.parametrize(
    ("pid", "text", "right"),
    [
        ("1", "1.2", 1),
        ("1", "1.20", 1),
        ("1", "1.24", 1),  # rounded to one decimal, as MathVista does
        ("1", "1.26", 0),
        ("1", "The answer is 1.2", 1),
        ("1", "It costs $1.20.", 1),
        ("1", "3 of them cost 4, so the answer is 1.2.", 1),
        ("1", "3 of them cost 4", 0),
        ("1", "", 0),
        ("2", "1,000", 1),
        ("2", "1000 g", 1),
        ("2", "1000.0", 1),
        ("2", "one thousand", 0),
        ("2", "First 10, then 20.\nThe total is 1000", 1),
        ("2", "9" * 400, 0),  # too long for a float: nobody can tell what it says
        ("1", "-" + "9" * 400, 0),
        ("2", "9" * 400 + "\nThe total is 1000", 1),
        ("3", "C", 1),
        ("3", "(C) 145°", 1),
        ("3", "145°", 1),
        ("3", "The answer is (C)", 1),
        ("3", "B", 0),
        ("3", "135° or 145°", 0),
    ],
)
def test_mathvista(pid, text, right, opened):
    benchmark = opened("mathvista")
    (row,) = (row for row in benchmark.rows("testmini") if row.id == pid)
    assert benchmark.score(row, text) == right


def test_what_no_rule_reads_is_counted(opened):
    found = scored(opened("mathvista"), lambda row: "so it depends" if row.id == "1" else row.answer)
    assert found["unread"] == pytest.approx(1 / 3) and found["overall"] == pytest.approx(2 / 3)
    looping = scored(opened("mathvista"), lambda row: "9" * 400 if row.id == "2" else row.answer)
    assert looping["unread"] == pytest.approx(1 / 3) and looping["overall"] == pytest.approx(2 / 3)


def test_visualwebbench(opened):
    benchmark = opened("visualwebbench")
    rows = {row.task: row for row in benchmark.rows("test")}
    framed = '<meta name="description" content="A shop for shoes. Free returns">'
    assert benchmark.score(rows["web_caption"], framed) == 1  # what it was told to write around the answer is taken off
    assert benchmark.score(rows["web_caption"], "A shop for hats. Free returns") == pytest.approx(5 / 6)
    said = "The text content within the red bounding box is: Sign up here"
    assert benchmark.score(rows["element_ocr"], said) == 1
    assert benchmark.score(rows["webqa"], "Lovelace") == 1  # the best of several right answers
    assert benchmark.score(rows["webqa"], "Ada") == pytest.approx(2 / 3)
    assert benchmark.score(rows["action_prediction"], "Cart") == 1
    assert benchmark.score(rows["element_ground"], "C.") == 1 and benchmark.score(rows["element_ground"], "") == 0


def test_the_paper_reads_the_beginning_and_the_standard_the_whole():
    choice = find("benchmarks", "ai2d")
    row = PublishedRow("1", "task", [], "B", choices=("red", "blue"))
    for text, standard, paper in (("I think B", 1, 0), ("blue", 1, 0), ("B", 1, 1), ("Both", 0, 0), ("", 0, 0)):
        assert (choice().score(row, text), choice(protocol="paper").score(row, text)) == (standard, paper), text
