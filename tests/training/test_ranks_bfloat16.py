"""Two ranks in bfloat16 are one with twice the accumulation, as in float32 and within bfloat16's rounding."""

from __future__ import annotations

from dataclasses import replace

import pytest
from rank_processes import count_for_themselves, needs_deepspeed, needs_fork, on_ranks, same_curve

from phantrol.training.recipe import Recipe
from phantrol.training.run import run

pytestmark = [needs_fork, pytest.mark.usefixtures("deepspeed_imported")]
REL = 3e-5  # of a loss; a number in bfloat16 is known to 4e-3, and float32 gives other losses by 8e-5


@pytest.fixture(scope="module")
def rounded(two_stages):
    """One stage, in which everything is trained."""

    def recipe(ranks: int, sharding: str = "none", precision: str = "bfloat16") -> Recipe:
        whole = two_stages(ranks, sharding)
        return replace(whole, stages=(replace(whole.stages[1], precision=precision),))

    return recipe


@pytest.fixture(scope="module")
def alone(rounded, metrics, tmp_path_factory) -> list[dict]:
    out = tmp_path_factory.mktemp("alone") / "run"
    on_ranks(0, lambda: run(rounded(1), out))
    return metrics(out)


@pytest.mark.parametrize("sharding", ["none", "fsdp", pytest.param("zero3", marks=needs_deepspeed)])
def test_two_ranks_are_one_with_twice_the_accumulation(alone, rounded, metrics, tmp_path, sharding):
    on_ranks(2, lambda: run(rounded(2, sharding), tmp_path / "run"))
    same_curve(alone, metrics(tmp_path / "run"), REL)
    assert abs(alone[1]["loss"] - alone[0]["loss"]) > 10 * REL * alone[0]["loss"]  # steps differ by far more than ranks


def test_another_precision_is_noticed(alone, rounded, metrics, tmp_path):
    """The comparison tells bfloat16 from float32: ranks of which one forgot it would fail."""
    on_ranks(0, lambda: run(rounded(1, precision="float32"), tmp_path / "run"))
    with pytest.raises(AssertionError):
        same_curve(alone, metrics(tmp_path / "run"), REL)


def test_a_rank_that_counts_for_itself_is_noticed(alone, rounded, metrics, tmp_path, monkeypatch):
    count_for_themselves(monkeypatch)
    on_ranks(2, lambda: run(rounded(2), tmp_path / "run"))
    with pytest.raises(AssertionError):
        same_curve(alone, metrics(tmp_path / "run"), 10 * REL)
