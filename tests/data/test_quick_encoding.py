"""Words that are tokenized once give the ids of whole texts, or texts are tokenized whole."""

from __future__ import annotations

from random import Random

import pytest
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from phantrol.data import quick_encoding
from phantrol.data.quick_encoding import QuickEncoder

WORDS = [
    "What",
    "color",
    "is",
    "the",
    "cat",
    "don't",
    "e.g.",
    "(see",
    "it)",
    "1,000",
    "x2",
    "Ärger",
    "中文",
    "e\u0301",
    "A",
]
BETWEEN = [" ", " ", " ", "  ", "\n", " \n", "\t", "", ". ", ", ", "! ", "<end>", "<end> ", " <end>", "\u00a0"]
GPT4 = r"(?i:'s|'t)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
BYTES = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
CUTTING = {
    "gpt 2": (pre_tokenizers.ByteLevel(add_prefix_space=False), None),
    "a space before all": (pre_tokenizers.ByteLevel(add_prefix_space=True), None),
    "gpt 4": (pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(GPT4), "isolated"), BYTES]), normalizers.NFC()),
    "digits": (pre_tokenizers.Sequence([pre_tokenizers.Digits(True), pre_tokenizers.ByteLevel(False)]), None),
    "sentencepiece": (pre_tokenizers.Metaspace(prepend_scheme="first"), None),
}
steps = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
WHOLE = {"no words": (BYTES, None), "no cuts at all": (None, steps)}


def texts(count: int, seed: int = 0) -> list[str]:
    draw = Random(seed)
    return ["".join(draw.choice(WORDS) + draw.choice(BETWEEN) for _ in range(20)) for _ in range(count)]


def train(pre_tokenizer, normalizer, end="<end>", **options) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer, tokenizer.normalizer = pre_tokenizer, normalizer
    alphabet = sorted({*pre_tokenizers.ByteLevel.alphabet(), "▁"})
    trainer = trainers.BpeTrainer(
        vocab_size=500, special_tokens=["<unk>"], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts(300, seed=1), trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>")
    fast.add_tokens([AddedToken(end, normalized=False, **options)], special_tokens=True)
    return fast


def differ(encoder: QuickEncoder, tokenizer: PreTrainedTokenizerFast) -> int:
    return sum(encoder._plain(text) != tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts(300))


@pytest.mark.parametrize("strips", [False, True])
@pytest.mark.parametrize("name", CUTTING)
def test_words_give_the_ids_of_the_whole(name, strips, monkeypatch):
    monkeypatch.setattr(quick_encoding, "MAX_WORDS", 50)  # and forgetting some does not matter
    tokenizer = train(*CUTTING[name], lstrip=strips, rstrip=strips)
    encoder = QuickEncoder(tokenizer)
    assert encoder.cuts and not differ(encoder, tokenizer)
    assert 0 < len(encoder._words) <= 50


@pytest.mark.parametrize("name", WHOLE)
def test_a_tokenizer_that_does_not_cut_there_gets_whole_texts(name):
    encoder = QuickEncoder(tokenizer := train(*WHOLE[name]))
    assert not encoder.cuts and not differ(encoder, tokenizer)
    encoder.cuts = True
    assert differ(encoder, tokenizer) > 100  # so it is right to ask


@pytest.mark.parametrize("end", ["cat is", "is", " the"])
def test_added_tokens_that_reach_across_a_cut(end):
    encoder = QuickEncoder(tokenizer := train(*CUTTING["gpt 2"], end=end, lstrip=True))
    assert not encoder.cuts and not differ(encoder, tokenizer)
