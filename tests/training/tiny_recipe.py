"""A recipe that trains in a second: two stages, pictures and text, pairs, and dropout: every state matters."""

from __future__ import annotations

from dataclasses import dataclass

from PIL import Image

from phantrol.data.messages import Example, Message, Rejected
from phantrol.data.mixture import Mixture
from phantrol.losses.phantom_optimization import PhantomOptimization
from phantrol.losses.sft import Sft
from phantrol.modifiers.phantom import PhantomConfig
from phantrol.modifiers.trol import TrolConfig
from phantrol.training.new_model import NewModel, TrainedTokenizer
from phantrol.training.recipe import Recipe, Stage

COLORS = ("red", "green", "blue", "black", "white")


@dataclass(frozen=True)
class Colors:
    """Squares of one color. Each third group is text only."""

    length: int = 11
    name: str = "color"

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> tuple[Example, ...]:
        color, wrong = COLORS[index % 5], COLORS[(index + 1) % 5]
        pictures = () if index % 3 == 2 else (Image.new("RGB", (32, 32), color),)
        asked = (Message("user", (*pictures, f"What color, {index}?")), Message("assistant", (color,)))
        told = (Message("user", (*pictures, "Describe it.")), Message("assistant", (f"It is {color}.",)))
        rejected = (Rejected(wrong, "incorrect"), Rejected(f"{wrong} or {color}", "ambiguous"))[: index % 2 + 1]
        return Example(f"{self.name}-{index}", asked, rejected), Example(f"{self.name}-{index}-told", told)


def recipe() -> Recipe:
    model = NewModel(
        text=dict(
            model_type="llama",
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            tie_word_embeddings=True,
            attention_dropout=0.1,
            vocab_size=300,
        ),
        vision=dict(
            model_type="siglip_vision_model",
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=1,
            num_attention_heads=2,
            image_size=32,
            patch_size=16,
            vision_use_head=False,
        ),
        modifiers=(TrolConfig(), PhantomConfig()),
        tokenizer=TrainedTokenizer(Mixture(((1.0, Colors()),)), groups=11, vocab_size=300),
    )
    data = Mixture(((2.0, Colors()), (1.0, Colors(7, "shade"))))
    align = Stage(
        "align",
        data=data,
        loss=PhantomOptimization(),
        train=("projector.*", "*traversal_gate*", "*.phantom.*"),
        lr=1e-2,
        max_steps=4,
        batch_size=4,
        accumulation=2,
        warmup_steps=1,
    )
    tune = Stage(
        "tune",
        data=data,
        loss=Sft(),
        train=("*",),
        lr=3e-3,
        max_steps=4,
        batch_size=4,
        optimiser="muon",
        weight_decay=0.1,
    )
    return Recipe(model, (align, tune), seed=3, log_every_steps=1, save_every_steps=1, keep_checkpoints=10)
