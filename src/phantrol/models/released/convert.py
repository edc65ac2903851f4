"""`convert` makes a phantrol model of a folder in the official layout; `load_official` opens one in memory."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import init_empty_weights
from safetensors.torch import save_file
from torch import Tensor

from phantrol.folder_beside import folder_beside
from phantrol.models.configuration import PhantrolConfig
from phantrol.models.modeling import PhantrolForConditionalGeneration
from phantrol.models.processing import PhantrolProcessor
from phantrol.models.released.card import model_card
from phantrol.models.released.layout import UNKNOWN_TOKEN, Layout, read_layout
from phantrol.models.released.mapping import ONE_GATE, Plan, plan
from phantrol.models.released.processor import no_tokens, released_generation, released_processor
from phantrol.models.released.source import WEIGHTS, Source, find_source, public_name

SHARD_BYTES = 4 * 10**9
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


@dataclass(frozen=True)
class Conversion:
    """What was done. notes: one line each on what a reader should know of the gates, of what was dropped, of sizes that
    config.json has wrong, and of weights that are no numbers."""

    out: Path
    layout: Layout
    dtype: torch.dtype
    num_tensors: int
    num_bytes: int
    notes: tuple[str, ...]


@torch.no_grad()
def convert(
    source: str | Path, out: str | Path, per_layer_gates: bool = False, shard_bytes: int = SHARD_BYTES
) -> Conversion:
    """Write the phantrol model of a released one: weights, configuration, processor, generation settings, model card.

    source  a folder in the official layout, a hub id, or the name of a release;  out  a folder that does not exist yet
    per_layer_gates  keep each entry of trol_gating.pt, where the released loader leaves the last one in all layers
    Tensors keep their dtype, and one shard of the result at most is held in memory. `out` appears when it is whole.
    Raises ValueError naming the file or tensor if the source is no released model, or not whole, and for an `out` that
    is in use or cannot be made; then nothing is left. SIGTERM and SIGHUP leave nothing either.
    """
    out = Path(out)
    if os.path.lexists(out):
        raise ValueError(f"{out} exists: expected the name of a folder that does not, or remove it first")
    files = Source(find_source(source))
    layout = read_layout(files.config, files.shapes, per_layer_gates)
    todo = plan(layout, files.shapes)
    _check_dtypes(files, todo)
    config = layout.config
    processor = released_processor(files.folder, layout.family, layout.backbone, config)
    notes = _notes(files, layout, todo, processor)
    _settle_image_token(config, processor)
    config.architectures, config.dtype = [PhantrolForConditionalGeneration.__name__], files.dtype
    no_numbers: list[str] = []
    with folder_beside(out) as unfinished:
        num_tensors, num_bytes = write_shards(_converted(files, todo, no_numbers), unfinished, shard_bytes)
        if no_numbers:
            notes += (f"{_some(no_numbers)}: NaN or infinite in part, answers may mean nothing; download again",)
        config.save_pretrained(unfinished)
        processor.save_pretrained(unfinished)
        released_generation(layout.family, layout.backbone, processor, config).save_pretrained(unfinished)
        (unfinished / "README.md").write_text(model_card(public_name(source), out.name, layout, notes), "utf-8")
        os.rename(unfinished, out)
    return Conversion(out, layout, files.dtype, num_tensors, num_bytes, notes)


@torch.no_grad()
def load_official(
    folder: str | Path,
    dtype: torch.dtype | None = None,
    need_vision: bool = True,
    per_layer_gates: bool = False,
    weights: Sequence[str] = WEIGHTS,
) -> PhantrolForConditionalGeneration:
    """Return the model of a folder in the official layout, in eval mode.

    dtype        by default that of the folder's weights
    need_vision  False lets a vision tower be missing: it is then on the meta device, and refuses to compute
    weights      names of the file to read, as for `Source`
    Raises ValueError as `convert` does.
    """
    source = Source(Path(folder), weights)
    layout = read_layout(source.config, source.shapes, per_layer_gates)
    todo = plan(layout, source.shapes, need_vision)
    _check_dtypes(source, todo)
    with init_empty_weights(include_buffers=False):
        model = PhantrolForConditionalGeneration(layout.config)
    tensors = {name: tensor.to(dtype or source.dtype) for name, tensor in _converted(source, todo)}
    model.load_state_dict(tensors, strict=False, assign=True)  # `plan` has held the names against each other
    model.tie_weights()
    return model.eval()


def write_shards(tensors: Iterable[tuple[str, Tensor]], folder: Path, shard_bytes: int) -> tuple[int, int]:
    """Write safetensors of at most `shard_bytes` each (a larger tensor has one of its own), and their index.

    The names are those that `from_pretrained` looks for. Returns how many tensors and bytes were written.
    """
    shards: list[list[str]] = []
    held: dict[str, Tensor] = {}
    room = total = 0

    def write() -> None:
        nonlocal room
        save_file(held, folder / f"{len(shards)}.part", metadata={"format": "pt"})
        shards.append(list(held))
        held.clear()
        room = shard_bytes

    room = shard_bytes
    for name, tensor in tensors:
        if held and tensor.nbytes > room:
            write()
        held[name] = tensor
        room -= tensor.nbytes
        total += tensor.nbytes
    write()
    names = [f"model-{i:05d}-of-{len(shards):05d}.safetensors" for i in range(1, len(shards) + 1)]
    if len(shards) == 1:
        names = ["model.safetensors"]
    else:
        weight_map = {name: file for file, shard in zip(names, shards, strict=True) for name in shard}
        index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n", "utf-8")
    for i, name in enumerate(names):
        (folder / f"{i}.part").chmod(0o644)
        os.rename(folder / f"{i}.part", folder / name)
    return sum(map(len, shards)), total


def _check_dtypes(source: Source, todo: Plan) -> None:
    """Integers among the weights are those of a quantised checkpoint, which says nothing without its scales."""
    for move in todo.moves:
        if source.dtypes[move.source] not in FLOATS:
            raise ValueError(
                f"{move.source} is of {source.dtypes[move.source]}: expected {', '.join(map(str, FLOATS))}, as released"
            )


def _converted(source: Source, todo: Plan, no_numbers: list[str] | None = None) -> Iterator[tuple[str, Tensor]]:
    """no_numbers: takes the official names of tensors that are NaN or infinite somewhere, once all are out."""
    for move in todo.moves:
        tensor = source.read(move.source)
        if no_numbers is not None and not tensor.isfinite().all():
            no_numbers.append(move.source)
        yield from move.apply(tensor).items()


def _some(names: list[str]) -> str:
    return names[0] + (f" and {len(names) - 1} more" if len(names) > 1 else "")


def _settle_image_token(config: PhantrolConfig, processor: PhantrolProcessor) -> None:
    if config.image_token_id == UNKNOWN_TOKEN:
        config.image_token_id = processor.image_token_id
    elif config.image_token_id != processor.image_token_id:
        raise ValueError(
            f"the image token is {config.image_token_id} in the weights' configuration and {processor.image_token_id} "
            "in the tokenizer: expected the tokenizer files of the same checkpoint"
        )


def _notes(source: Source, layout: Layout, todo: Plan, processor: PhantrolProcessor) -> tuple[str, ...]:
    """One line on gates, sizes that the tensors have otherwise, a head that might be tied, ends that are no tokens, and
    per reason for what was dropped."""
    notes, by_reason, gates = [], {}, _count_gates(source)
    for name, reason in todo.dropped.items():
        by_reason.setdefault(reason, []).append(name)
    if gates == 1 and by_reason.pop(ONE_GATE, None):
        notes.append("the entries of trol_gating are equal: one gate serves all layers")
    for reason, names in by_reason.items():
        notes.append(f"dropped {_some(names)}: {reason}")
    kinds = sorted({str(source.dtypes[move.source]).removeprefix("torch.") for move in todo.moves})
    if len(kinds) > 1:
        loaded = str(source.dtype).removeprefix("torch.")
        notes.append(
            f"its tensors are {' and '.join(kinds)}, as they were, and loaded as {loaded}; `--weights` of ask, chat, "
            "eval and serve chooses"
        )
    llm = source.config.get("llm_config") or source.config
    for name in ("hidden_size", "intermediate_size", "num_key_value_heads", "vocab_size"):
        said, found = llm.get(name), getattr(layout.text, name)
        if said not in (None, found):
            notes.append(f"config.json says {name} {said!r}, the tensors {found}: theirs is taken")
    if llm.get("tie_word_embeddings") and not layout.tied:
        notes.append(f"config.json ties the head to the embeddings, but the released {layout.backbone} keeps its own")
    if ends := no_tokens(layout.family, layout.config, processor.tokenizer):
        named = f"config.json names end-of-sequence {', '.join(map(str, ends))}"
        notes.append(f"{named}, which is no token: the tokenizer's {processor.tokenizer.eos_token} is taken")
    if gates > 1:
        kept = "each layer keeps its own" if layout.per_layer_gates else "the last one serves every layer"
        notes.insert(0, f"the gates of the {layout.text.num_hidden_layers} layers are {gates} different ones: {kept}")
    return tuple(notes)


def _count_gates(source: Source) -> int:
    """How many different gates there are among those that the released loader takes."""
    names = [name for name in source.shapes if "trol_gating" in name]
    loaded = [name for name in names if ".pt/" in name] or names
    entries: dict[str, list[tuple[str, list[float]]]] = {}
    for name in loaded:  # one that is not loaded may be in pieces
        gate, _, part = name.rpartition(".")
        entries.setdefault(gate, []).append((part, source.read(name).flatten().tolist()))
    return len({repr(sorted(parts)) for parts in entries.values()})
