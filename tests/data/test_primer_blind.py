"""The blind check: whoever reads only the question stays at chance, so a score above it is owed to the picture."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from dataclasses import replace
from itertools import accumulate, pairwise
from zlib import crc32

import pytest
import torch

from phantrol.data.messages import Rejected
from phantrol.data.primer import TASKS, Curriculum, generator
from phantrol.data.primer.generator import Turn

GROUPED_TEXTS, TEXTS = 4000, 1500  # of training, and as many of val; the former where few answers are possible
PAIRS = 500  # for telling chosen from incorrect answers
ALLOWED, AUC_ALLOWED = 0.03, 0.58
PX = 192
# With fewer questions a picture of one object, of which less can be asked, is asked more often how many there are.
CURRICULUM = Curriculum(questions=40, captions=False, scenes=("shapes", "sprites"))
TASKS_SEEN = [name for name in TASKS if name not in ("captions", "text_only")]  # which ask about a picture, with a pool
# Asked in groups, as training gets them: one question on a scene could even out another, or give it away.
GROUPED = (
    "shape", "colour_one", "colour_several", "size", "existence", "count", "count_by_colour", "count_by_shape",
    "left_right", "above_below", "outermost", "objects", "object_existence", "multiple_choice", "relation",
)  # fmt: skip


@pytest.fixture(scope="module")
def turns() -> dict[str, dict[str, list[Turn]]]:
    """Return split -> task -> turns; the pictures are not drawn."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(generator, "draw", lambda scene, size_px: None)
        return {split: _collect_groups(split) | _collect_others(split) for split in ("train", "val")}


def _collect_groups(split: str) -> dict[str, list[Turn]]:
    found: dict[str, list[Turn]] = defaultdict(list)
    families = sorted({TASKS[name].family for name in GROUPED})
    for index in range(4_000):
        for family in families:
            if any(len(found[name]) < GROUPED_TEXTS for name in GROUPED if TASKS[name].family == family):
                for turn in generator.sample(split, family, index, curriculum=CURRICULUM).turns:
                    found[turn.task].append(turn)
    return {name: found[name][:GROUPED_TEXTS] for name in GROUPED}


def _collect_others(split: str) -> dict[str, list[Turn]]:
    """Each task alone, asked twice about a picture where it can be."""
    found: dict[str, list[Turn]] = {}
    for task in (*(name for name in TASKS_SEEN if name not in GROUPED), "captions"):
        curriculum = Curriculum({task: 1}, questions=2, captions=False)
        found[task], index, count = [], 0, PAIRS if task == "captions" else TEXTS
        while len(found[task]) < count:
            found[task] += generator.sample(split, TASKS[task].family, index, PX, curriculum).turns
            share, index = chance(found[task][-1:]), index + 1
            count = GROUPED_TEXTS if share >= 0.5 else 2500 if share >= 0.25 else count
    return found


def chance(turns: list[Turn]) -> float:
    """Return what guessing the likeliest answer in the pool of each question gives; in free text there is none."""
    return sum(max(Counter(turn.pool).values()) / len(turn.pool) for turn in turns if turn.pool) / len(turns)


def table_score(train: list[Turn], val: list[Turn]) -> float:
    """Majority answer for each question, whatever its wording: only its colours, shapes, names and sides count."""
    table: dict[tuple, Counter] = defaultdict(Counter)
    for turn in train:
        table[_topic(turn)][turn.answer] += 1
    fallback = Counter(turn.answer for turn in train).most_common(1)[0][0]
    hits = 0
    for turn in val:
        counts = table.get(_topic(turn))
        hits += turn.answer == (counts.most_common(1)[0][0] if counts else fallback)
    return hits / len(val)


STOP = re.compile(
    r"\b(what|which|is|the|an?|of|in|image|there|does|show|have|can|you|see|name|to|or|how|many|are|number|count|objects?"
    r"|where|placed|color|shape|size|kind|thing|this)\b|[?.,]"
)


def _topic(turn: Turn) -> tuple:
    return tuple(STOP.sub(" ", turn.question.split("\n")[0].lower()).split())


def regression_score(train: list[Turn], val: list[Turn], steps: int = 60) -> float:
    """Logistic regression on words and pairs of neighbouring words, full batch, fixed steps; frequent answers only."""
    grams = Counter(gram for turn in train for gram in _grams(turn))
    column = {gram: i for i, (gram, _) in enumerate(grams.most_common(600))}
    frequent = Counter(turn.answer for turn in train).most_common(150)
    answers = {answer: i for i, (answer, _) in enumerate(sorted(frequent))}
    train = [turn for turn in train if turn.answer in answers]
    x, y = _features(train, column), torch.tensor([answers[turn.answer] for turn in train])
    weights = torch.zeros(len(column) + 1, len(answers), requires_grad=True)
    adam = torch.optim.Adam([weights], lr=0.1, weight_decay=1e-3)
    for _ in range(steps):
        adam.zero_grad()
        torch.nn.functional.cross_entropy(x @ weights, y).backward()
        adam.step()
    guessed = (_features(val, column) @ weights).argmax(-1)
    right = torch.tensor([answers.get(turn.answer, -1) for turn in val])
    return (guessed == right).float().mean().item()


def _grams(turn: Turn) -> set[str]:
    words = re.findall(r"[a-z]+|\d+", turn.question.lower())
    return {*words, *(f"{a} {b}" for a, b in pairwise(words))}


