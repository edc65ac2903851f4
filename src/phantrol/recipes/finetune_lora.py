"""The recipe to copy: adapters teach a model that sees already something of your own, from one file.

    phantrol train finetune_lora model=runs/demo/final data=mine.json images=pics steps=500 --out runs/mine

model   a folder of `phantrol train` or `phantrol convert`, or the name of a release, such as Phantom-0.5B
data    a file of any layout that `phantrol data check` reads;  images  where its paths of pictures start
fields  names of its own fields: question=frage,answer=antwort
together  1, 2, 4 or 8: so many of a step's 8 rows come as one group, about one picture if there are such: it is then
          computed once
kept    so many rows, from the first on, are not learnt: their loss is measured at each checkpoint, of which the best is
        the model
loss    sft, or phantom_optimization or dpo where the rows have wrong answers too (`phantrol data triples`)
"""

from __future__ import annotations

from dataclasses import replace

from phantrol.data.layouts import names_of_own
from phantrol.data.mixture import Mixture
from phantrol.data.sources.file import FileSource
from phantrol.find import find
from phantrol.recipes.papers import groups_of
from phantrol.training.new_model import Lora, SavedModel
from phantrol.training.recipe import HeldOut, Recipe, Stage


def recipe(
    model: str,
    data: str,
    images: str | None = None,
    fields: tuple[str, ...] = (),
    steps: int = 500,
    together: int = 1,
    kept: int = 0,
    loss: str = "sft",
) -> Recipe:
    learnt, held_out = own_rows(data, images, fields, together, kept)
    tune = Stage(
        "tune",
        data=learnt,
        loss=find("losses", loss)(),
        train=("projector.*", "*.lora_?.default.*"),  # PEFT's own: a released TroL's partial LoRA stays as it is
        lr=2e-4,
        warmup_steps=min(20, steps // 10),
        max_steps=steps,
        batch_size=groups_of(8, together),
        held_out=held_out,
    )
    return Recipe(SavedModel(model, lora=Lora(rank=16, alpha=32, targets=("all",))), (tune,), save_every_steps=100)


def own_rows(
    data: str, images: str | None, fields: tuple[str, ...], together: int, kept: int
) -> tuple[Mixture, HeldOut | None]:
    """Return what is learnt of a file, and its first `kept` rows, on which a stage is measured to end with its best
    checkpoint; None where none is kept.

    data, images, fields, together  as in the recipe
    Raises ValueError for fewer rows than 0, and a field that is not NAME=YOURS.
    """
    if kept < 0:
        raise ValueError(f"kept: got {kept}, expected 0 or more rows")
    source = FileSource(data, images, names_of_own(fields), start=kept, together=together)
    learnt = Mixture(((1.0, source),))
    if kept == 0:
        return learnt, None
    first = replace(source, start=0, stop=kept, together=1)
    return learnt, HeldOut(Mixture(((1.0, first),)), groups=kept, take="best")
