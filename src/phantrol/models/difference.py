"""A model as its difference from a decoder that a Python package carries: megabytes where the whole takes hundreds.

FOLDER/difference.safetensors   what the decoder does not have, as it is, and what is added to the tensors that it has:
                                NAME.up [out, r] and NAME.down [r, in], or NAME.rows [n, in] after its last row
FOLDER/decoder.json             the decoder's package and file, and the file's checksum
FOLDER/...                      all that a saved model has beside its weights

`phantrol.load` opens such a folder: the whole model is put together in the cache at the first call, and anew where a
file of the folder has changed since.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from phantrol.cached import written_once
from phantrol.models.packaged import PackagedDecoder
from phantrol.whole_files import checksum

DIFFERENCE, DECODER = "difference.safetensors", "decoder.json"
PREFIX = "language_model."  # of the decoder's tensors in a phantrol model
OF_WEIGHTS = ("*.safetensors", "*.safetensors.index.json", "manifest.json")  # the last holds their checksums
LEFT_OUT = 1e-4  # of an update's norm: what merging rounded away, in float32


def save_difference(model: Path, out: Path) -> Path:
    """Write a saved model as its difference, in bfloat16.

    model  a folder with weights in float32, made from the packaged decoder by adapters and further parts
    out    a folder that does not exist yet
    Raises ValueError if the model has no tensor of the decoder's, or `out` exists.
    """
    decoder = PackagedDecoder()
    if out.exists():
        raise ValueError(f"{out} exists: choose another folder, or remove it")
    base = {PREFIX + name: tensor for name, tensor in _weights(decoder.folder()).items()}
    tensors = _weights(model)
    if not base.keys() & tensors.keys():
        raise ValueError(f"{model} has no tensor of {decoder.package}: expected a model that was made from it")
    found: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        found |= _difference(name, tensor, base.get(name))
    beside = out.with_name(f"{out.name}.writing")
    shutil.rmtree(beside, ignore_errors=True)
    shutil.copytree(model, beside, ignore=shutil.ignore_patterns(*OF_WEIGHTS))
    save_file({name: part.bfloat16().contiguous() for name, part in found.items()}, beside / DIFFERENCE)
    described = {**asdict(decoder), "sha256": checksum(decoder.source())}
    (beside / DECODER).write_text(json.dumps(described, indent=2) + "\n", "utf-8")
    beside.rename(out)
    return out


def whole_model(folder: Path) -> Path:
    """Return the folder of the whole model: `folder` itself, or one in the cache, put together once for what it holds.

    Raises ValueError if the decoder's package is not installed, or carries another file, or one of `folder` is broken.
    """
    if not (folder / DECODER).is_file():
        return folder
    described = _described(folder / DECODER)
    expected = described.pop("sha256")
    decoder = PackagedDecoder(**described)
    got = checksum(decoder.source())
    if got != expected:
        raise ValueError(
            f"{decoder.package} carries another {decoder.file} than {folder.name} was made from (sha256 {got[:12]}, "
            f"expected {expected[:12]}): install the version that its card names"
        )

    def put_together(whole: Path) -> None:
        shutil.copytree(folder, whole, ignore=shutil.ignore_patterns(DIFFERENCE, DECODER))
        base = {PREFIX + name: tensor for name, tensor in _weights(decoder.folder()).items()}
        difference = _difference_in(folder)
        try:
            tensors = _sum(base, difference)
        except (KeyError, RuntimeError) as error:  # no such part, or sizes that do not fit
            fault = f"{type(error).__name__}: {error}"
            raise ValueError(f"{folder / DIFFERENCE} does not fit {decoder.file}: {fault}; copy it again") from None
        save_file(tensors, whole / "model.safetensors", {"format": "pt"})

    return written_once(f"{folder.resolve().name}-{_fingerprint(folder)[:12]}", put_together)


def _described(path: Path) -> dict[str, Any]:
    """Return what `save_difference` wrote of the decoder: the fields of PackagedDecoder, and "sha256"."""
    wanted = {"sha256", *asdict(PackagedDecoder())}
    try:
        read = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is broken: {error}; copy it again") from None
    if not isinstance(read, dict) or read.keys() != wanted or not all(isinstance(each, str) for each in read.values()):
        raise ValueError(f"{path}: expected a JSON object of texts named {', '.join(sorted(wanted))}; copy it again")
    return read


def _difference_in(folder: Path) -> dict[str, Tensor]:
    path = folder / DIFFERENCE
    try:
        return load_file(path)
    except FileNotFoundError:
        raise ValueError(f"{folder} is not a whole model: {DIFFERENCE} is missing; copy it again") from None
    except SafetensorError as error:
        with path.open("rb") as file:
            pointer = file.read(7) == b"version"  # as the text that git-LFS leaves in place of a file
        remedy = "it is a pointer of git-LFS: git lfs pull" if pointer else "copy it again"
        raise ValueError(f"{path} is broken: {error}; {remedy}") from None


def _fingerprint(folder: Path) -> str:
    """Return a checksum of the names and contents of all files: each of them has its part in the whole model."""
    files = {path.relative_to(folder).as_posix(): checksum(path) for path in folder.rglob("*") if path.is_file()}
    return hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()


def _difference(name: str, tensor: Tensor, base: Tensor | None) -> dict[str, Tensor]:
    if base is None:
        return {name: tensor}
    base = base.to(tensor.dtype)
    if tensor.ndim == 2 and len(tensor) > len(base) and torch.equal(tensor[: len(base)], base):
        return {f"{name}.rows": tensor[len(base) :]}
    if tensor.shape == base.shape and torch.equal(tensor, base):
        return {}
    if tensor.ndim != 2 or tensor.shape != base.shape:
        return {name: tensor}
    left, sizes, right = torch.linalg.svd(tensor - base, full_matrices=False)
    tails = sizes.square().flip(0).cumsum(0).flip(0).sqrt()  # what is left out by a rank of 0, 1, 2 ...
    rank = int((tails > LEFT_OUT * tails[0]).sum())
    if rank * sum(tensor.shape) >= tensor.numel():
        return {name: tensor}
    return {f"{name}.up": left[:, :rank] * sizes[:rank], f"{name}.down": right[:rank]}


def _sum(base: Mapping[str, Tensor], difference: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return all tensors of the model, in float32."""
    tensors = {name: tensor.float() for name, tensor in {**base, **difference}.items()}
    for name in base:
        if f"{name}.up" in tensors:
            tensors[name] = tensors[name] + tensors.pop(f"{name}.up") @ tensors.pop(f"{name}.down")
        elif f"{name}.rows" in tensors:
            tensors[name] = torch.cat([tensors[name], tensors.pop(f"{name}.rows")])
    return tensors


def _weights(folder: Path) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for path in sorted(folder.glob("*.safetensors")):
        tensors |= load_file(path)
    return tensors
