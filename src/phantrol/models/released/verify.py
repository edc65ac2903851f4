"""`verify(folder)`: does phantrol compute what was recorded of a released model?

A folder holds config.json, weights.safetensors under the official names, and io.safetensors: what went in and what
came out. B rows, N tokens of the prompt, S of the answer, T = N + S.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from phantrol.models.released.convert import load_official
from phantrol.models.released.replay import Replay, Variant

TOLERANCE = 2e-5
FILES = ("config.json", "weights.safetensors", "io.safetensors")
INPUTS = ("input_ids", "attention_mask", "pixel_values")
NO_ANSWER = "there are no decode_tokens to feed"


@dataclasses.dataclass(frozen=True)
class Comparison:
    """One tensor of io.safetensors.

    difference  the largest absolute one of all numbers compared, None if the tensor is an input or nobody's
    compared    how many numbers were; none is a miss
    is_rounding the difference is no larger than what float32 rounds to on this machine, and on that of the recording
    note        what else there is to say: where the largest difference is, or why nothing was compared
    """

    name: str
    shape: tuple[int, ...]
    difference: float | None
    compared: int = 0
    tolerance: float = TOLERANCE
    note: str = ""
    is_rounding: bool = False

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


@dataclasses.dataclass(frozen=True)
class Pair:
    """What phantrol gives for a recorded tensor, and which of its numbers count.

    expected  in place of the recorded tensor itself
    where     True where numbers are compared: the leading dimensions of the tensor after `lead` others, None for all
    exact     numbers that are counted, not computed: any difference is a miss
    """

    ours: Tensor
    expected: Tensor | None = None
    where: Tensor | None = None
    lead: int = 0
    exact: bool = False
    note: str = ""


class NotCompared(Exception):
    """A tensor that this model says nothing about, and why."""


def verify(folder: str | Path, dtype: torch.dtype = torch.float32) -> list[Comparison]:
    """Compare every tensor of a recorded folder with what phantrol gives, at tokens that are no padding.

    dtype  float32 as the recording: in float64 phantrol is nearer to the truth, and the recording is not. What misses
           in float32 is computed in float64 too, and agrees if it does so there: float32 was then what was off. It
           "rounds" if it is no farther from the recording than twice what float32 takes phantrol from float64, layer by
           layer: other processors add in another order, and both sides round
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
    """Return whether something was compared and nothing missed."""
    verdicts = [comparison.verdict for comparison in comparisons]
    return bool({"ok", "rounds"} & {*verdicts}) and "MISS" not in verdicts


def summary(comparisons: list[Comparison]) -> str:
    """Return one line: how many tensors were compared, how many missed, how many nobody knows."""
    verdicts = [comparison.verdict for comparison in comparisons]
    agree, rounded, missed, unknown = (verdicts.count(each) for each in ("ok", "rounds", "MISS", "not compared"))
    told = f"{agree} of {agree + rounded + missed} tensors agree within {TOLERANCE:g}"
    told += f"; {rounded} but for what float32 rounds" if rounded else ""
    return told + (f"; {unknown} not compared" if unknown else "")


def _replay(folder: Path, io: dict[str, Tensor], dtype: torch.dtype) -> Replay:
    return Replay(load_official(folder, dtype=dtype, need_vision="pixel_values" in io), io)


def _again(found: list[Comparison], io: dict[str, Tensor], replay: Replay, exact: Replay) -> list[Comparison]:
    """Compute what missed in float64, and say how far float32 takes phantrol from itself: so much is rounding."""
    told = []
    for comparison in found:
        if comparison.missed_by_numbers:
            name = comparison.name
            pair, expected = _expected(name, io[name], replay)
            rounding = _by_layer(pair, _pair(name, exact).ours)
            again, note = _compare(name, io[name], exact), f"float32 rounds by {float(rounding.max()):.1e}"
            is_rounding = bool((_by_layer(pair, expected) <= (2 * rounding).clamp(min=TOLERANCE)).all())
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
    return Comparison(name, shape, worst, difference.numel(), 0.0 if pair.exact else TOLERANCE, note)


def _expected(name: str, recorded: Tensor, replay: Replay) -> tuple[Pair, Tensor]:
    pair = _pair(name, replay)
    return pair, recorded if pair.expected is None else pair.expected


def _by_layer(pair: Pair, expected: Tensor) -> Tensor:
    """The largest difference of each layer, where a tensor holds those of several: one number for each of `lead`."""
    difference = _differences(pair, expected)
    return difference.flatten(0, -1 - pair.lead).amax(0)


def _differences(pair: Pair, expected: Tensor) -> Tensor:
    difference = (pair.ours.double() - expected.double()).abs()
    if pair.where is None:
        return difference
    lead = tuple(range(pair.lead))
    return difference.movedim(lead, tuple(i - pair.lead for i in lead))[pair.where]


def _rank(name: str) -> int:
    """Where a tensor stands in the list: in the order in which a model computes them, unknown ones last."""
    patterns = [*map(re.escape, INPUTS), *RULES]
    return next((i for i, pattern in enumerate(patterns) if re.fullmatch(pattern, name)), len(patterns))


def _pair(name: str, replay: Replay) -> Pair:
    for pattern, rule in RULES.items():
        found = re.fullmatch(pattern, name)
        if found:
            return rule(replay, *found.groups())
    raise NotCompared("no tensor of this name is known")


