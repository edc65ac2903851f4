"""Several sequences in one row, without blocks: told apart by their positions, or by a mask of four dimensions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from phantrol.modifiers import graft as graft_module

EXACT, BROKEN = 1e-10, 1e-3
LENGTHS = (6, 3, 8)
SETS = ("trol", "trol_prompt", "phantom", "phantom_drop", "phantom_anchors", "both")
SEEING_ANCHORS = ("phantom", "phantom_drop", "phantom_anchors", "both")
pytestmark = pytest.mark.usefixtures("float64_throughout", "no_grad")


def sequences(case: Any) -> list[Tensor]:
    """Three sequences [1, n] that begin with other tokens."""
    return [case.ids.roll(number, 0)[:1, number : number + length] for number, length in enumerate(LENGTHS)]


def positions() -> Tensor:
    return torch.cat([torch.arange(length) for length in LENGTHS])[None]


def mask() -> Tensor:
    """[1, 1, N, N], True where a token of the row sees one of its own sequence, up to itself."""
    return torch.block_diag(*(torch.ones(length, length).tril() for length in LENGTHS)).bool()[None, None]


def apart(case: Any, **told: Any) -> float:
    """How far the sequences of a row are from each of them alone."""
    parts = sequences(case)
    logits = case.model(torch.cat(parts, 1), position_ids=positions(), use_cache=False, **told).logits
    split = logits.split(LENGTHS, dim=1)
    return max(float((one - case.full(part)).abs().max()) for one, part in zip(split, parts, strict=True))


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("kind", ["llama", "mistral", "gemma3_text"])  # two of them with windows of 6 tokens
def test_positions_that_begin_again(build_case: Callable[[str, str], Any], kind: str, name: str):
    assert apart(build_case(kind, name)) < EXACT


@pytest.mark.parametrize("name", SEEING_ANCHORS)
def test_an_anchor_for_all_would_be_seen(
    build_case: Callable[[str, str], Any], name: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(graft_module, "blocks_of_positions", lambda *_: None)
    assert apart(build_case("llama", name)) > BROKEN


def test_positions_of_one_sequence_change_nothing(build_case: Callable[[str, str], Any]):
    case = build_case("llama", "both")
    later = case.model(case.ids, position_ids=torch.arange(11)[None], use_cache=False).logits
    assert float((later - case.full(case.ids)).abs().max()) < EXACT


def test_several_rows_of_several_sequences(build_case: Callable[[str, str], Any]):
    ids = torch.cat(sequences(build_case("llama", "phantom")), 1).repeat(2, 1)
    with pytest.raises(ValueError, match="several sequences to a row in a batch of 2 rows: expected one row"):
        build_case("llama", "phantom").model(ids, position_ids=positions(), use_cache=False)
    case = build_case("llama", "trol")
    logits = case.model(ids, position_ids=positions().repeat(2, 1), use_cache=False).logits
    assert float((logits[1:, 9:] - case.full(ids[:1, 9:])).abs().max()) < EXACT, "TroL remembers no anchor"


@pytest.mark.parametrize("name", SETS)
def test_a_mask_that_keeps_them_apart(build_case: Callable[[str, str], Any], name: str):
    case = build_case("llama", name)
    if name in SEEING_ANCHORS:
        with pytest.raises(ValueError, match="a row holds sequences that share fewer than the"):
            apart(case, attention_mask=mask())
    else:
        assert apart(case, attention_mask=mask()) < EXACT


@pytest.mark.parametrize("name", ["phantom", "both"])
@pytest.mark.parametrize("window", [None, 3])
def test_a_mask_of_one_padded_sequence(build_case: Callable[[str, str], Any], name: str, window: int | None):
    """A window hides the anchor from what is far, and from the padding behind the row; it is no other sequence."""
    case, length = build_case("llama", name), 8
    place = torch.arange(11)
    seen = (place[:, None] >= place) & (place < length)
    if window is not None:
        seen &= place[:, None] - place < window
    logits = case.model(case.ids, attention_mask=seen[None, None].expand(2, -1, -1, -1), use_cache=False).logits
    short = seen[None, None, :length, :length].expand(2, -1, -1, -1)
    alone = case.model(case.ids[:, :length], attention_mask=short, use_cache=False).logits
    assert float((logits[:, :length] - alone).abs().max()) < EXACT
