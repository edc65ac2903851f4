"""The answers of a pair are compared in one context: what was said before them is an answer to both."""

from __future__ import annotations

import pytest
import torch

import phantrol
from phantrol.data.collate import Collator
from phantrol.data.messages import Example, Message, Rejected
from phantrol.losses.phantom_optimization import PhantomOptimization
from phantrol.models.tokenizer import train_tokenizer

RIGHT, WRONG = "a large red circle", "blue green"
WAYS = {"a row each": dict(pack=False), "packed": {}, "padding-free": dict(padding_free=True)}


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(["What color is the circle?", RIGHT, WRONG] * 4, 320)


@pytest.fixture(scope="module")
def model_and_processor(tiny_model, tokenizer):
    modifiers = [phantrol.TrolConfig(gate_bias=0.2, tokens="prompt"), phantrol.PhantomConfig(init="random")]
    return tiny_model(tokenizer, modifiers, dtype=torch.float64)


def group(rejected: str, turns: int) -> tuple[Example]:
    said = [Message("user", ("What color?",)), Message("assistant", ("red blue",))] * (turns - 1)
    said += [Message("user", ("What is the circle?",)), Message("assistant", (RIGHT,))]
    return (Example("pair", tuple(said), (Rejected(rejected, "incorrect"),)),)


@pytest.mark.parametrize("turns", [1, 2, 3])
@pytest.mark.parametrize("way", WAYS)
def test_an_answer_is_not_preferred_to_itself(model_and_processor, way, turns):
    model, processor = model_and_processor
    margins = []
    for rejected in (RIGHT, WRONG):
        batch = Collator(processor, dtype=torch.float64, **WAYS[way])([group(rejected, turns)])
        output = PhantomOptimization()(model, batch, {"tokens": 1, "pairs": 1})
        margins.append(float(output.metrics["reward_margin"]))
    assert abs(margins[0]) < 1e-12 < 1e-3 < abs(margins[1])


def test_an_earlier_answer_is_no_prompt_though_no_loss_looks_at_it(model_and_processor):
    _, processor = model_and_processor
    batch = Collator(processor, pack=False)([group(RIGHT, 2)])
    chosen, rejected = batch["labels"]
    assert torch.equal(*batch["prompt_mask"]) and torch.equal(batch["prompt_mask"][0], chosen == -100)
    assert (chosen != -100).sum() > (rejected != -100).sum() == (batch["sequence_ids"] == batch["rejected"]).sum()
