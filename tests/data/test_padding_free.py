"""A batch as one row without padding: the very losses and gradients of rows of their own, in float64."""

from __future__ import annotations

from types import MethodType

import pytest
import torch
from PIL import Image

import phantrol
from phantrol.data.collate import Collator
from phantrol.data.messages import Example, Message, Rejected
from phantrol.data.packing import Line, join, plain_row
from phantrol.losses.base import model_inputs, token_logprobs
from phantrol.losses.phantom_optimization import PhantomOptimization
from phantrol.losses.sft import Sft
from phantrol.models import block_attention
from phantrol.models.tokenizer import train_tokenizer
from phantrol.modifiers import phantom
from phantrol.modifiers.partial_lora import PartialLoraConfig
from phantrol.ops.blocks import causal_mask, split_blocks

TEXTS = ["What color is the circle?", "red blue green", "a large red circle and a small blue star"] * 4
TROL, PROMPT = phantrol.TrolConfig(gate_bias=0.2), phantrol.TrolConfig(gate_bias=0.2, tokens="prompt")
PHANTOM = phantrol.PhantomConfig(init="random")
SETS = {
    "plain": [],
    "trol": [TROL],
    "trol, prompt": [PROMPT],
    "phantom": [PHANTOM],
    "phantom, drop": [phantrol.PhantomConfig(init="random", logits="drop", train_eta=True)],
    "both": [TROL, PHANTOM],
    "partial_lora": [PROMPT, PartialLoraConfig(rank=3, alpha=2.0)],
}
SLIDES = dict(use_sliding_window=True, sliding_window=12, max_window_layers=1)
FAMILIES = {"llama": {}, "qwen2": SLIDES, "phi3": dict(sliding_window=12), "qwen3": dict(head_dim=8)}


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(TEXTS, 320)


@pytest.fixture(scope="module")
def make(tiny_model, tokenizer):
    """`make(modifiers, family)` returns a tiny model with large weights, in float64 down to its norms."""

    def model_and_processor(modifiers, family="llama", **options):
        model, processor = tiny_model(
            tokenizer, modifiers, family, dtype=torch.float64, pad_token_id=0, **FAMILIES[family] | options
        )
        for part in model.modules():
            if type(part).__name__.endswith("RMSNorm"):  # transformers takes these in float32, whatever the model
                part.forward = MethodType(_norm, part)
        return model.train(), processor

    return model_and_processor


def _norm(self, x):
    return self.weight * x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.variance_epsilon)


def picture(color="red"):
    image = Image.new("RGB", (40, 32), color)
    image.paste("blue", (3, 5, 20, 17))
    return image


def example(name, question, answer, picture=None, rejected=()):
    parts = (question,) if picture is None else (picture, question)
    messages = (Message("user", parts), Message("assistant", (answer,)))
    return Example(name, messages, tuple(Rejected(text, "incorrect") for text in rejected))


def groups():
    """Examples that begin with different tokens, so that an anchor of another would be noticed."""
    seen = picture()
    return [
        (
            example("color", "What color is the circle?", "red", seen, ["blue"]),
            example("what", "What is it?", "a large red circle", seen),
        ),
        (example("text", "red blue", "green"),),
        (example("other", "a large star: what is it?", "red blue", picture("green"), ["a small red circle"]),),
        (example("text too", "star star star star star star star star star star", "blue", None, ["red red"]),),
    ]


def batches(processor, **options):
    collate = {free: Collator(processor, dtype=torch.float64, padding_free=free, **options) for free in (True, False)}
    return collate[True](groups()), collate[False](groups())


def by_sequence(model, batch):
    return token_logprobs(model, batch)[torch.argsort(batch["sequence_ids"], stable=True)]


def check_equal(model, free, plain, loss):
    totals = loss.count(plain)
    assert loss.count(free) == totals
    one, other = loss(model, free, totals).loss, loss(model, plain, totals).loss
    assert abs(one - other) < 1e-10
    named = dict(model.named_parameters())
    gradients = [torch.autograd.grad(value, list(named.values()), allow_unused=True) for value in (one, other)]
    for name, a, b in zip(named, *gradients, strict=True):
        assert (a is None) == (b is None), name
        assert a is None or (a - b).abs().max() < 1e-10 * max(1, b.abs().max()), name


def test_a_group_of_several_pictures_is_shared_picture_by_picture(make):
    """As `together` fills its groups; the texts have a beginning in common that is not worth a mask."""
    model, processor = make(SETS["both"])
    seen, text = picture(), "red blue green red blue green and a small star"
    group = (
        example("what", "What is it?", "a large red circle", seen),
        example("color", "What color is the circle?", "red", seen),
        example("other", "What color is the circle?", "red", picture("green")),
        example("text", f"What {text}", "red"),
        example("more text", f"red {text}", text),
        example("the same", f"red {text}", "blue"),
    )
    options = dict(dtype=torch.float64)
    free, packed, plain = (
        Collator(processor, **options, **more)([group]) for more in (dict(padding_free=True), {}, dict(pack=False))
    )
    assert len(packed["input_ids"]) == len(free["blocks"]) == 4 and len(plain["input_ids"]) == 6
    assert (packed["num_pictures"], free["num_pictures"], plain["num_pictures"]) == (2, 2, 3)
    wanted = by_sequence(model, plain)
    for batch in (free, packed):
        torch.testing.assert_close(by_sequence(model, batch), wanted, rtol=0, atol=1e-10)
        check_equal(model, batch, plain, Sft())


