"""A folder in the official layout, read tensor by tensor: safetensors or pickled shards, and TroL's trol_gating.pt.

Pickles are read as data alone (`weights_only`): one that holds code is refused. Files are mapped into memory and mapped
anew after every GiB, so that pages already read do not add up; only what PyTorch saved before 1.6 is read whole.
"""

from __future__ import annotations

import json
import pickle
import pickletools
import re
import warnings
import zipfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from phantrol.models.released.catalogue import release_named
from phantrol.models.released.layout import GATE_FILE
from phantrol.models.released.parts import Shape
from phantrol.tables import first_line

# in the order of transformers: whole before shards, safetensors before pickles, whatever else was left there
WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "weights.safetensors")
WEIGHTS += ("pytorch_model.bin", "pytorch_model.bin.index.json")
WANTED = ["*.json", "*.safetensors", "*.bin", "*.pt", "*.model", "*.txt"]
REMAP_BYTES = 2**30


def find_source(source: str | Path) -> Path:
    """Return the folder, or download the hub repository of that name, `owner/name`, and return where it lies.

    A release may be named without its owner. Raises ValueError if there is neither.
    """
    path, source = Path(source), public_name(source)
    if path.is_dir():
        return path
    if path.is_file() or not re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", source):
        raise ValueError(
            f"no folder {source}: expected one in the official layout, or a hub id such as BK-Lee/TroL-1.8B"
        )
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(source, allow_patterns=_wanted(source)))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise ValueError(
            f"no folder {source}, and the hub gives no repository of that name: {first_line(error)}"
        ) from None


def public_name(source: str | Path) -> str:
    """Return a hub id, or the folder's own name: where it lies on this machine is nobody's business."""
    if Path(source).is_dir():
        return Path(source).absolute().name
    release = release_named(str(source))
    return release.hub_id if release else str(source)


def _wanted(repository: str) -> list[str]:
    """Patterns of the files to download: weights in one form, if the hub can be asked which there are."""
    from huggingface_hub import list_repo_files
    from huggingface_hub.errors import HfHubHTTPError

    try:
        names = list_repo_files(repository)
    except (HfHubHTTPError, OSError):  # offline: what is in the cache will do
        return WANTED
    twice = any(name.endswith(".safetensors") for name in names)
    return [pattern for pattern in WANTED if not (twice and pattern == "*.bin")]


class Source:
    """config, shapes and dtypes of a folder's tensors by official names; `read` returns one of them.

    weights  names of files of weights or of their indices: the first that is there is taken
    Raises ValueError naming the file that is missing, broken, or holds what it must not.
    """

    def __init__(self, folder: Path, weights: Sequence[str] = WEIGHTS):
        self.folder = folder
        self.config = _read_json(folder / "config.json")
        self.shapes: dict[str, Shape] = {}
        self.dtypes: dict[str, torch.dtype] = {}
        self._files: dict[str, Path] = {}
        self._mapped: tuple[Path, Mapping[str, Tensor]] | None = None
        self._bytes_read = 0
        for path, promised in _weight_files(folder, weights).items():
            self._enter(path, promised)
        if (folder / GATE_FILE).is_file():
            self._enter(folder / GATE_FILE, (), f"{GATE_FILE}/")

    @property
    def dtype(self) -> torch.dtype:
        """That of most numbers."""
        counts: Counter[torch.dtype] = Counter()
        for name, dtype in self.dtypes.items():
            if dtype.is_floating_point:
                counts[dtype] += torch.Size(self.shapes[name]).numel()
        if not counts:
            raise ValueError(
                f"{self.folder} holds whole numbers alone: expected weights as released, in floating point"
            )
        return counts.most_common(1)[0][0]

    def read(self, name: str) -> Tensor:
        """Return a tensor that lies in a mapped file: copy it, and let it go."""
        path = self._files[name]
        if self._mapped is None or self._mapped[0] != path or self._bytes_read > REMAP_BYTES:
            self._mapped, self._bytes_read = None, 0
            self._mapped = path, _open(path)
        tensor = self._mapped[1][name.removeprefix(f"{GATE_FILE}/")]
        self._bytes_read += tensor.nbytes
        return tensor

    def _enter(self, path: Path, promised: tuple[str, ...], prefix: str = "") -> None:
        tensors = _open(path)
        for name in promised:
            if name not in tensors:
                raise ValueError(
                    f"{path} holds no {name}, which the index of {self.folder} expects there: copy it again"
                )
        for name in tensors:
            shape, dtype = tensors.kind(name) if isinstance(tensors, _Safetensors) else _kind(path, name, tensors[name])
            if prefix + name in self._files:
                raise ValueError(f"{name} is in both {self._files[prefix + name].name} and {path.name}: expected one")
            self.shapes[prefix + name], self.dtypes[prefix + name], self._files[prefix + name] = shape, dtype, path


