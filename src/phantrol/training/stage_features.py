"""The feature cache of a stage, which the vision tower has for as long as the stage lasts."""

from __future__ import annotations

from torch import Tensor, nn

from phantrol.models.feature_cache import FeatureCache, remember_features
from phantrol.training.checkpoint import naming_a_full_disk
from phantrol.training.recipe import Stage
from phantrol.training.trainable import vision_towers


class StageFeatures(FeatureCache):
    """A FeatureCache that stops a run as a checkpoint would, with ValueError, when the disk is full."""

    def write(self, key: str, features: Tensor) -> None:
        with naming_a_full_disk(self._path(key)):
            super().write(key, features)


def give_feature_cache(model: nn.Module, stage: Stage) -> None:
    """Give the vision tower the stage's cache, or take away that of the stage before.

    Raises ValueError if the tower is trained.
    """
    for tower in vision_towers(model):
        cache = StageFeatures(stage.feature_cache, stage.feature_cache_gb * 1e9) if stage.feature_cache else None
        remember_features(tower, cache)
