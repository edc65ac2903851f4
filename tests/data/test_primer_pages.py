"""Texts, charts, tables, documents, diagrams, figures: what is asked is true of what is drawn, and can be read.

The checkers read the question as text and the scene as its bare numbers; they share nothing with the code that asks.
"""

from __future__ import annotations

import re
from collections import Counter

import pytest

from phantrol.data.primer import SPLITS, TASKS, Curriculum, sample
from phantrol.data.primer.multiple_choice import rotations
from phantrol.data.primer.tasks import KINDS
from phantrol.data.primer.words import (
    CITIES,
    COLUMNS,
    GOODS,
    NODES,
    PEOPLE,
    SERIES,
    SURNAMES,
    TITLES,
    WORDS,
    is_held_out,
)

PAGES = tuple(kind for kind in KINDS if kind not in ("shapes", "sprites"))
PX = 192
NAME = r"([A-Z][a-z]+)"


def _pick(side: str, values: list, names: tuple[str, ...]) -> str:
    return names[values.index((max if "highest" in side else min)(values))]


def chart_answer(text: str, chart) -> str:
    values = [[step * chart.unit for step in row] for row in chart.steps]
    row = values[0]
    for series, of_series in zip(chart.series, values, strict=False):
        if re.search(rf"\b{series}\b", text) and "color" not in text:
            row = of_series
    said = [name for name in re.findall(r"[A-Z][a-z]+", text) if name in chart.names]
    labels = chart.series or chart.names
    if found := re.search(r"highest|lowest", text):
        return _pick(found[0], row, chart.names)
    if found := re.search(r"(?:above|larger than) (\d+)", text):
        return str(sum(value > int(found[1]) for value in row))
    if re.search("differ", text):
        one, two = (row[chart.names.index(name)] for name in said)
        return str(abs(one - two))
    if re.search(r"\bsum\b|together", text):
        return str(sum(row[chart.names.index(name)] for name in said))
    colours = [colour for colour in chart.colours if re.search(rf"\b{colour}\b", text)]
    if colours:
        return labels[chart.colours.index(colours[0])]
    if "color" in text:
        return chart.colours[labels.index(next(label for label in labels if re.search(rf"\b{label}\b", text)))]
    (name,) = said
    return str(row[chart.names.index(name)])


def table_answer(text: str, table) -> str:
    column = next(i for i, name in enumerate(table.columns) if re.search(rf"\b{name}\b", text))
    values = [row[column] for row in table.values]
    if found := re.search(r"highest|lowest", text):
        return _pick(found[0], values, table.rows)
    if re.search(r"\bsum\b|add up", text):
        return str(sum(values))
    if found := re.search(r"\d+", text):
        return table.rows[values.index(int(found[0]))]
    (row,) = (i for i, name in enumerate(table.rows) if re.search(rf"\b{name}\b", text))
    return str(values[row])


def text_answer(text: str, poster) -> str:
    lines = [line.text for line in poster.lines if re.search(rf"\b{line.colour}\b", text)]
    return lines[0] if lines else " ".join(line.text for line in poster.lines)


def document_answer(text: str, document) -> str:
    keys = {
        "phone": "Phone", "birth": "Born", "street": "Street", "city": "City", "code": "Code", "room": "Room",
        "reference": "Ref", "it is to": "To", "it is from": "From", "name": "Name",
    }  # fmt: skip
    fields, prices = dict(document.fields), dict(document.items)
    goods = [name for name in re.findall(r"[A-Z][a-z]+", text) if name in prices]
    if goods:
        return f"{prices[goods[0]] / 100:.2f}"
    if re.search("total|sum of all|everything", text):
        return f"{sum(prices.values()) / 100:.2f}"
    for word, key in keys.items():
        if re.search(rf"\b{word}\b", re.sub(r"^(Look at the image and name|Name)", "", text)):
            return fields[key]
    return document.date


def diagram_answer(text: str, diagram) -> str:
    said = re.findall(rf"\b(?:{'|'.join(sorted(diagram.names, key=len, reverse=True))})\b", text)
    nodes = [diagram.names.index(word) for word in said]
    if len(nodes) == 2 and re.search("steps|arrows", text):
        frontier, steps = {nodes[0]}, 0
        while nodes[1] not in frontier:
            frontier, steps = {b for a, b in diagram.edges if a in frontier}, steps + 1
        return str(steps)
    if len(nodes) == 2:
        return "yes" if tuple(nodes) in diagram.edges else "no"
    (node,) = nodes
    if re.search(r"points to|arrow to|before", text) and not re.search(r"points to\.|arrow from", text):
        return diagram.names[next(a for a, b in diagram.edges if b == node)]
    return diagram.names[next(b for a, b in diagram.edges if a == node)]


