"""`verify(folder)`: does phantrol compute what was recorded of a released model?

A folder holds config.json, weights.safetensors under the official names, and io.safetensors: what went in and what
came out.
"""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from phantrol.models.released.convert import load_official
from phantrol.models.released.recorded_names import RULES, NotCompared, Pair, pair_of
from phantrol.models.released.replay import Replay

TOLERANCE = 2e-5
# Of the largest number of a layer: ten times what float32 takes phantrol from float64 in the recordings at hand. What
# is farther off is a fault that shows in float32 alone.
LARGEST_ROUNDING = 5e-5
WEIGHTS = "weights.safetensors"
FILES = ("config.json", WEIGHTS, "io.safetensors")
INPUTS = ("input_ids", "attention_mask", "pixel_values")


@dataclasses.dataclass(frozen=True)
class Comparison:
    """One tensor of io.safetensors.

    difference  the largest absolute one of all numbers compared, None if the tensor is an input or nobody's
    compared    how many numbers were; none is a miss
    is_rounding the difference is no larger than what float32 rounds to on this machine, and on that of the recording
    note        what else there is to say: where the largest difference is, or why nothing was compared
    is_telling  other weights would give other numbers: neither counted nor a choice of tokens
    """

    name: str
    shape: tuple[int, ...]
    difference: float | None
    compared: int = 0
    tolerance: float = TOLERANCE
    note: str = ""
    is_rounding: bool = False
    is_telling: bool = False

    @property
    def verdict(self) -> str:
        """ "ok", "rounds", "MISS", "input" or "not compared"."""
        if self.difference is None:
            return "not compared" if self.note else "input"
        # a difference that is no number is a miss too
        if self.compared and self.difference <= self.tolerance:
            return "ok"
        return "rounds" if self.is_rounding else "MISS"

    @property
    def missed_by_numbers(self) -> bool:
        return self.verdict == "MISS" and bool(self.compared) and self.tolerance > 0

    def __str__(self) -> str:
        difference = "" if self.difference is None else f"{self.difference:.1e}"
        return f"{self.name:34} {list(self.shape)!s:18} {difference:>8}  {self.verdict:6} {self.note}".rstrip()


def verify(folder: str | Path, dtype: torch.dtype = torch.float32) -> list[Comparison]:
    """Compare every tensor of a recorded folder with what phantrol gives, at tokens that are no padding.

    dtype  float32 as the recording: in float64 phantrol is nearer to the truth, and the recording is not. What misses
           in float32 is computed in float64 too, and agrees if it does so there: float32 was then what was off. It
           "rounds" if it is no farther from the recording than twice what float32 takes phantrol from float64 in that
           layer, and four times in that token: other processors add in another order, and both sides round. Neither
           excuses what is too far from float64 to be rounding, LARGEST_ROUNDING
    Raises ValueError if the folder is not whole, or not of a released model.
    """
    folder = Path(folder)
    io = _read(folder)
    replay = _replay(folder, io, dtype)
    names = sorted(io, key=lambda name: (_rank(name), name))
    found = [_compare(name, io[name], replay) for name in names]
    if dtype == torch.float32 and any(comparison.missed_by_numbers for comparison in found):
        found = _again(found, io, replay, _replay(folder, io, torch.float64))
    return found


def passed(comparisons: list[Comparison]) -> bool:
    """Return whether something that the weights compute was compared, and nothing missed."""
    return any(each.is_telling for each in comparisons) and not any(each.verdict == "MISS" for each in comparisons)


def summary(comparisons: list[Comparison]) -> str:
    """Return one line: how many tensors were compared, how many missed, how many nobody knows, and whether those that
    were compared say anything of the weights."""
    verdicts = [comparison.verdict for comparison in comparisons]
    agree, rounded, missed, unknown = (verdicts.count(each) for each in ("ok", "rounds", "MISS", "not compared"))
    told = f"{agree} of {agree + rounded + missed} tensors agree within {TOLERANCE:g}"
    told += f"; {rounded} but for what float32 rounds" if rounded else ""
    told += f"; {unknown} not compared" if unknown else ""
    is_told = any(comparison.is_telling for comparison in comparisons)
    return told + ("" if is_told else "; nothing that the weights compute was compared")


def _replay(folder: Path, io: dict[str, Tensor], dtype: torch.dtype) -> Replay:
    return Replay(load_official(folder, dtype, "pixel_values" in io, weights=(WEIGHTS,)), io)


