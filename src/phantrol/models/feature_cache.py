"""Features of a frozen vision tower on the disk: a tile that was seen once is not sent through the tower again.

FOLDER/TOWER/ab/abcdef....safetensors, one file a tile. TOWER is made of the tower's configuration and of every one of
its numbers; the file's name of the pixels as the tower gets them, so of the picture and of all that was done to it. A
file is written beside and renamed: several ranks may fill one folder. Nothing is ever removed; at the size that was
allowed the folder grows no further, and tiles that are not in it are computed.

Reading gives back the bits that were written. They are those of a run without a cache as far as the tower gives a tile
the same bits whatever other tiles it comes with.

I tiles, S their side, P patches, Dv channels.
"""

from __future__ import annotations

import hashlib
import logging
import os
import uuid
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutput

from phantrol.modifiers.base import mix_in

_log = logging.getLogger("phantrol")


class FeatureCache:
    """The files of one tower, which is looked at when it is first run: until then a checkpoint may still be read.

    folder     shared by all towers and runs
    max_bytes  of all files of this tower, as this process found them and has added to them since
    """

    def __init__(self, folder: str | Path, max_bytes: float):
        self.parent, self.max_bytes = Path(folder), max_bytes
        self.folder: Path | None = None
        self.found = self.computed = 0

    def open(self, tower: nn.Module) -> None:
        """Find the folder of this tower."""
        if self.folder is None:
            self.folder = self.parent / fingerprint(tower)
            self.folder.mkdir(parents=True, exist_ok=True)
            self.num_bytes = sum(path.stat().st_size for path in self.folder.glob("*/*.safetensors"))

    def keys(self, pixel_values: Tensor) -> list[str]:
        """Return a name for each tile, [I]: the sha256 of its pixels and of the precision it is seen in."""
        device = pixel_values.device.type
        precision = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else pixel_values.dtype
        about = f"{precision} {pixel_values.dtype} {list(pixel_values.shape[1:])}".encode()
        tiles = pixel_values.detach().contiguous().cpu().view(torch.uint8).numpy()
        return [hashlib.sha256(about + tile.tobytes()).hexdigest() for tile in tiles]

    def read(self, key: str) -> Tensor | None:
        """Return the features of a tile, [P, Dv], or None if they are not there."""
        path = self._path(key)
        try:
            return load_file(path)["features"]
        except FileNotFoundError:
            return None
        except Exception as error:  # a disk that lost a part of it
            _log.warning("%s cannot be read and is computed again: %s", path, error)
            return None

    def write(self, key: str, features: Tensor) -> None:
        """Keep the features of a tile, [P, Dv], unless the folder is full."""
        if self.num_bytes + features.nbytes > self.max_bytes:
            return
        path = self._path(key)
        path.parent.mkdir(exist_ok=True)
        writing = path.with_name(f".{uuid.uuid4().hex}")
        try:
            save_file({"features": features.detach().cpu().contiguous()}, writing)
            self.num_bytes += writing.stat().st_size
            os.replace(writing, path)
        finally:
            writing.unlink(missing_ok=True)

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.safetensors"


class RememberedTower:
    """Mixed in before a vision tower: what `feature_cache` holds is read, the rest is computed and put there.

    Only features are cached, the last hidden state: a caller who asks for more gets the tower itself.
    """

    feature_cache: FeatureCache | None = None

    def forward(self, pixel_values: Tensor, **kwargs: Any) -> Any:
        cache = self.feature_cache
        if cache is None or kwargs or self.training:
            return super().forward(pixel_values, **kwargs)
        cache.open(self)
        keys = cache.keys(pixel_values)
        known = {key: cache.read(key) for key in keys}
        missing = [number for number, key in enumerate(keys) if known[key] is None]
        cache.found, cache.computed = cache.found + len(keys) - len(missing), cache.computed + len(missing)
        if missing:
            with torch.no_grad():
                computed = super().forward(pixel_values[missing]).last_hidden_state
            for number, features in zip(missing, computed, strict=True):
                cache.write(keys[number], features)
                known[keys[number]] = features
        return BaseModelOutput(last_hidden_state=torch.stack([known[key].to(pixel_values.device) for key in keys]))


def remember_features(tower: nn.Module, cache: FeatureCache | None) -> None:
    """Give a tower a cache, or take it away.

    Raises ValueError if something of the tower is trained: its features would change from step to step.
    """
    if cache is not None and any(parameter.requires_grad for parameter in tower.parameters()):
        raise ValueError(
            "got a feature_cache and a vision tower that is trained, expected a frozen one: leave vision_tower out of "
            "`train`, or leave feature_cache out"
        )
    if cache is not None and not isinstance(tower, RememberedTower):
        mix_in(tower, RememberedTower)
    if isinstance(tower, RememberedTower):
        tower.feature_cache = cache


def fingerprint(tower: nn.Module) -> str:
    """Return a name for a tower: 16 digits of the sha256 of its class, configuration, parameters and buffers."""
    plain = next(kind for kind in type(tower).__mro__ if not kind.__name__.startswith(RememberedTower.__name__))
    digest = hashlib.sha256(f"{plain.__name__} {tower.config.to_json_string(use_diff=False)}".encode())
    for name, tensor in sorted(tower.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.detach().contiguous().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]
