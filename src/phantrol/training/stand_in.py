"""A small model in the place of one that would have to be downloaded: the same kinds of parts, stages and adapters."""

from __future__ import annotations

from dataclasses import dataclass, replace
from random import Random

from PIL import Image

from phantrol.data.messages import Example, Message, Rejected
from phantrol.data.mixture import NEVER_USED_UP, Group, Mixture
from phantrol.models.released.base_parts import BasePart
from phantrol.training.new_model import NewModel, TrainedTokenizer
from phantrol.training.recipe import Recipe

COLORS = ("red", "green", "blue", "black", "white")
IMAGE_PX, RANK = 28, 4  # of a small model


@dataclass(frozen=True)
class MadeUp:
    """Groups of two examples about a picture of noise, with a wrong answer each."""

    def __len__(self) -> int:
        return NEVER_USED_UP

    def __getitem__(self, index: int) -> Group:
        picture = Image.frombytes("RGB", (32, 32), Random(index).randbytes(32 * 32 * 3))
        color, other = COLORS[index % len(COLORS)], COLORS[(index + 1) % len(COLORS)]
        wrong = (Rejected(other, "incorrect"), Rejected(f"{color} or {other}", "ambiguous"))
        questions = (Message("user", (picture, text)) for text in ("What color is it?", "What is it?"))
        answer = Message("assistant", (color,))
        return tuple(Example(f"made-up-{index}-{i}", (q, answer), wrong) for i, q in enumerate(questions))


def stand_in(recipe: Recipe) -> Recipe | None:
    """Return the recipe with small parts drawn at random in the place of those on the hub, adapters of a small rank and
    micro-batches of one group; None if none of its parts would be downloaded."""
    model = recipe.model
    if not (isinstance(model, NewModel) and isinstance(model.text, BasePart) and isinstance(model.vision, BasePart)):
        return None
    small = replace(
        model,
        text=model.text.small(),
        vision=model.vision.small(),
        tokenizer=TrainedTokenizer(Mixture(((1.0, MadeUp()),)), groups=10, vocab_size=300),
        options={**model.options, "image_px": IMAGE_PX},
        lora=None if model.lora is None else replace(model.lora, rank=RANK, alpha=RANK),
    )
    stages = tuple(replace(stage, batch_size=stage.accumulation) for stage in recipe.stages)
    return replace(recipe, model=small, stages=stages)