def figure_answer(text: str, figure) -> str:
    numbers = figure.numbers
    if figure.form == "rectangle":
        return str(numbers[0] * numbers[1] if "area" in text else 2 * sum(numbers))
    if figure.form == "triangle":
        return str(180 - numbers[0] - numbers[1])
    if figure.form == "clock":
        return f"{numbers[0]}:{numbers[1]:02}"
    if figure.form == "number_line":
        return str(numbers[0] + numbers[1] * numbers[2])
    if figure.form == "curve":
        return str(numbers[int(re.search(r"x = (\d+)", text)[1])])
    if figure.form == "sum":
        return str(numbers[0] + numbers[1] if numbers[2] > 0 else numbers[0] - numbers[1])
    return "acute" if numbers[0] < 90 else "right" if numbers[0] == 90 else "obtuse"


ANSWERS = {
    "ocr": text_answer,
    "charts": chart_answer,
    "tables": table_answer,
    "documents": document_answer,
    "diagrams": diagram_answer,
    "figures": figure_answer,
}


def truth(turn, scene) -> str:
    question, *options = turn.question.split("\n")
    answer = ANSWERS[scene.kind](question, scene)
    if turn.form != "letter":
        return answer
    (letter,) = (option[0] for option in options[:4] if option[3:] == answer)
    return letter


@pytest.fixture(scope="module")
def drawn():
    """Return split -> samples, of each kind, with the pictures left out."""
    curriculum = Curriculum(scenes=PAGES)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("phantrol.data.primer.generator.draw", lambda scene, size_px: None)
        return {
            split: [sample(split, family, i, PX, curriculum) for family in _families(split) for i in range(150)]
            for split in SPLITS
        }


def _families(split):
    kinds = set(PAGES) & set(SPLITS[split].scene_kinds)
    return dict.fromkeys(task.family for task in TASKS.values() if kinds & set(task.kinds))


@pytest.mark.parametrize("split", SPLITS)
def test_answers_are_true_and_incorrect_ones_are_not(drawn, split):
    tasks = Counter()
    for one in drawn[split]:
        for turn in one.turns:
            tasks[turn.task] += 1
            assert truth(turn, one.scene) == turn.answer, (turn, one.scene)
            wrong, vague = turn.rejected
            assert turn.answer not in (wrong.text, vague.text) and wrong.text and vague.text, turn
            assert not turn.pool or turn.answer in turn.pool
            if turn.form == "number":
                float(turn.answer)
    kinds = set(PAGES) & set(SPLITS[split].scene_kinds)
    assert set(tasks) == {name for name, task in TASKS.items() if kinds & set(task.kinds)}


def test_the_checkers_see_a_lie(drawn):
    """Negative control: the same questions about another scene of the kind are mostly answered otherwise."""
    lies, total = 0, 0
    for one, other in zip(drawn["train"], drawn["train"][1:], strict=False):
        for turn in one.turns:
            if turn.task in ("figure_clock", "figure_area", "ocr_text", "document_total", "document_date"):
                try:
                    said = truth(turn, other.scene)
                except (KeyError, StopIteration, ValueError, TypeError, IndexError):
                    continue
                total += 1
                lies += said != turn.answer
    assert lies > 0.8 * total > 80


def test_all_ways_are_as_long_as_the_answer_says():
    """Where a short cut leads past a node, "how many steps" has two answers."""
    short_cuts, asked = 0, Counter()
    for i in range(300):
        one = sample("train", "diagrams", i, PX, Curriculum({"diagram_steps": 1}, questions=1, captions=False))
        (turn,), diagram = one.turns, one.scene
        start, end = (diagram.names.index(word) for word in re.findall("|".join(diagram.names), turn.question))
        ways, lengths = [(start,)], set()
        while ways:
            way = ways.pop()
            lengths |= {len(way) - 1} if way[-1] == end else set()
            ways += [(*way, b) for a, b in diagram.edges if a == way[-1] and b not in way and a != end]
        assert lengths == {int(turn.answer)}, (turn, diagram)
        short_cuts += diagram.form == "flow" and len(diagram.edges) == len(diagram.names)
        asked[turn.answer] += 1
    assert short_cuts > 5 and min(asked.values()) > 70