# --- which recorded name means what; each function gives a Pair or raises NotCompared


def _logits(replay: Replay, row: str | None, what: str, variant: str | None) -> Pair:
    if row is not None and int(row) >= len(replay.real):
        raise NotCompared(f"there is no row {row}")
    asked, note = _variant(replay, variant), ""
    answer = replay.answer(dataclasses.replace(asked, row=None if row is None else int(row)))
    where = None if row is not None or what == "decode" else replay.real
    if variant == "official_forward":
        where, note = replay.real.all(-1), "rows with padding are wrong in the original, and left out"
    ours = answer.prefill_logits if what == "prefill" else answer.decode_logits
    if ours is None:
        raise NotCompared(NO_ANSWER)
    return Pair(ours, where=where, note=note)


def _variant(replay: Replay, name: str | None) -> Variant:
    if name is None or name == "official_forward":
        return Variant()
    eta = re.fullmatch(r"eta(\d+(?:\.\d+)?)(?:e-?(\d+))?", name)  # eta1e4 is η = 1e-4
    known = {
        "no_traversal": ("trol", Variant(traversal=False)),
        "no_plora": ("partial LoRA", Variant(lora=False)),
        "phantom_off": ("phantom", Variant(eta=0.0)),
    }
    if eta:
        known[name] = "phantom", Variant(eta=float(eta[1]) * 10.0 ** -int(eta[2] or 0))
    if name not in known:
        raise NotCompared(f"no variant is known as {name}")
    kind, variant = known[name]
    if not replay.has(kind):
        raise NotCompared(f"this model has no {kind}")
    return variant


def _cache(replay: Replay, kind: str, layer: str) -> Pair:
    cache = replay.answer(Variant()).cache
    if int(layer) >= len(cache):
        raise NotCompared(f"there is no layer {layer}")
    recorded = replay.io[f"cache_{kind}_layer{layer}"]
    if replay.tokens is None and recorded.ndim == 4 and recorded.shape[2] > replay.real.shape[1]:
        raise NotCompared(NO_ANSWER)
    keys, values = cache[int(layer)]
    ours = keys if kind == "key" else values  # [B, K, T, d]
    answer = torch.ones(len(ours), ours.shape[2] - replay.real.shape[1], dtype=torch.bool)
    return Pair(ours, where=torch.cat([replay.real, answer], dim=1)[:, None].expand(ours.shape[:3]))


def _sos(replay: Replay, layer: str, kind: str) -> Pair:
    """What layer 0 keeps of the first token of each row: [B, heads, d]."""
    if not replay.has("phantom"):
        raise NotCompared("this model has no phantom")
    if layer != "0":
        raise NotCompared("only layer 0 is watched")
    answer = replay.answer(Variant())
    states = answer.seen["queries"] if kind == "query" else answer.cache[0][kind == "value"]
    rows = torch.arange(len(states))
    ours = states[rows, :, answer.seen["anchor"]]
    recorded = replay.io[f"layer0_sos_{kind}"]
    if recorded.ndim == 3 and recorded.shape[1] % ours.shape[1] == 0:  # where heads were repeated before they were kept
        ours = ours.repeat_interleave(recorded.shape[1] // ours.shape[1], dim=1)
    return Pair(ours)


def _seen(replay: Replay, name: str) -> Pair:
    seen = replay.answer(Variant()).seen
    if name not in seen:
        raise NotCompared("there are no pixel_values to begin with")
    return Pair(seen[name])


def _anchor(replay: Replay) -> Pair:
    if not replay.has("phantom"):
        raise NotCompared("this model has no phantom")
    anchor = replay.answer(Variant()).seen["anchor"]
    return Pair(torch.nn.functional.one_hot(anchor, replay.real.shape[1]), exact=True)


def _choices(replay: Replay) -> Pair:
    """How far the logit of each recorded token is below the largest: the answer was chosen greedily."""
    answer = replay.answer(Variant())
    logits = torch.cat([answer.prefill_logits[:, -1:], answer.decode_logits[:, :-1]], dim=1)  # [B, S, V]
    below = logits.amax(-1) - logits.gather(-1, replay.tokens[..., None])[..., 0]
    return Pair(below, expected=torch.zeros_like(below), note="how far below the most likely token")


RULES: dict[str, Callable[..., Pair]] = {
    "position_ids": lambda replay: Pair(replay.answer(Variant()).seen["positions"], where=replay.real, exact=True),
    "im_mask": lambda replay: Pair(replay.is_image, exact=True),
    "phantom_position": _anchor,
    "vit_last_hidden_state": lambda replay: _seen(replay, "vision"),
    "image_features": lambda replay: _seen(replay, "features"),
    "projected_features": lambda replay: _seen(replay, "projected"),
    "layer([0-9]+)_sos_(query|key|value)": _sos,
    "hidden_states": lambda replay: Pair(replay.answer(Variant()).hidden_states, where=replay.real, lead=1),
    "decode_tokens": _choices,
    "(?:unpadded_row([0-9]+)_)?(prefill|decode)_logits(?:_(.+))?": _logits,
    "cache_(key|value)_layer([0-9]+)": _cache,
}
