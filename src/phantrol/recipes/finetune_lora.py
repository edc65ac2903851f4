"""The recipe to copy: adapters teach a model that sees already something of your own, from one file.

    phantrol train finetune_lora model=runs/demo/final data=mine.json images=pics steps=500 --out runs/mine

model   a folder of `phantrol train` or `phantrol convert`, or the name of a release, such as Phantom-0.5B
data    a file of any layout that `phantrol data check` reads;  images  where its paths of pictures start
together  so many of a step's 8 rows come as one group, about one picture if there are such: it is then computed once
"""

from __future__ import annotations

from phantrol.data.mixture import Mixture
from phantrol.data.sources.file import FileSource
from phantrol.losses.sft import Sft
from phantrol.training.new_model import Lora, SavedModel
from phantrol.training.recipe import Recipe, Stage


def recipe(model: str, data: str, images: str | None = None, steps: int = 500, together: int = 1) -> Recipe:
    tune = Stage(
        "tune",
        data=Mixture(((1.0, FileSource(data, images=images, together=together)),)),
        loss=Sft(),
        train=("projector.*", "*lora_*"),
        lr=2e-4,
        warmup_steps=min(20, steps // 10),
        max_steps=steps,
        batch_size=max(1, 8 // together),  # groups
    )
    return Recipe(SavedModel(model, lora=Lora(rank=16, alpha=32, targets=("all",))), (tune,), save_every_steps=100)
