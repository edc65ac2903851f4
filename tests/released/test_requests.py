"""Requests that the official code mixes up or refuses: each must get what the reference gives it when it comes alone.

There, state of one request lies on modules that all share, a prompt of one token has no state or an older one, a prompt
in chunks is another prompt, padding is lost in TroL's decode, and use_cache=False and output_attentions raise.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from recordings import COMBINATIONS
from reference import Reference, Run
from safetensors.torch import load_file
from torch import Tensor
from transformers import DynamicCache

from phantrol.models.released.convert import load_official
from phantrol.models.released.replay import GivenFeatures

AGREEMENT, BROKEN = 1e-4, 1e-2
IMAGE_TOKENS, ANSWER = 4, (17, 230, 101)
# prompts: words, and -1 for a picture
PROMPTS = {
    "one picture": (45, 7, -1, 300, 12, 9, 77),
    "two pictures": (8, -1, 61, 200, -1, 33, 410, 5, 99, 28, 54),
    "no picture": (350, 31, 8, 150, 77),
    "a picture first": (-1, 19, 64, 3),
    "one token": (271,),
}


@dataclass
class Request:
    """ids [1, N]   pictures [I, ...] pixels, or features where the vision tower was not recorded"""

    ids: Tensor
    pictures: Tensor
    prompt_logits: Tensor  # [N, V], of the reference
    answer_logits: Tensor  # [S, V]


class Released:
    """A model of phantrol's and the reference of the same weights, both in float64."""

    def __init__(self, folder: Path):
        config = json.loads((folder / "config.json").read_text())
        self.reference = Reference(load_file(folder / "weights.safetensors"), config, torch.float64)
        self.given = "vision_config" not in config
        self.model = load_official(folder, dtype=torch.float64, need_vision=not self.given)
        if self.given:
            self.model.vision_tower = GivenFeatures()
            self.model.config.image_grid, self.model.config.unshuffle = 2, 1
        self.requests = {name: self.request(words) for name, words in PROMPTS.items()}

    @torch.no_grad()
    def request(self, words: tuple[int, ...]) -> Request:
        random = torch.Generator().manual_seed(sum(words))
        reference, image = self.reference, self.reference.config["image_token_index"]
        ids = [token for word in words for token in ([image] * IMAGE_TOKENS if word < 0 else [word])]
        ids = torch.tensor([ids])
        shape = (IMAGE_TOKENS, 1024) if self.given else (3, 56, 56)
        pictures = torch.randn((words.count(-1), *shape), generator=random)
        embeds, is_image = reference.embed(ids), ids == image
        if len(pictures):
            features = pictures if self.given else reference.shuffle(reference.vision(pictures))
            embeds[is_image] = reference.project(features).flatten(0, 1)
        run, mask, first = Run(), torch.ones_like(ids), torch.zeros_like(is_image)
        first[0, 0] = True
        prompt = reference.forward(run, embeds, mask, mask.cumsum(-1) - 1, is_image, first, prompt=True)
        answer = []
        for token in ANSWER:
            mask = torch.cat([mask, mask[:, :1]], dim=1)
            step = reference.embed(torch.tensor([[token]]))
            answer.append(reference.forward(run, step, mask, mask.sum(-1, keepdim=True) - 1)[0])
        return Request(ids, pictures, prompt[0], torch.cat(answer))

    def read(self, request: Request, **options: Any) -> Any:
        if len(request.pictures):
            options["pixel_values"] = request.pictures
        return self.model(request.ids, **options)

    def cache(self) -> DynamicCache:
        return DynamicCache(config=self.model.config.text_config)

    def answer(self, cache: DynamicCache, t: int, **options: Any) -> Tensor:
        return self.model(torch.tensor([[ANSWER[t]]]), past_key_values=cache, **options).logits[0, 0]


@pytest.fixture(scope="module", params=COMBINATIONS, ids="-".join)
def released(request: pytest.FixtureRequest, drawn_folder: Callable[..., Path]) -> Released:
    return Released(drawn_folder(*request.param, seed=11))


@pytest.fixture(autouse=True)
def no_grad():
    with torch.no_grad():
        yield


def agree(ours: Tensor, theirs: Tensor) -> None:
    assert ours.shape == theirs.shape
    assert float((ours - theirs).abs().max()) < AGREEMENT


def test_requests_are_not_alike(released: Released):
    """Else what follows could not fail."""
    answers = [request.answer_logits for request in released.requests.values()]
    for i, one in enumerate(answers):
        assert all(float((one - other).abs().max()) > BROKEN for other in answers[:i])


@pytest.mark.parametrize("name", list(PROMPTS))
def test_alone(released: Released, name: str):
    request, cache = released.requests[name], released.cache()
    agree(released.read(request, past_key_values=cache).logits[0], request.prompt_logits)
    for t in range(len(ANSWER)):
        agree(released.answer(cache, t), request.answer_logits[t])


