"""A tiny model with both modifiers, its weights scaled up so that a lost state changes the words."""

from __future__ import annotations

import pytest
from PIL import Image, ImageDraw

import phantrol
from phantrol.inference.engine import Engine
from phantrol.models.tokenizer import train_tokenizer


@pytest.fixture(scope="session")
def build_engine(tiny_model):
    """A function that makes an engine; its options are those of `tiny_model`, and `tokens` of TrolConfig."""
    # many made-up words, so that what random weights say is mostly words and not bytes
    words = [a + b + c for a in "bdfgklmn" for b in ("a", "e", "i", "o", "oo") for c in "lmnprst"]
    tokenizer = train_tokenizer([" ".join(words), "What color is the circle?", "é 漢字"] * 4, 700)

    def build(tokens: str = "all", **options) -> Engine:
        modifiers = [phantrol.TrolConfig(tokens=tokens, gate_bias=0.2), phantrol.PhantomConfig(init="random")]
        return Engine(*tiny_model(tokenizer, modifiers, noise=0.4, **options))

    return build


@pytest.fixture(scope="session")
def engine(build_engine) -> Engine:
    return build_engine()


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