def test_each_form_of_picture_is_drawn(drawn):
    forms = Counter((one.scene.kind, getattr(one.scene, "form", "")) for one in drawn["train"])
    expected = {
        "charts": {"bar", "hbar", "line", "pie", "grouped"},
        "documents": {"receipt", "form", "letter"},
        "diagrams": {"circle", "tree", "flow", "web"},
        "figures": {"rectangle", "triangle", "clock", "number_line", "curve", "sum", "angle"},
    }
    assert {kind: {form for k, form in forms if k == kind} for kind in expected} == expected
    looks = {one.scene.look for one in drawn["train"] if one.scene.kind == "tables"}
    assert looks == {"grid", "stripes", "rules"}


LISTS = (PEOPLE, CITIES, GOODS, COLUMNS, TITLES, SERIES, NODES, SURNAMES, WORDS)
KNOWN = {word.lower() for words in LISTS for word in words}


def listed(turn) -> set[str]:
    """Return the words of our lists that a turn says, in its answers or as names in its question."""
    answers = " ".join([turn.answer, *(rejected.text for rejected in turn.rejected if "..." not in rejected.text)])
    answers += " " + " ".join(turn.question.split("\n")[1:5]) if turn.form == "letter" else ""
    names = re.findall(rf"\b{NAME}", turn.question.split("\n")[0][1:])
    return {word.lower() for word in [*re.findall(r"[A-Za-z]+", answers), *names]} & KNOWN


def test_held_out_words_are_said_in_test_comp_alone(drawn):
    for split in SPLITS:
        for one in drawn[split]:
            if one.scene.kind in ("figures",) or getattr(one.scene, "sprites", False):
                continue
            for turn in one.turns:
                found = listed(turn) - {"road", "market", "some", "or", "and", "king", "station", "number", "jan"}
                held_out = {word for word in found if is_held_out(word)}
                assert held_out == (found if split == "test_comp" else set()), (split, turn)


def test_numbers_and_pseudo_words_are_held_out_too(drawn):
    for split in SPLITS:
        for one in drawn[split]:
            if one.scene.kind == "ocr":
                assert {is_held_out(line.text) for line in one.scene.lines} == {split == "test_comp"}
            if one.scene.kind == "charts":
                assert (one.scene.unit in (3, 4, 50)) == (split == "test_comp")
    assert all(sum(map(is_held_out, words)) >= 3 for words in LISTS)


def test_test_hard_has_more_of_everything(drawn):
    def most(split):
        sizes = {
            "charts": lambda s: len(s.names) * len(s.steps),
            "tables": lambda s: len(s.rows),
            "diagrams": lambda s: len(s.names),
            "ocr": lambda s: len(s.lines),
            "documents": lambda s: len(s.items),
        }
        found = Counter()
        for one in drawn[split]:
            if one.scene.kind in sizes:
                found[one.scene.kind] = max(found[one.scene.kind], sizes[one.scene.kind](one.scene))
        return found

    train, hard = most("train"), most("test_hard")
    assert len(hard) == 5 and all(hard[kind] > train[kind] for kind in hard)


def test_test_style_has_a_font_of_its_own(drawn):
    fonts = {split: {one.scene.font for one in drawn[split]} for split in SPLITS}
    assert fonts["test_style"] and not fonts["test_style"] & fonts["train"]
    assert all(fonts[split] == fonts["train"] for split in SPLITS if split != "test_style")


def test_rotations_keep_the_right_answer_right(drawn):
    asked = [(one, turn) for one in drawn["val"] for turn in one.turns if turn.form == "letter"]
    assert len(asked) > 50
    for one, turn in asked:
        turned = rotations(turn.question, turn.answer)
        assert turned[0] == (turn.question, turn.answer)
        assert sorted(letter for _, letter in turned) == list("ABCD")
        for question, letter in turned:
            answer = ANSWERS[one.scene.kind](question.split("\n")[0], one.scene)
            assert f"\n{letter}. {answer}\n" in question
    with pytest.raises(ValueError, match="four options"):
        rotations("What is this?", "A")
