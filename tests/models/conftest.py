"""A tiny model of every part, drawn at random, for tests of the model floor."""

import copy

import pytest
from PIL import Image
from transformers import LlamaConfig

import phantrol
from phantrol.models.configuration import StemVisionConfig
from phantrol.models.tokenizer import train_tokenizer

TEXTS = ["What color is the circle?", "red blue green", "a large red circle and a small blue star"] * 4


@pytest.fixture(scope="session")
def tokenizer():
    return train_tokenizer(TEXTS, 320)


@pytest.fixture
def parts(tokenizer):
    """(text configuration, vision configuration, tokenizer), fresh ones: building writes into the tokenizer."""
    text = LlamaConfig(
        vocab_size=8,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=True,
    )
    vision = StemVisionConfig(
        image_size=32, stem=[[8, 3, 2, 1], [16, 3, 2, 1], [32, 3, 2, 1]], num_hidden_layers=1, num_attention_heads=2
    )
    return text, vision, copy.deepcopy(tokenizer)


@pytest.fixture
def model_and_processor(tiny_model, tokenizer):
    return tiny_model(tokenizer, [phantrol.TrolConfig(gate_bias=0.2), phantrol.PhantomConfig(init="random")])


@pytest.fixture
def picture():
    return Image.new("RGB", (40, 20), "red")


@pytest.fixture(scope="session")
def chat():
    """A function that makes a conversation: a question of texts and pictures, and perhaps its answer."""

    def make(*parts, answer=None):
        content = [{"type": "text", "text": p} if isinstance(p, str) else {"type": "image", "image": p} for p in parts]
        question = [{"role": "user", "content": content}]
        return question + ([{"role": "assistant", "content": answer}] if answer else [])

    return make