def _features(turns: list[Turn], column: dict[str, int]) -> torch.Tensor:
    x = torch.zeros(len(turns), len(column) + 1)
    x[:, -1] = 1
    for i, turn in enumerate(turns):
        x[i, [column[gram] for gram in _grams(turn) if gram in column]] = 1
    return x


@pytest.mark.parametrize("task", TASKS_SEEN)
def test_question_alone_says_nothing(turns, task):
    train, val = turns["train"][task], turns["val"][task]
    assert min(len(train), len(val)) >= 1500 or (task in GROUPED and min(len(train), len(val)) >= 1200)
    limit = chance(val) + ALLOWED
    assert table_score(train, val) <= limit
    assert regression_score(train, val) <= limit


@pytest.mark.parametrize("task", GROUPED)
def test_one_question_a_picture_is_balanced_too(task, monkeypatch):
    """As evaluation asks: only lead questions, where no second question on the scene can even the answers out."""
    monkeypatch.setattr(generator, "draw", lambda scene, size_px: None)
    curriculum = Curriculum({task: 1}, questions=1, captions=False)
    turns = [generator.sample("val", TASKS[task].family, i, curriculum=curriculum).turns[0] for i in range(1500)]
    assert {turn.task for turn in turns} == {task}
    commonest = Counter(turn.answer for turn in turns).most_common(1)[0][1]
    assert commonest / len(turns) <= chance(turns) + ALLOWED


@pytest.mark.parametrize("score", [table_score, regression_score])
def test_the_check_catches_a_bias(turns, score):
    """Negative control: drop every third "no" about red and green objects, as a careless generator would."""

    def careless(kept: list[Turn]) -> list[Turn]:
        seen = 0
        result = []
        for turn in kept:
            leans = turn.answer == "no" if re.search("red|green", turn.question) else turn.answer == "yes"
            seen += leans
            if not (leans and seen % 3 == 0):
                result.append(turn)
        return result

    train, val = (careless(turns[split]["existence"]) for split in ("train", "val"))
    assert score(train, val) > chance(val) + ALLOWED


BUCKETS = 4096


def tell_apart(train: list[Turn], val: list[Turn], steps: int = 60) -> float:
    """Return the AUC of a logistic regression on question and answer that tells chosen from incorrect answers."""
    said = [[(turn.question, answer) for turn in turns for answer in (turn.answer, turn.rejected[0].text)]
            for turns in (train, val)]  # fmt: skip
    bags, val_bags = (_bags([_pair_grams(*pair) for pair in pairs]) for pairs in said)
    weights = torch.zeros(BUCKETS, 1, requires_grad=True)
    adam = torch.optim.Adam([weights], lr=0.05, weight_decay=3e-3)
    right = torch.tensor([1.0, 0.0]).repeat(len(train))
    for _ in range(steps):
        adam.zero_grad()
        torch.nn.functional.binary_cross_entropy_with_logits(_sums(weights, bags), right).backward()
        adam.step()
    scores = _sums(weights, val_bags).detach()
    chosen, incorrect = scores[::2, None], scores[None, 1::2]
    return ((chosen > incorrect).float().mean() + 0.5 * (chosen == incorrect).float().mean()).item()


def _pair_grams(question: str, answer: str) -> list[int]:
    """Return buckets of: the answer, its words and pairs of them, its letters in threes, each word of the question
    with the answer, and its length."""
    words = re.findall(r"[a-z]+|\d+", question.split("\n")[0].lower())
    said = re.findall(r"\w+|[^\w ]", answer)
    letters = f"^{answer}$"
    grams = {f"answer {answer}", f"length {len(answer)}", *said, *(f"{a} {b}" for a, b in pairwise(said))}
    grams |= {letters[i : i + 3] for i in range(len(letters) - 2)} | {f"{word}|{answer}" for word in words}
    return sorted({crc32(gram.encode()) % BUCKETS for gram in grams})


def _bags(rows: list[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the buckets of all rows in one line, and where each row begins."""
    starts = torch.tensor([0, *accumulate(len(row) for row in rows[:-1])])
    return torch.tensor([bucket for row in rows for bucket in row]), starts


def _sums(weights: torch.Tensor, bags: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    return torch.nn.functional.embedding_bag(bags[0], weights, bags[1], mode="sum")[:, 0]


@pytest.mark.parametrize("task", [*TASKS_SEEN, "captions"])
def test_the_sides_of_a_pair_cannot_be_told_without_the_picture(turns, task):
    train, val = (turns[split][task][:PAIRS] for split in ("train", "val"))
    assert len(val) == PAIRS
    assert tell_apart(train, val) <= AUC_ALLOWED


@pytest.mark.parametrize("task", ["ocr_text", "document_date", "figure_area", "shape"])
def test_careless_wrong_answers_would_be_told(turns, task):
    """Negative control: the leaks that a first generator had."""

    def careless(turn: Turn) -> Turn:
        wrong = {
            "ocr_text": lambda right: f"{right[:-1]}x",  # a letter of any class
            "document_date": lambda right: f"{right[:-4]}2020",  # a constant year
            "figure_area": lambda right: str(int(right) + 1),  # off by one, often no product of two sides
            "shape": lambda right: "circle" if right != "circle" else "square",
        }[task](turn.answer)
        return replace(turn, rejected=(Rejected(wrong, "incorrect"), turn.rejected[1]))

    train, val = ([careless(turn) for turn in turns[split][task][:PAIRS]] for split in ("train", "val"))
    assert tell_apart(train, val) > AUC_ALLOWED
