"""What was asked, and who was asked, as sha256: of a prompt with its pictures, of weights, of settings."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError
from PIL import Image

from phantrol.models.conversation import parts_of, picture_of
from phantrol.whole_files import checksum

BLOCK = 2**22  # bytes that are read at once
SETTINGS = (
    "config.json",
    "generation_config.json",
    "processor_config.json",
    "preprocessor_config.json",
    "chat_template.jinja",
    "tokenizer.json",
    "tokenizer_config.json",
)


def prompt_sha256(chat: Sequence[Mapping[str, Any]]) -> str:
    """Return the hash of a chat: roles, texts and the pictures themselves, whatever their files are called.

    Raises ValueError if a picture's file cannot be read.
    """
    said = [[message["role"], [_part(part) for part in parts_of(message)]] for message in chat]
    return hashlib.sha256(json.dumps(said, ensure_ascii=False).encode()).hexdigest()


def picture_sha256(picture: Any) -> str:
    """Return the hash of a file's bytes, or of the pixels of a picture in memory.

    Raises ValueError if the file cannot be read.
    """
    if isinstance(picture, Image.Image):
        return hashlib.sha256(repr((picture.mode, picture.size)).encode() + picture.tobytes()).hexdigest()
    if isinstance(picture, bytes):
        return hashlib.sha256(picture).hexdigest()
    try:
        return checksum(Path(picture))
    except OSError as error:
        raise ValueError(f"picture {picture}: {error.strerror or error}") from None


def weights_sha256(model: Any) -> str:
    """Return the hash of a model's weights: of its safetensors files, or of its tensors if it has none.

    The files are read one after the other, by name: `cat model*.safetensors | sha256sum` gives the same. They are read
    each time, since size and time of a file do not say what is in it.
    """
    folder = _folder(model)
    files = sorted(folder.glob("*.safetensors")) if folder else []
    if files:
        return files_sha256(files)
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def settings_sha256(model: Any) -> str | None:
    """Return the hash of the files that decide what a model reads and how it answers: tokenizer, chat template, sizes.

    None for a model that was built in memory.
    """
    folder = _folder(model)
    if folder is None:
        return None
    found = [(name, picture_sha256(folder / name)) for name in SETTINGS if (folder / name).is_file()]
    return texts_sha256(f"{name} {sha256}" for name, sha256 in found)


def files_sha256(paths: Iterable[Path]) -> str:
    """Return the hash of files one behind the other, as `cat FILES | sha256sum` gives it."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            while block := file.read(BLOCK):
                digest.update(block)
    return digest.hexdigest()


def texts_sha256(texts: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()


def _part(part: Mapping[str, Any]) -> list[str]:
    if part["type"] == "text":
        return ["text", part["text"]]
    return ["image", picture_sha256(picture_of(part))]


def _folder(model: Any) -> Path | None:
    """Return where a model was loaded from: a folder, or the snapshot of a hub id on this machine."""
    name = getattr(model.config, "_name_or_path", "")
    if not name:
        return None
    if Path(name).is_dir():
        return Path(name)
    try:
        return Path(snapshot_download(name, local_files_only=True))
    except (HFValidationError, LocalEntryNotFoundError):
        return None
