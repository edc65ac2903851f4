from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from PIL import Image

import phantrol
from phantrol.data.collate import Collator
from phantrol.data.messages import Example, Message, Rejected
from phantrol.data.packing import Line, pack, runs, visible
from phantrol.losses.base import token_logprobs
from phantrol.losses.phantom_optimization import PhantomOptimization
from phantrol.models.tokenizer import train_tokenizer
from phantrol.ops.blocks import additive

TEXTS = ["What color is the circle?", "red blue green", "a large red circle and a small blue star"] * 4
IMAGE = 9


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(TEXTS, 320)


@pytest.fixture(scope="module", params=["plain", "trol", "trol, prompt", "phantom", "trol and phantom"])
def model_and_processor(request, tiny_model, tokenizer):
    modifiers = {
        "plain": [],
        "trol": [phantrol.TrolConfig(gate_bias=0.2)],
        "trol, prompt": [phantrol.TrolConfig(gate_bias=0.2, tokens="prompt")],
        "phantom": [phantrol.PhantomConfig(init="random")],
        "trol and phantom": [phantrol.TrolConfig(gate_bias=0.2), phantrol.PhantomConfig(init="random")],
    }
    return tiny_model(tokenizer, modifiers[request.param], dtype=torch.float64)


def picture(color="red"):
    image = Image.new("RGB", (40, 32), color)
    image.paste("blue", (3, 5, 20, 17))
    return image


def example(name, *turns, picture=None, rejected=()):
    """turns: question, answer, question, answer ...; the picture comes before the first question."""
    messages = []
    for number, text in enumerate(turns):
        parts = (text,) if picture is None or number else (picture, text)
        messages.append(Message(("user", "assistant")[number % 2], parts))
    return Example(name, tuple(messages), tuple(Rejected(text, kind) for text, kind in rejected))


def groups():
    seen, other = picture(), picture("green")
    wrong = (("blue", "incorrect"), ("red or green, or so", "ambiguous"))
    return [
        (
            example("color", "What color is the circle?", "red", picture=seen, rejected=wrong),
            example("what", "What is it?", "a large red circle", picture=seen),
            example("twice", "What?", "a star", "What color is it?", "blue", picture=seen, rejected=wrong[:1]),
        ),
        (example("alone", "What color is the star?", "blue", picture=other, rejected=wrong[1:]),),
        (example("text", "red blue", "green"), example("text too", "red red green", "blue", rejected=wrong[:1])),
        (example("a", "What?", "red", picture=seen), example("b", "What?", "green", picture=other)),  # two pictures
    ]


def by_sequence(model, batch):
    """Log-probabilities of each token, sequence after sequence: the same however the sequences lie in rows."""
    logprobs = token_logprobs(model, batch)
    return logprobs[torch.argsort(batch["sequence_ids"], stable=True)]


def test_packed_equals_unpacked(model_and_processor):
    model, processor = model_and_processor
    packed, plain = (Collator(processor, pack=p, dtype=torch.float64)(groups()) for p in (True, False))
    assert packed["attention_mask"].ndim == 4 and plain["attention_mask"].ndim == 2
    assert (packed["input_ids"] != 0).sum() < (plain["input_ids"] != 0).sum()
    assert packed["pixel_values"].shape[0] == packed["num_pictures"] == 4 and plain["num_pictures"] == 10
    torch.testing.assert_close(by_sequence(model, packed), by_sequence(model, plain), rtol=0, atol=1e-10)
    loss = PhantomOptimization()
    totals = loss.count(packed)
    assert totals == loss.count(plain)
    one, other = loss(model, packed, totals).loss, loss(model, plain, totals).loss
    assert abs(one - other) < 1e-10
    parameters = list(model.parameters())
    gradients = [torch.autograd.grad(value, parameters, allow_unused=True) for value in (one, other)]
    for a, b in zip(*gradients, strict=True):  # not to 1e-10: llama's norms are in float32
        assert (a is None and b is None) or torch.allclose(a, b, rtol=1e-5, atol=1e-6)


def test_a_mask_that_lets_suffixes_see_each_other_would_be_noticed(model_and_processor):
    model, processor = model_and_processor
    packed, plain = (Collator(processor, pack=p, dtype=torch.float64)(groups()) for p in (True, False))
    leaky = torch.full_like(packed["attention_mask"], torch.finfo(torch.float64).min).triu(1)
    leaky = by_sequence(model, packed | {"attention_mask": leaky})
    assert (leaky - by_sequence(model, plain)).abs().max() > 1e-3


def test_positions_that_run_on_would_be_noticed(model_and_processor):
    model, processor = model_and_processor
    packed = Collator(processor, dtype=torch.float64)(groups())
    running = torch.arange(packed["input_ids"].shape[1]).expand_as(packed["input_ids"])
    assert (by_sequence(model, packed) - by_sequence(model, packed | {"position_ids": running})).abs().max() > 1e-3


