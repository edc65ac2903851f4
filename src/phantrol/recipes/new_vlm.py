"""The recipe to copy for a new model: a decoder and a vision tower, both pretrained, become one that looks twice.

    phantrol train new_vlm text=DECODER vision=TOWER data=mine.json images=pics --out runs/new

text, vision  folders or hub ids; for a decoder whose tokenizer has no chat template, model.tokenizer=FOLDER of one
              that has
method        both, trol, phantom or plain
align_steps   in which the projector learns, and what the method adds;  steps  with adapters on the decoder too
data, images, fields, together, kept  as in finetune_lora
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from phantrol.losses.sft import Sft
from phantrol.modifiers.phantom import PhantomConfig
from phantrol.modifiers.trol import TrolConfig
from phantrol.recipes.finetune_lora import own_rows
from phantrol.recipes.papers import groups_of
from phantrol.training.new_model import Lora, NewModel
from phantrol.training.recipe import Recipe, Stage

TROL, PHANTOM = (TrolConfig(), "*traversal_gate*"), (PhantomConfig(), "*.phantom.*")
METHODS = {"plain": (), "trol": (TROL,), "phantom": (PHANTOM,), "both": (TROL, PHANTOM)}


def recipe(
    text: str,
    vision: str,
    data: str,
    images: str | None = None,
    fields: tuple[str, ...] = (),
    method: Literal["plain", "trol", "phantom", "both"] = "both",
    align_steps: int = 500,
    steps: int = 1000,
    together: int = 1,
    kept: int = 0,
) -> Recipe:
    added, (learnt, held_out) = METHODS[method], own_rows(data, images, fields, together, kept)
    align = Stage(
        "align",
        data=learnt,
        loss=Sft(),
        train=("projector.*", *(pattern for _, pattern in added)),
        lr=1e-3,
        warmup_steps=min(20, align_steps // 10),
        max_steps=align_steps,
        batch_size=groups_of(8, together),
    )
    tune = replace(
        align,
        name="tune",
        train=(*align.train, "*lora_*"),
        lr=2e-4,
        warmup_steps=min(20, steps // 10),
        max_steps=steps,
        held_out=held_out,
    )
    lora = Lora(rank=16, alpha=32, targets=("all",))
    model = NewModel(text, vision, tuple(config for config, _ in added), lora=lora)
    return Recipe(model, (align, tune), save_every_steps=100)