class _Safetensors(Mapping):
    def __init__(self, path: Path):
        self._file = safe_open(path, "pt")
        self._names = dict.fromkeys(self._file.keys())

    def __getitem__(self, name: str) -> Tensor:
        return self._file.get_tensor(name)

    def __iter__(self) -> Any:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def kind(self, name: str) -> tuple[Shape, torch.dtype]:
        """Shape and dtype, read from the header alone."""
        part = self._file.get_slice(name)
        return tuple(part.get_shape()), DTYPES.get(part.get_dtype(), torch.uint8)


DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64}
DTYPES |= {"I32": torch.int32, "I8": torch.int8, "BOOL": torch.bool, "F8_E4M3": torch.float8_e4m3fn}


def _open(path: Path) -> Mapping[str, Tensor]:
    if path.suffix == ".safetensors":
        try:
            return _Safetensors(path)
        except (SafetensorError, OSError) as error:
            raise ValueError(f"{path} is broken or not whole: {first_line(error)}; copy it again") from None
    try:
        with warnings.catch_warnings():  # of pickles that it refuses anyway
            warnings.simplefilter("ignore", UserWarning)
            # only a zip can be mapped: told to map anything else, torch complains of that rather than of code in it
            tensors = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        told = re.search(r"GLOBAL (\S+)", str(error))
        code = told[1] if told else _first_code(path)
        with path.open("rb") as file:
            begins = file.read(64).lstrip()
        if begins.startswith((b"<", b"version https://git-lfs")):
            raise ValueError(
                f"{path} is a page or a pointer of git-lfs, not the weights: download it again, or git lfs pull"
            ) from None
        what = f"wants to run {code}" if code else "is no plain table of tensors"
        raise ValueError(
            f"{path} is a pickle that {what}: refused, since only tensors are read; ask for safetensors"
        ) from None
    except MemoryError:
        raise
    except Exception as error:  # a damaged pickle makes its reader raise whatever it runs into
        raise ValueError(f"{path} is broken or not whole: {first_line(error)}; copy it again") from None
    if not isinstance(tensors, Mapping):
        raise ValueError(f"{path} holds a {type(tensors).__name__}: expected a table of tensors")
    return tensors


def _first_code(path: Path) -> str:
    """The first name that a bare pickle looks up, of a protocol that torch does not read; it is not run. Or nothing."""
    words: list[str] = []
    try:
        with path.open("rb") as file:
            for opcode, argument, _ in pickletools.genops(file):
                if opcode.name == "GLOBAL":  # of protocols up to 3, where it stands as one word
                    return argument.replace(" ", ".")
                if opcode.name == "STACK_GLOBAL":
                    return ".".join(words[-2:])
                words += [argument] if isinstance(argument, str) else []
    except ValueError:
        pass
    return ""


def _kind(path: Path, name: Any, tensor: Any) -> tuple[Shape, torch.dtype]:
    if not isinstance(name, str) or not isinstance(tensor, Tensor):
        raise ValueError(f"{path} holds {name!r}, a {type(tensor).__name__}: expected tensors and their names alone")
    if tensor.layout != torch.strided or tensor.is_meta:
        what = "without data" if tensor.is_meta else f"of layout {tensor.layout}"
        raise ValueError(f"{path} holds {name!r}, a tensor {what}: expected its numbers one by one, as released")
    return tuple(tensor.shape), tensor.dtype


def _weight_files(folder: Path, weights: Sequence[str]) -> dict[Path, tuple[str, ...]]:
    """Return the files, each with the names that an index promises in it."""
    found = next((name for name in weights if (folder / name).is_file()), None)
    if found is None:
        shards = sorted(path.name for path in folder.glob("*-of-*") if path.suffix in (".safetensors", ".bin"))
        without = f", though shards such as {shards[0]} are there: download their index too" if shards else ""
        raise ValueError(f"no weights in {folder}: expected {' or '.join(weights)}{without}")
    if not found.endswith(".json"):
        return {folder / found: ()}
    table = _read_json(folder / found).get("weight_map")
    if not isinstance(table, dict) or not table:
        raise ValueError(f"{folder / found} names no weight_map: expected the index of sharded weights")
    files: dict[str, list[str]] = {}
    for name, file in table.items():
        files.setdefault(str(file), []).append(name)
    for file in sorted(files):
        if Path(file).name != file or not (folder / file).is_file():
            raise ValueError(f"shard {file} is missing in {folder}, though {found} names it: download it too")
    return {folder / file: tuple(files[file]) for file in sorted(files)}


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ValueError(f"no {path.name} in {path.parent}: expected a folder in the official layout")
    try:
        table = json.loads(path.read_text("utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is broken: {first_line(error)}") from None
    if not isinstance(table, dict):
        raise ValueError(f"{path} holds a {type(table).__name__}: expected a JSON object")
    return table