def test_padding_changes_nothing(model_and_processor):
    model, processor = model_and_processor
    collate = Collator(processor, dtype=torch.float64)
    together = by_sequence(model, collate(groups()))
    alone = torch.cat([by_sequence(model, collate([group])) for group in groups()])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-10)


@pytest.mark.parametrize("implementation, tolerance", [("sdpa", 1e-10), ("eager", 1e-5)])
def test_packed_equals_unpacked_on_each_attention(tiny_model, tokenizer, implementation, tolerance):
    """Eager attention of transformers takes the softmax in float32, whatever the dtype of the model."""
    model, processor = tiny_model(tokenizer, [phantrol.PhantomConfig(init="random")], dtype=torch.float64)
    model.set_attn_implementation(implementation)
    packed, plain = (Collator(processor, pack=p, dtype=torch.float64)(groups()) for p in (True, False))
    torch.testing.assert_close(by_sequence(model, packed), by_sequence(model, plain), rtol=0, atol=tolerance)


def test_a_sliding_window_keeps_long_batches_unpacked(tiny_model, tokenizer):
    window = dict(use_sliding_window=True, sliding_window=24, max_window_layers=0)
    window["layer_types"] = ["sliding_attention"] * 2
    model, processor = tiny_model(tokenizer, [], "qwen2", dtype=torch.float64, **window)
    plain = Collator(processor, pack=False, dtype=torch.float64)(groups())
    guarded = Collator(processor, dtype=torch.float64, window_tokens=24)(groups())
    assert guarded["attention_mask"].ndim == 2
    torch.testing.assert_close(by_sequence(model, guarded), by_sequence(model, plain), rtol=0, atol=1e-10)
    blind = Collator(processor, dtype=torch.float64)(groups())
    assert (by_sequence(model, blind) - by_sequence(model, plain)).abs().max() > 1e-3
    assert Collator(processor, window_tokens=1000)(groups())["attention_mask"].ndim == 4


def test_the_longest_sequence_counts_be_it_a_rejected_one():
    def encode(chat):
        """A token a letter; the last message is the answer."""
        *_, answer = texts = ["".join(part["text"] for part in message["content"]) for message in chat]
        ids = [ord(letter) for letter in "".join(texts)]
        begin = len(ids) - len(answer)
        is_answer = [i >= begin for i in range(len(ids))]
        return SimpleNamespace(input_ids=ids, answer_mask=is_answer, last_answer=begin, pixel_values=None)

    tokenizer = SimpleNamespace(pad_token_id=0)
    processor = SimpleNamespace(image_processor=None, image_token_id=IMAGE, tokenizer=tokenizer, encode=encode)
    group = (example("where", "Where?", "In.", rejected=[("Out there", "incorrect")]),)
    longest = len("Where?Out there")
    for window, num_rows in ((longest, 1), (longest - 1, 2)):
        assert len(Collator(processor, window_tokens=window, max_tokens=longest)([group])["input_ids"]) == num_rows
    with pytest.raises(ValueError, match=f"example where: got {longest} tokens, expected at most {longest - 1}"):
        Collator(processor, max_tokens=longest - 1)([group])


def line(text, answer_from, sequence=0, pixels=None):
    """A line of one-letter tokens, `#` for an image token; from `answer_from` on it is to be predicted."""
    ids = [IMAGE if letter == "#" else ord(letter) for letter in text]
    return Line(ids, [sequence if i >= answer_from else -1 for i in range(len(ids))], pixels, int(pixels is not None))


PIXELS = torch.rand(1, 3, 2, 2)


def test_pack_by_hand():
    (row,) = pack([line("s##qa?XY", 6, 0, PIXELS), line("s##qb?Z", 6, 1, PIXELS.clone())], IMAGE)
    assert "".join("#" if i == IMAGE else chr(i) for i in row.line.input_ids) == "s##qa?XYb?Z"
    assert row.segments == [0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2]
    assert row.position_ids == [0, 1, 2, 3, 4, 5, 6, 7, 4, 5, 6]
    assert row.line.sequence_ids == [-1] * 6 + [0, 0] + [-1] * 2 + [1]
    assert row.line.pixel_values is not None and row.line.num_pictures == 1


def test_the_last_token_before_an_answer_is_repeated():
    # the answers share their first letter, and "?" predicts it in each
    (row,) = pack([line("##q?XY", 4, 0, PIXELS), line("##q?XZ", 4, 1, PIXELS)], IMAGE)
    assert row.segments == [0, 0, 0, 1, 1, 1, 2, 2, 2]