def test_interleaved(released: Released):
    """Prefill all, then let each say one word in turn; a one-token prompt comes between."""
    caches = {name: released.cache() for name in PROMPTS}
    for name, cache in caches.items():
        agree(
            released.read(released.requests[name], past_key_values=cache).logits[0],
            released.requests[name].prompt_logits,
        )
    for t in range(len(ANSWER)):
        for name in reversed(PROMPTS):
            agree(released.answer(caches[name], t), released.requests[name].answer_logits[t])


@pytest.mark.parametrize("cuts", [(5,), (1, 6), (6, 7, 11)])
def test_a_prompt_in_chunks(released: Released, cuts: tuple[int, ...]):
    """Cut between words: a picture comes whole, with the chunk that holds its tokens."""
    request, cache, logits, pictures = released.requests["two pictures"], released.cache(), [], 0
    total = request.ids.shape[1]
    for start, end in zip((0, *cuts), (*cuts, total), strict=True):
        ids = request.ids[:, start:end]
        count = int((ids == released.model.config.image_token_id).sum()) // IMAGE_TOKENS
        chunk = Request(ids, request.pictures[pictures : pictures + count], *[torch.empty(0)] * 2)
        logits.append(released.read(chunk, past_key_values=cache, prompt_length=total).logits[0])
        pictures += count
    assert pictures == 2
    agree(torch.cat(logits), request.prompt_logits)
    for t in range(len(ANSWER)):
        agree(released.answer(cache, t, prompt_length=total), request.answer_logits[t])


def test_without_a_cache(released: Released):
    request = released.requests["two pictures"]
    output = released.read(request, use_cache=False)
    assert output.past_key_values is None
    agree(output.logits[0], request.prompt_logits)
    whole = Request(torch.cat([request.ids, torch.tensor([ANSWER])], dim=1), request.pictures, *[torch.empty(0)] * 2)
    logits = released.read(whole, use_cache=False, prompt_length=request.ids.shape[1]).logits[0]
    agree(logits[-len(ANSWER) :], request.answer_logits)
    agree(logits[: -len(ANSWER)], request.prompt_logits)


def test_attentions(released: Released):
    request, model = released.requests["one picture"], released.model
    before = model.config.text_config._attn_implementation
    model.language_model.set_attn_implementation("eager")
    output = released.read(request, output_attentions=True, past_key_values=released.cache())
    model.language_model.set_attn_implementation(before.removeprefix("phantom_"))
    agree(output.logits[0], request.prompt_logits)
    passes = 2 if released.reference.family == "trol" else 1  # a look of each
    assert len(output.attentions) == passes * released.reference.layers
    for weights in output.attentions:
        assert weights.shape == (1, 4, *[request.ids.shape[1]] * 2)
        assert float((weights.sum(-1) - 1).abs().max()) < AGREEMENT
        assert float(weights.triu(1).abs().max()) == 0


def batch(released: Released, names: list[str]) -> tuple[Tensor, Tensor, Tensor]:
    requests = [released.requests[name] for name in names]
    longest = max(request.ids.shape[1] for request in requests)
    ids, mask = torch.full((len(names), longest), 2), torch.zeros(len(names), longest, dtype=torch.long)
    for row, request in enumerate(requests):
        ids[row, longest - request.ids.shape[1] :], mask[row, longest - request.ids.shape[1] :] = request.ids[0], 1
    return ids, mask, torch.cat([request.pictures for request in requests])


@pytest.mark.parametrize("names", [list(PROMPTS), ["no picture", "two pictures", "one picture"]])
def test_a_batch_with_padding_at_the_left(released: Released, names: list[str]):
    ids, mask, pictures = batch(released, names)
    cache = released.cache()
    logits = released.model(ids, attention_mask=mask, pixel_values=pictures, past_key_values=cache).logits
    for row, name in enumerate(names):
        agree(logits[row, mask[row] == 1], released.requests[name].prompt_logits)
    for t, token in enumerate(ANSWER):
        mask = torch.cat([mask, torch.ones_like(mask[:, :1])], dim=1)
        step = torch.full((len(names), 1), token)
        logits = released.model(step, attention_mask=mask, past_key_values=cache).logits
        for row, name in enumerate(names):
            agree(logits[row, 0], released.requests[name].answer_logits[t])


def test_generate_in_a_batch_says_what_each_says_alone(released: Released):
    names = ["two pictures", "a picture first", "one picture"]
    ids, mask, pictures = batch(released, names)
    options = dict(max_new_tokens=6, do_sample=False, pad_token_id=2, eos_token_id=None)
    together = released.model.generate(ids, attention_mask=mask, pixel_values=pictures, **options)
    for row, name in enumerate(names):
        request = released.requests[name]
        alone = released.model.generate(request.ids, pixel_values=request.pictures, **options)
        assert alone[0, -6:].tolist() == together[row, -6:].tolist()
        assert int(request.prompt_logits[-1].argmax()) == int(together[row, -6])