def _again(found: list[Comparison], io: dict[str, Tensor], replay: Replay, exact: Replay) -> list[Comparison]:
    """Compute what missed in float64, and say how far float32 takes phantrol from itself: so much is rounding."""
    told = []
    for comparison in found:
        if comparison.missed_by_numbers:
            name = comparison.name
            pair, expected = _expected(name, io[name], replay)
            truth = pair_of(name, exact).ours
            rounding, off = _differences(pair, truth), _differences(pair, expected)
            largest_here = _by_layer(_compared(pair, truth.abs()), pair)
            if not (_by_layer(rounding, pair) <= LARGEST_ROUNDING * largest_here).all():
                note = f"float32 is {float(rounding.max()):.1e} from float64 here, too far for rounding"
                told.append(dataclasses.replace(comparison, note="; ".join(filter(None, [comparison.note, note]))))
                continue
            again, note = _compare(name, io[name], exact), f"float32 rounds by {float(rounding.max()):.1e}"
            is_rounding = all(
                bool((largest(off, pair) <= (times * largest(rounding, pair)).clamp(min=TOLERANCE)).all())
                for largest, times in ((_by_layer, 2), (_by_token, 4))
            )
            comparison = dataclasses.replace(comparison, is_rounding=is_rounding)
            if again.verdict == "ok":
                comparison, note = again, f"in float64; {comparison.difference:.1e} in float32, which {note[8:]}"
            comparison = dataclasses.replace(comparison, note="; ".join(filter(None, [comparison.note, note])))
        told.append(comparison)
    return told


def _read(folder: Path) -> dict[str, Tensor]:
    if not folder.is_dir():
        raise ValueError(f"no folder {folder}: expected one with {', '.join(FILES)}")
    for name in FILES:
        if not (folder / name).is_file():
            raise ValueError(f"{folder} holds no recording of a released model: no {name}; expected {', '.join(FILES)}")
    try:
        return load_file(folder / "io.safetensors")
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{folder / 'io.safetensors'} is broken: {error}; copy it again") from None


def _compare(name: str, recorded: Tensor, replay: Replay) -> Comparison:
    shape = tuple(recorded.shape)
    if name in INPUTS or (name == "image_features" and "pixel_values" not in replay.io):
        return Comparison(name, shape, None)
    try:
        pair, expected = _expected(name, recorded, replay)
    except NotCompared as why:
        return Comparison(name, shape, None, note=str(why))
    if pair.ours.shape != expected.shape:
        raise ValueError(
            f"{name} in io.safetensors is {list(shape)}, but this model gives {list(pair.ours.shape)}: expected the "
            "recording of this very model"
        )
    difference = _differences(pair, expected)
    worst = float(difference.max()) if difference.numel() else float("nan")
    note = pair.note if difference.numel() else "there is nothing to compare"
    tolerance, is_telling = 0.0 if pair.exact else TOLERANCE, pair.telling and not pair.exact
    return Comparison(name, shape, worst, difference.numel(), tolerance, note, is_telling=is_telling)


def _expected(name: str, recorded: Tensor, replay: Replay) -> tuple[Pair, Tensor]:
    pair = pair_of(name, replay)
    return pair, recorded if pair.expected is None else pair.expected


def _by_layer(difference: Tensor, pair: Pair) -> Tensor:
    """The largest difference of each layer, where a tensor holds those of several: one number for each of `lead`."""
    return difference.flatten(0, -1 - pair.lead).amax(0)


def _by_token(difference: Tensor, pair: Pair) -> Tensor:
    """The largest difference of each token and layer: a token that is large rounds far, and excuses no other."""
    return difference.amax(-1 - pair.lead)


def _differences(pair: Pair, expected: Tensor) -> Tensor:
    return _compared(pair, (pair.ours.double() - expected.double()).abs())


def _compared(pair: Pair, numbers: Tensor) -> Tensor:
    """Those of a pair's numbers that are compared, layers last."""
    if pair.where is None:
        return numbers
    lead = tuple(range(pair.lead))
    return numbers.movedim(lead, tuple(i - pair.lead for i in lead))[pair.where]


def _rank(name: str) -> int:
    """Where a tensor stands in the list: in the order in which a model computes them, unknown ones last."""
    patterns = [*map(re.escape, INPUTS), *RULES]
    return next((i for i, pattern in enumerate(patterns) if re.fullmatch(pattern, name)), len(patterns))
