"""A tiny model with both modifiers, its weights scaled up so that a lost state changes the words."""

from __future__ import annotations

import pytest
import torch
from PIL import Image, ImageDraw
from transformers import LlamaConfig, SiglipVisionConfig

import phantrol
from phantrol.inference.engine import Engine
from phantrol.models.tokenizer import train_tokenizer


def _build_engine(seed: int = 0, **text_options) -> Engine:
    torch.manual_seed(seed)
    text = LlamaConfig(
        vocab_size=8,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        **text_options,
    )
    vision = SiglipVisionConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=2, image_size=32, patch_size=8
    )
    vision.vision_use_head = False
    # many made-up words, so that what random weights say is mostly words and not bytes
    words = [a + b + c for a in "bdfgklmn" for b in ("a", "e", "i", "o", "oo") for c in "lmnprst"]
    tokenizer = train_tokenizer([" ".join(words), "What color is the circle?", "é 漢字"] * 4, 700)
    modifiers = [phantrol.TrolConfig(gate_bias=0.2), phantrol.PhantomConfig(init="random")]
    model, processor = phantrol.build(text, vision, modifiers, tokenizer=tokenizer)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.4 * torch.randn_like(parameter))
    return Engine(model, processor)


@pytest.fixture(scope="session")
def build_engine():
    return _build_engine


@pytest.fixture(scope="session")
def engine() -> Engine:
    return _build_engine()


@pytest.fixture(scope="session")
def chats() -> list[list[dict]]:
    """Text alone, one picture, several pictures, several turns; short and long, in no order."""

    def picture(colour: str, size: tuple[int, int] = (40, 20)) -> Image.Image:
        image = Image.new("RGB", size, colour)
        ImageDraw.Draw(image).ellipse((5, 5, 18, 15), fill="white")
        return image

    def ask(*parts) -> dict:
        content = [{"type": "text", "text": p} if isinstance(p, str) else {"type": "image", "image": p} for p in parts]
        return {"role": "user", "content": content}

    return [
        [ask(picture("red"), "What color is the circle?")],
        [ask("a red circle")],
        [
            ask(picture("blue"), "What?"),
            {"role": "assistant", "content": "a small blue star"},
            ask("What color is it?"),
        ],
        [ask(picture("green"), "and", picture("yellow", (20, 50)), "a star or a circle?" * 4)],
        [{"role": "system", "content": "a large star"}, {"role": "user", "content": "What?"}],
        [ask(picture("black"), "a?"), {"role": "assistant", "content": "red"}, ask(picture("white"), "What color?")],
        [ask("What is the circle? " * 6)],
    ]
