"""The blind check of multiple choice: whoever reads only the options stays at chance."""

from __future__ import annotations

import re
from collections import Counter
from functools import cache
from zlib import crc32

import pytest
import torch

from phantrol.data.primer import TASKS, Curriculum, generator
from phantrol.data.primer.figures import _AREAS, _MARKS, _PERIMETERS
from phantrol.data.primer.multiple_choice import LETTERS, OPTION
from phantrol.data.primer.words import WORDS

PX, BUCKETS, ALLOWED = 192, 8192, 0.03
CHOICES = [name for name, task in TASKS.items() if task.answer == "letter"]


@pytest.fixture(autouse=True)
def undrawn(monkeypatch):
    monkeypatch.setattr(generator, "draw", lambda scene, size_px: None)


@cache
def collect(split: str, task: str, number: int) -> list[tuple[str, list[str], int]]:
    """Return (question, options, place of the right one)."""
    curriculum, found = Curriculum({task: 1}, questions=1, captions=False), []
    for i in range(number):
        turn = generator.sample(split, "multiple_choice", i, PX, curriculum).turns[0]
        options = [text for _, text in OPTION.findall(turn.question)]
        found.append((turn.question[: turn.question.index("\nA. ")], options, LETTERS.index(turn.answer)))
    return found


def option_score(train, val, steps: int = 60) -> float:
    """Return how often a conditional logit on the options, their values and the words of the question is right."""
    bags, val_bags = (_bags([row for each in few for row in _features(*each[:2])]) for few in (train, val))
    right, val_right = (torch.tensor([place for *_, place in few]) for few in (train, val))
    weights = torch.zeros(BUCKETS, 1, requires_grad=True)
    adam = torch.optim.Adam([weights], lr=0.03, weight_decay=2e-3)
    for _ in range(steps):
        adam.zero_grad()
        torch.nn.functional.cross_entropy(_sums(weights, bags), right).backward()
        adam.step()
    return (_sums(weights, val_bags).argmax(1) == val_right).float().mean().item()


def _features(question: str, options: list[str]) -> list[list[int]]:
    """Return for each option buckets of: it, alone and with each word of the question; how many options have its form;
    its rank among numbers."""
    forms, words = [form(text) for text in options], {*re.findall(r"[a-z]+", question.lower()), ""}
    rows = []
    for option, own in zip(options, forms, strict=True):
        found = {f"{word}|{option}" for word in words} | {f"alike {forms.count(own)}"}
        if set(forms) == {"digits"}:
            found.add(f"rank {sum(int(text) < int(option) for text in options)}")
        rows.append([crc32(text.encode()) % BUCKETS for text in found])
    return rows


def form(text: str) -> str:
    return "digits" if text.isdigit() else "word" if text.lower() in WORDS else "letters"


def _bags(rows: list[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the buckets of all rows in one line, and where each row begins."""
    starts = torch.tensor([0, *(len(row) for row in rows[:-1])]).cumsum(0)
    return torch.tensor([bucket for row in rows for bucket in row]), starts


def _sums(weights: torch.Tensor, bags: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    return torch.nn.functional.embedding_bag(bags[0], weights, bags[1], mode="sum").view(-1, len(LETTERS))


@pytest.mark.parametrize("task", CHOICES)
def test_the_options_alone_say_nothing(task):
    assert option_score(collect("train", task, 3000), collect("val", task, 2500)) <= 1 / len(LETTERS) + ALLOWED


@pytest.mark.parametrize(("word", "pool"), [("area", _AREAS), ("perimeter", _PERIMETERS), ("arrow", _MARKS)])
def test_the_option_with_the_most_ways_to_come_about_is_no_likelier(word, pool):
    """The best guess for who knows how figures are drawn."""
    ways, guessed = Counter(pool), []
    for question, options, right in collect("val", "choice_figures", 6000):
        if word in question:
            guessed.append(max(range(4), key=lambda place: ways[options[place]]) == right)
    assert len(guessed) > 400 and sum(guessed) / len(guessed) <= 1 / len(LETTERS) + 2 * ALLOWED


def test_a_text_stands_among_options_of_its_form():
    mixed = [options for _, options, _ in collect("val", "choice_ocr", 1500) if len(set(map(form, options))) > 1]
    assert not mixed
