"""Which tensor of a recording of a released model is what, and what phantrol gives for it.

Each rule is a name, as a pattern, and a function that returns a Pair or raises NotCompared. B rows, N tokens of the
prompt, S of the answer, T = N + S.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable

import torch
from torch import Tensor

from phantrol.models.released.replay import Replay, Variant

NO_ANSWER = "there are no decode_tokens to feed"


@dataclasses.dataclass(frozen=True)
class Pair:
    """What phantrol gives for a recorded tensor, and which of its numbers count.

    expected  in place of the recorded tensor itself
    where     True where numbers are compared: the leading dimensions of the tensor after `lead` others, None for all
    exact     numbers that are counted, not computed: any difference is a miss
    telling   False where other weights give the same too, as in a choice of tokens
    """

    ours: Tensor
    expected: Tensor | None = None
    where: Tensor | None = None
    lead: int = 0
    exact: bool = False
    telling: bool = True
    note: str = ""


class NotCompared(Exception):
    """A tensor that this model says nothing about, and why."""


def pair_of(name: str, replay: Replay) -> Pair:
    """Return what phantrol gives for a recorded name; raises NotCompared, which says why there is nothing."""
    for pattern, rule in RULES.items():
        found = re.fullmatch(pattern, name)
        if found:
            return rule(replay, *found.groups())
    raise NotCompared("no tensor of this name is known")


def _logits(replay: Replay, row: str | None, what: str, variant: str | None) -> Pair:
    if row is not None and int(row) >= len(replay.real):
        raise NotCompared(f"there is no row {row}")
    asked, note = _variant(replay, variant), ""
    answer = replay.answer(dataclasses.replace(asked, row=None if row is None else int(row)))
    where = None if row is not None or what == "decode" else replay.real
    if variant == "official_forward":
        where, note = replay.real.all(-1), "rows with padding are wrong in the original, and left out"
        if not where.any():
            raise NotCompared("every row has padding, and those are wrong in the original")
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
    note = "how far below the most likely token"
    return Pair(below, expected=torch.zeros_like(below), telling=False, note=note)


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