@pytest.mark.parametrize(
    "lines",
    [
        [line("##q?X", 4, 0, PIXELS)],  # alone
        [line("##q?X", 4, 0, PIXELS), line("##q?Y", 4, 1, PIXELS + 1)],  # two pictures
        [line("##q?X", 4, 0, PIXELS), line("##q?Y", 4, 1, torch.rand(2, 3, 2, 2))],
        [line("sa##?X", 5, 0, PIXELS), line("sb##?Y", 5, 1, PIXELS)],  # the pictures come after what differs
        [line("##q?X#?Y", 4, 0, PIXELS), line("##q?Z", 4, 1, PIXELS)],  # a later picture
        [line("##?X", 3, 0, PIXELS), line("s?Y", 2, 1)],  # one without picture
        [line("aX", 1, 0), line("aY", 1, 1)],  # nothing before the last token of the question
        [line("ab?X", 3, 0), line("bb?Y", 3, 1)],  # not even the first token: the anchor would differ
    ],
)
def test_what_cannot_be_shared_has_rows_of_its_own(lines):
    rows = pack(lines, IMAGE)
    assert [row.line for row in rows] == lines
    assert not any(row.is_packed for row in rows)


def test_text_shares_too():
    (row,) = pack([line("sys?X", 4, 0), line("syt?YY", 4, 1)], IMAGE)
    assert row.is_packed and row.line.pixel_values is None and row.line.num_pictures == 0


@pytest.mark.parametrize(("other", "num_runs"), [("abcdWXYZ", 1), ("abcVWXYZ", 2), ("abcVWXYZabcd", 2), ("abcV12", 1)])
def test_examples_of_text_alone_share_if_half_of_the_shorter_is_the_same(other, num_runs):
    assert len(runs([[line("abcdefgh", 7)], [line(other, len(other) - 1)]])) == num_runs


def test_mask_by_hand():
    segments = torch.tensor([[0, 1, 1, 2, -1]])
    expected = torch.tensor(
        [[1, 0, 0, 0, 0], [1, 1, 0, 0, 0], [1, 1, 1, 0, 0], [1, 0, 0, 1, 0], [1, 0, 0, 0, 1]], dtype=torch.bool
    )
    assert torch.equal(visible(segments), expected[None, None])
    mask = additive(visible(segments), torch.bfloat16)
    assert mask.dtype == torch.bfloat16 and torch.isfinite(mask).all()
    assert torch.equal(mask == 0, expected[None, None])


def test_sequences_and_pairs_by_hand(model_and_processor):
    _, processor = model_and_processor
    batch = Collator(processor)(groups())
    # color 0 (rejected 1, 2); what 3; twice 4, its earlier answer 5 (rejected 6); alone 7 (8); text 9; text too 10 (11)
    assert batch["chosen"].tolist() == [0, 0, 4, 7, 10]
    assert batch["rejected"].tolist() == [1, 2, 6, 8, 11]
    assert batch["rejected_kind"].tolist() == [0, 1, 0, 1, 0]
    assert batch["num_sequences"] == 14 and sorted(set(batch["sequence_ids"].tolist())) == list(range(14))
    assert batch["example_ids"] == ["color", "what", "twice", "alone", "text", "text too", "a", "b"]
    labelled = batch["labels"][:, 1:][batch["labels"][:, 1:] != -100]
    spoken = {n: processor.tokenizer.decode(labelled[batch["sequence_ids"] == n]) for n in range(14)}
    assert [spoken[n].removesuffix("<|end|>").strip() for n in (0, 1, 2, 3, 4, 5, 6)] == [
        "red", "blue", "red or green, or so", "a large red circle", "blue", "a star", "blue"
    ]  # fmt: skip
    assert all(text.endswith("<|end|>") for text in spoken.values())


def test_without_pairs_nothing_is_rejected(model_and_processor):
    _, processor = model_and_processor
    batch = Collator(processor, pairs=False)(groups())
    assert len(batch["chosen"]) == len(batch["rejected"]) == 0 and batch["num_sequences"] == 8
    assert set(batch["sequence_ids"].tolist()) == set(range(8))


def test_text_only_batches_have_no_pixels(model_and_processor):
    model, processor = model_and_processor
    batch = Collator(processor, dtype=torch.float64)([groups()[2]])
    assert "pixel_values" not in batch and batch["num_pictures"] == 0
    assert torch.isfinite(token_logprobs(model, batch)).all()


def test_a_picture_is_cut_into_tiles_once_a_group(model_and_processor, tmp_path, monkeypatch):
    _, processor = model_and_processor
    picture().save(tmp_path / "seen.png")
    image_processor, calls = processor.image_processor, []
    monkeypatch.setattr(processor, "image_processor", lambda pictures: calls.append(1) or image_processor(pictures))
    pairs = (("blue", "incorrect"),)
    for seen in (picture(), tmp_path / "seen.png"):
        calls.clear()
        batch = Collator(processor)(
            [(example("a", "What?", "red", picture=seen, rejected=pairs), example("b", "Who?", "I", picture=seen))]
        )
        assert len(calls) == 1 and batch["pixel_values"].shape[0] == 1


def test_an_example_without_an_answer_is_named():
    mute = SimpleNamespace(
        image_processor=None,
        image_token_id=IMAGE,
        encode=lambda chat: SimpleNamespace(input_ids=[1, 2], answer_mask=[True, False], pixel_values=None),
    )
    with pytest.raises(ValueError, match="example silent: got no token"):
        Collator(mute)([(example("silent", "What?", "red"),)])
