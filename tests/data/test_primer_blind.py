"""The blind check: whoever reads only the question stays at chance, so a score above it is owed to the picture."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from itertools import pairwise

import pytest
import torch

from phantrol.data.primer import TASKS, Curriculum, generator
from phantrol.data.primer.generator import Turn

TRAIN_TEXTS, VAL_TEXTS = 4000, 4000
ALLOWED = 0.03
CURRICULUM = Curriculum(questions=12, captions=False)
TASKS_SEEN = [name for name in TASKS if name not in ("captions", "text_only")]


@pytest.fixture(scope="module")
def turns() -> dict[str, dict[str, list[Turn]]]:
    """Return split -> task -> turns, of groups as training gets them; the pictures are not drawn."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(generator, "draw", lambda scene, size_px: None)
        return {split: _collect(split, count) for split, count in (("train", TRAIN_TEXTS), ("val", VAL_TEXTS))}


def _collect(split: str, count: int) -> dict[str, list[Turn]]:
    found: dict[str, list[Turn]] = defaultdict(list)
    families = sorted({TASKS[name].family for name in TASKS_SEEN})
    for index in range(3_000):
        for family in families:
            if any(len(found[name]) < count for name in TASKS_SEEN if TASKS[name].family == family):
                for turn in generator.sample(split, family, index, curriculum=CURRICULUM).turns:
                    found[turn.task].append(turn)
    return {name: found[name][:count] for name in TASKS_SEEN}


def chance(turns: list[Turn]) -> float:
    """Return what guessing evenly in the pool of each question gives."""
    return sum(1 / len(turn.pool) for turn in turns) / len(turns)


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
    """Logistic regression on words and pairs of neighbouring words, full batch, fixed steps."""
    grams = Counter(gram for turn in train for gram in _grams(turn))
    column = {gram: i for i, (gram, _) in enumerate(grams.most_common(600))}
    answers = {answer: i for i, answer in enumerate(sorted({turn.answer for turn in train}))}
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
    words = re.findall(r"[a-z]+|[A-Z]\.", turn.question.lower())
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
    assert min(len(train), len(val)) >= 1200
    limit = chance(val) + ALLOWED
    assert table_score(train, val) <= limit
    assert regression_score(train, val) <= limit


@pytest.mark.parametrize("task", TASKS_SEEN)
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


def test_the_sides_of_a_pair_cannot_be_told_without_the_picture(turns):
    """Chosen and incorrect answers of a task are alike: guessing by how often an answer was right gains nothing."""
    for task in TASKS_SEEN:
        right = Counter(turn.answer for turn in turns["train"][task])
        wrong = Counter(turn.rejected[0].text for turn in turns["train"][task])
        score = {answer: (right[answer] + 1) / (wrong[answer] + 1) for answer in right | wrong}
        wins = sum(
            (score.get(turn.answer, 1) > score.get(turn.rejected[0].text, 1))
            + 0.5 * (score.get(turn.answer, 1) == score.get(turn.rejected[0].text, 1))
            for turn in turns["val"][task]
        )
        assert wins / len(turns["val"][task]) < 0.56, task