@pytest.mark.parametrize("modifiers", SETS)
@pytest.mark.parametrize("pack", [True, False])
def test_one_row_equals_rows_of_their_own(make, modifiers, pack):
    model, processor = make(SETS[modifiers])
    free, plain = batches(processor, pack=pack)
    assert free["input_ids"].shape[0] == 1 and plain["input_ids"].shape[0] > 3
    assert free["input_ids"].numel() < plain["input_ids"].numel()
    unpacked = Collator(processor, pack=False, dtype=torch.float64)(groups())
    torch.testing.assert_close(by_sequence(model, free), by_sequence(model, unpacked), rtol=0, atol=1e-10)
    check_equal(model, free, unpacked, PhantomOptimization())


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("modifiers", ["trol", "phantom", "both"])
def test_on_each_family(make, family, modifiers):
    """Windows of 12 tokens, shorter than most sequences, slide within each sequence alone."""
    model, processor = make(SETS[modifiers], family)
    free, plain = batches(processor, window_tokens=FAMILIES[family].get("sliding_window"), pairs=False)
    torch.testing.assert_close(by_sequence(model, free), by_sequence(model, plain), rtol=0, atol=1e-10)
    check_equal(model, free, plain, Sft())


def test_checkpointed_and_eager(make):
    model, processor = make(SETS["both"])
    free, plain = batches(processor)
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    check_equal(model, free, plain, PhantomOptimization())
    model.gradient_checkpointing_disable()
    model.set_attn_implementation("eager")  # whose softmax is in float32
    torch.testing.assert_close(by_sequence(model, free), by_sequence(model, plain), rtol=0, atol=1e-4)


def test_generation_and_padded_batches_after_it_are_as_before(make):
    model, processor = make(SETS["both"])
    model.eval()
    free, plain = batches(processor)
    before = by_sequence(model, plain)
    inputs = processor("red blue green", return_tensors="pt")
    said = model.generate(**inputs, max_new_tokens=5, do_sample=False)
    by_sequence(model, free)
    assert torch.equal(by_sequence(model, plain), before)
    assert torch.equal(model.generate(**inputs, max_new_tokens=5, do_sample=False), said)


def difference(model, free, plain):
    return (by_sequence(model, free) - by_sequence(model, plain)).abs().max()


def test_one_anchor_for_all_would_be_noticed(make, monkeypatch):
    model, processor = make(SETS["phantom"])
    free, plain = batches(processor)
    # every sequence begins with the same template token: give each first token a state of its own
    for inputs in (free, plain):
        inputs["input_ids"] = inputs["input_ids"].clone()
    starts = [0, *(end for end, _ in free["blocks"][:-1])]
    for row, start in enumerate(starts):
        free["input_ids"][0, start] = plain["input_ids"][row, 0] = 40 + row
    assert difference(model, free, plain) < 1e-10

    def first_anchor_alone(self, kind, states):
        attention = getattr(self._phantom, kind)
        return attention(states, attention.remember(states[:, :, 0]))

    monkeypatch.setattr(phantom.EnlargedCache, "attend", first_anchor_alone)
    assert difference(model, free, plain) > 1e-3


@pytest.mark.parametrize("modifiers", ["plain", "trol", "phantom"])
def test_a_leak_between_blocks_would_be_noticed(make, monkeypatch, modifiers):
    model, processor = make(SETS[modifiers])
    free, plain = batches(processor)

    def leaky(attend, blocks, *states):
        mask = causal_mask(states[0].shape[2], None, states[0])
        return attend(mask, *states)

    monkeypatch.setattr(block_attention, "over_blocks", leaky)
    assert difference(model, free, plain) > 1e-3


def test_positions_that_run_on_would_be_noticed(make):
    # rotary angles are relative: what shows is where a suffix goes on from, so the group that shares a prefix
    model, processor = make(SETS["trol"])
    free, plain = batches(processor)
    running = torch.arange(free["input_ids"].shape[1])[None]
    assert difference(model, free | {"position_ids": running}, plain) > 1e-3


def test_no_block_says_what_the_next_begins_with():
    lines = [Line([5, 6, 7], [-1, -1, 0]), Line([8, 9], [1, 1])]
    row = join([plain_row(line) for line in lines])
    assert row.line.input_ids == [5, 6, 7, 8, 9] and row.line.sequence_ids == [-1, -1, 0, -1, 1]
    assert row.position_ids == [0, 1, 2, 0, 1]


def test_text_alone_has_no_pixels(make):
    model, processor = make(SETS["both"])
    batch = Collator(processor, dtype=torch.float64, padding_free=True)([groups()[1], groups()[3]])
    assert "pixel_values" not in batch and "attention_mask" not in batch
    assert [mask is None for _, mask in batch["blocks"]] == [True, False]  # the second brings a wrong answer
    assert torch.isfinite(token_logprobs(model, batch)).all()


def test_mask_by_hand():
    seen = causal_mask(4, 2, torch.zeros(1)) == 0
    expected = [[1, 0, 0, 0], [1, 1, 0, 0], [0, 1, 1, 0], [0, 0, 1, 1]]
    assert seen[0, 0].int().tolist() == expected


def test_errors(make):
    model, processor = make(SETS["phantom"])
    free, plain = batches(processor)
    with pytest.raises(ValueError, match="expected use_cache=False"):
        model(**model_inputs(free), use_cache=True)
    with pytest.raises(ValueError, match="expected one row"):
        split_blocks(plain["input_ids"][:, None, :], [(3, None)])
    with pytest.raises(ValueError, match="expected one row"):
        model(**model_inputs(free | {"blocks": free["blocks"][:-1]}), use_cache=False)
    other, processor = make(SETS["trol"], "qwen2", layer_types=["full_attention", "linear_attention"])
    with pytest.raises(ValueError, match=r"layers of linear_attention.*padding_free=False"):
        other(**model_inputs(free), use_cache=False)
